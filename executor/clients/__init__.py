"""Clients of the outside: AWS, and HTTP with egress control."""
