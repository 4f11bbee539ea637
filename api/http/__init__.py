"""Requests, responses and problem documents of the HTTP interface."""
