"""From a decision to the bytes."""
