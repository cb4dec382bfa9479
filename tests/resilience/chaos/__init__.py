"""Random programs of commands under random faults, and an oracle that knows what must hold."""
