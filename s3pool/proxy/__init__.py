"""The pool behind one address: a strict HTTP/1.1 front for any S3 client."""
