"""What to keep of every weight and how finely; what of the network is left then."""
