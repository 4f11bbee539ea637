"""`python -m noetl`: the command line, `noetl`."""

from noetl.api.cli import main

if __name__ == "__main__":
    main()
