"""Due messages in SQS, and an in-memory queue with the same interface."""
