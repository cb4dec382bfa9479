"""A fast S3 client and proxy for storage that is a cluster of nodes."""

__version__ = "0.1.0"
