"""The checks, one module for each family.

`planner/compile.py` calls the function `check_NAME(program)` of each module NAME that has one.
"""
