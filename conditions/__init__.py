"""Conditions on the rows of a table, checked node by node before anything evaluates them."""
