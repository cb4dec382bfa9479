"""The configuration: its options, the places they are read from, and the values in effect."""
