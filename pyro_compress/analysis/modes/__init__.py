"""The moments of draws within one mode of a posterior whose hidden units may be renamed."""
