"""Independent draws: importance and rejection sampling."""
