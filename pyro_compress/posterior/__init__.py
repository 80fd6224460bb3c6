"""What inference returns and all that analysis may see: moments, guides, draws, provenance; numpy alone."""
