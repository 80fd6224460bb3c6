"""Modules read as plain architectures: one rule per operation, put in order of execution."""
