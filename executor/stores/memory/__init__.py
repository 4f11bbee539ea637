"""The store in memory: the smallest store, to read and to copy. Its runs are lost with the process.

Read it in this order: `state.py` says what a store holds and what makes a write atomic. `plans.py`, `keys.py`
and `registry.py` are parts without runs. `runs.py`, `branches.py` and `queue.py` hold the life of a run, and
`waits.py` the answers that it waits for. `maintenance.py` finds and repairs damage. `store.py` composes them.
"""
