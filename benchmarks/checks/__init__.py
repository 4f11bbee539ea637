"""Measurement of the compiler's diagnostics against exhaustive execution."""
