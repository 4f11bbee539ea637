"""Drawings of a plan: as text for a terminal, as Mermaid and as DOT. They are deterministic."""
