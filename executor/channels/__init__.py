"""Channels: the places to which notifications are sent, one type in each module."""
