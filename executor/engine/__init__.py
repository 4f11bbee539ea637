"""One invocation: load a claimed visit, perform its step, decide, and commit."""
