"""What Markov chain methods share."""
