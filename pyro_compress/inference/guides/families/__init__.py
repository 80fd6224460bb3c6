"""Guide families of latent sites: one object each, in the table of `registry.py`."""
