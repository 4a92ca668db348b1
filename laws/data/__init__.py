"""What is fitted: tables of runs, learning curves, groups of equal compute, training FLOPs a token."""
