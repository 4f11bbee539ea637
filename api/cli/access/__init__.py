"""Access of commands to runs: in a store, or over HTTP in a service. Both have one interface."""
