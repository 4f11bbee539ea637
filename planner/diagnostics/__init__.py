"""Diagnostics: codes, findings with their spans, and their rendering."""
