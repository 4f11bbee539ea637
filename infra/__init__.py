"""What operators use: build recipes, checks and migrations. Nothing here is imported at run time."""

if __name__ == "infra":
    from noetl.checkout import alias_package

    alias_package(__name__)
