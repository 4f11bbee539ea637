"""The ways in: HTTP, command line and the service they share."""

if __name__ == "api":
    from noetl.checkout import alias_package

    alias_package(__name__)
