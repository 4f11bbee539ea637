"""The service that HTTP routes and commands share."""
