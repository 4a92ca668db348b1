"""From a law and a table to a certified point estimate."""
