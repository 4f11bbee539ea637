"""The data of a run and the pure functions over it. No I/O."""
