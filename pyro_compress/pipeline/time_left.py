"""How long something will take, said where it is long."""

# seconds from which it is said
SAID_FROM = 120


def minutes_left(seconds: float) -> str:
    """'about 12 min left', or nothing."""
    return f"about {seconds / 60:.0f} min left" if seconds >= SAID_FROM else ""
