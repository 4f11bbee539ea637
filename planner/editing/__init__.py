"""Editing: what an editor shows while a person writes a playbook."""
