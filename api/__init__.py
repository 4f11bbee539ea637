"""The interfaces of NoETL: HTTP, the command line, and the service that they share."""

if __name__ == "api":
    from noetl.checkout import alias_package

    alias_package(__name__)
