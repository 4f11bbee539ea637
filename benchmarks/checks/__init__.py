"""The accuracy of the compiler, measured against exhaustive execution."""
