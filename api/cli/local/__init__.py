"""Execution of local runs in this process, and observation of runs of other processes."""
