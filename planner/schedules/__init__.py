"""Schedules: the instants at which a trigger fires by itself."""
