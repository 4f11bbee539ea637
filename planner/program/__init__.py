"""The parsed playbook with its symbols, graph and template uses: the input of every check."""
