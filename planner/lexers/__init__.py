"""Lexers for the languages that templates write into: SQL, shell and URLs."""
