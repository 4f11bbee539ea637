"""What operators use: build recipes, checks and migrations. Nothing here is imported at run time."""
