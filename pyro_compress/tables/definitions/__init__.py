"""The tables, a file for each kind."""
