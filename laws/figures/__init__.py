"""Figures of a fit, a theme a file; ``laws.plots`` is their table."""
