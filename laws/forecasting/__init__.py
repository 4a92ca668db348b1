"""Rolling-origin backtests, weights of rival laws, predictions with intervals."""
