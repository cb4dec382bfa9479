"""Make the target like the source."""
