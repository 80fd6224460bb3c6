"""Distributions of multiplicative gates and scales, each with the prior that it goes with and their KL."""
