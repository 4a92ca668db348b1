"""isoflop: from a config file to a scaling law with honest error bars."""
