"""The road from a declared prior to a measured file: fit, analyse, compress, evaluate on a run directory."""
