"""Transformations of gradients into updates that optax does not have, each of a paper: an idea a file."""
