"""Secrets, their redaction, and the capabilities of a worker."""
