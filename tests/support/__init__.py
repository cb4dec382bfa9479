"""What the tests share: servers to talk to, clocks to turn, recorders to ask."""
