"""What keeps a worker process running: lease renewal and logs."""
