"""Sweeps that compare families of models."""
