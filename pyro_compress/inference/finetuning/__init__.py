"""Training on from a decision: values on their grid, and batch-norm statistics."""
