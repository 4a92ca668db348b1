"""Figures of fits: one style, PNG and SVG."""
