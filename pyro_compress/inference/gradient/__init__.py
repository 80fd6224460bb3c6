"""What every method that descends a gradient shares: the ELBO, the optimizer, a step."""
