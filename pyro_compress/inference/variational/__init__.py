"""Variational inference: SVI, Bayes by Backprop, the estimators of their gradients."""
