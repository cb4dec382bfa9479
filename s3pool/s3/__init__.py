"""The S3 protocol; knows nothing of endpoints or threads."""
