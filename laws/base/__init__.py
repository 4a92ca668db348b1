"""Ground layer: errors, float64 mode, numpy-or-JAX functions, JSON files."""
