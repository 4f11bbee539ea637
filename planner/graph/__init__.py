"""The control-flow graph of steps and its structure: dominators, joins, concurrency, bounds of visits."""
