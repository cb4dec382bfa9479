"""HTTP over many endpoints; knows nothing of S3."""
