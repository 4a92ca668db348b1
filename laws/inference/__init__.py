"""Noise, resampled and profile-likelihood intervals, and the compute-optimal allocation."""
