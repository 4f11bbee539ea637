"""The executor of plans: each invocation executes one visit of a step."""

if __name__ == "executor":
    from noetl.checkout import alias_package

    alias_package(__name__)
