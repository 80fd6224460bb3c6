"""The bytes of a file, which FORMAT.md explains and `decode` reads; numpy and the entropy coder alone."""
