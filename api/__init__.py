"""The ways in: HTTP, command line and the service they share."""
