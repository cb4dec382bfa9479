"""The pool behind one address."""
