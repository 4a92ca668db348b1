"""From one config to many runs: design, plan, run, collect."""
