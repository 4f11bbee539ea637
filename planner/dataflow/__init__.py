"""Data-flow analyses over the graph of steps: which names have a value where.

Read the modules in this order:

1. `narrowing`: the accesses that one template requires, and the facts that follow from its value.
2. `correlation`: the tests of constant values that several guards share, or that definitions decide.
3. `fact_encoding`: numbers for all facts, and the text of the playbook as sets of facts.
4. `transfer`: the data types of the analysis: fact sets, the effects of steps, and the graph of their exits.
5. `step_effects`, with `infallible`: what a visit requires and adds, whatever holds before.
6. `solver`, with `sequential`: the facts that may and that must hold when a step is entered.
7. `unreachable` and `witness`: the results for checks, and a run that explains a missing fact.

`solver.analyse_assignment` calls them in this order. Each call returns a value that no later call changes:
`table = FactTable(program)`, `effects = step_effects(program, table)`, and
`solution = solve(program, table, effects)`.

`definitions` and `liveness` are smaller analyses that do not need the solver.

Example:
    ```yaml
    input: {large: boolean}
    steps:
      - {name: a, rule: [{case: "{{ large }}", run: [b]}, {case: default, run: [c]}]}
      - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [c]}]}
      - {name: c, run: [{action: log, message: "{{ x }}"}]}
    ```

    The fact "`x` is assigned" is in the gen set of the exit of `b`. Branches enter `c` from `a` without the
    fact and from `b` with it. So it is in the may set of `c`, but not in its must set. Step `c` requires it,
    so NP302 is reported, and the witness is the path a → c.

    With `if: "{{ large }}"` at the action of `c`, `c` requires only the clause "`x` is assigned, or `large`
    is false". The exit of `a` to `c` has the fact "`large` is false", which satisfies the clause. So the
    clause is in the must set of `c`, and nothing is reported.
"""
