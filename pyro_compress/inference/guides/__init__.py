"""Approximate posteriors as Pyro guides, and the effect handlers that sample outputs, not weights."""
