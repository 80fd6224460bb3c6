"""What methods do with a Pyro model where nothing is set: the best normal guide, the highest mode."""
