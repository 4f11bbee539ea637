"""Pictures of a plan: as text for a terminal, as Mermaid and as DOT. The same plan gives the same picture, always."""
