"""Reasoning about guards: formulas, their satisfiability, and which values the cases of a rule cover.

Read the modules in this order:

1. `formulas`: a guard as a formula whose atoms test one term.
2. `value_classes`: the finite classes of values that the atoms of a rule distinguish.
3. `solver`: values for which formulas are true or false together, or the proof that there are none.
4. `coverage`: dead cases and uncovered values of a rule.
"""
