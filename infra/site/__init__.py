"""The documentation site: the hooks of MkDocs, and what they need."""
