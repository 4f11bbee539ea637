"""The program: a parsed playbook with its symbols, graph and template uses, which every check reads."""
