"""A zoo of real clients: what each does directly is what it does through the proxy."""
