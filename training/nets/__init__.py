"""What networks of every family are built from: initial values, layers, attention, transformer blocks."""
