"""Checks of a playbook against the registered ones: those that it calls or awaits, and those that use it."""
