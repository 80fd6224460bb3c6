"""What runs a decoded file, and what writes it for other programs."""
