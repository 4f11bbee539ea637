"""From YAML text to models: reading, parsing, limits and errors of form."""
