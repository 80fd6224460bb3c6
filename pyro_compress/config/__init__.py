"""Objects from words: `module:factory`, and keyword options held against a dataclass."""
