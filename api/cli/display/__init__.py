"""What commands print: tables, progress and outcomes."""
