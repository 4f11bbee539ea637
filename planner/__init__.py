"""The compiler: playbook text in, a `Plan` or diagnostics out. No I/O."""

if __name__ == "planner":
    from noetl.checkout import alias_package

    alias_package(__name__)
