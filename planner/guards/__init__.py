"""Reasoning about guards: formulas, their satisfiability, and which values the cases of a rule cover."""
