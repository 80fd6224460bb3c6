"""Markov chains that keep the posterior: Metropolis, HMC, NUTS; and Metropolis on part of the data."""
