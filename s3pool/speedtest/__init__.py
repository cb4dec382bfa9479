"""How fast the pool is: loads, what was measured, and which node stands out."""
