"""A listing by many requests at once, each for its own range of keys."""
