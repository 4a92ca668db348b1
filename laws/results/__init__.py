"""The whole analysis of a table under a law, and the object that holds it."""
