"""CPU work of requests, in processes of its own: compilation, graphs, and the data of a new run."""
