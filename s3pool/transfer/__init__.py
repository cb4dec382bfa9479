"""Bytes between disk and S3."""
