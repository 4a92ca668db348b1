"""Approaches 1 and 2 to compute-optimal sizes: the envelope of learning curves, and iso-FLOP profiles."""
