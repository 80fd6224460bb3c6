"""One value per parameter: MAP, dropout."""
