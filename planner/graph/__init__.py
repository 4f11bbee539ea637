"""The control-flow graph and its analyses: dominators, joins, concurrency and visit bounds."""
