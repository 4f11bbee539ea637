"""Syntax of playbooks: the YAML reader, the parser, size limits and schema errors."""
