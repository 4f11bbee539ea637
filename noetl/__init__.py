"""NoETL: a compiler and a serverless executor for YAML playbooks.

An installed wheel holds the packages `planner`, `executor`, `api` and `infra` in this folder. In a checkout
they are folders next to this one, and `__path__` also names their parent. The reasons are in
docs/decisions/0008-import-names.md.
"""

import os

_FOLDER = os.path.dirname(os.path.abspath(__file__))

if not os.path.isdir(os.path.join(_FOLDER, "planner")):
    __path__.append(os.path.dirname(_FOLDER))
