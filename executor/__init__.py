"""The executor: walks a `Plan`, one step per invocation."""
