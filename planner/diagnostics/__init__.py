"""Diagnostics: codes, messages with their place in the text, and how they are printed."""
