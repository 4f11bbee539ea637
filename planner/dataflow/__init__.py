"""Data-flow analyses over the graph of steps: which names have a value where."""
