"""Whether to believe a posterior: summaries, flags, what ArviZ takes."""
