"""Output of the commands: tables, progress and outcomes."""
