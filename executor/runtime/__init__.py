"""Services of a worker process: lease renewal and logs."""
