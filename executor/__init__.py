"""The executor: walks a `Plan`, one step per invocation."""

if __name__ == "executor":
    from noetl.checkout import alias_package

    alias_package(__name__)
