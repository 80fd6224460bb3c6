"""From draws to a posterior, and what a posterior predicts."""
