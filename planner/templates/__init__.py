"""Templates: parsing, the sandbox, evaluation and its budget."""
