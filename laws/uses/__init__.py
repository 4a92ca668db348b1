"""What is done with a fit: comparison, design of runs, frozen forecasts and their scores, cost of serving."""
