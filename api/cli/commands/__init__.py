"""The commands of `noetl`, one a file."""
