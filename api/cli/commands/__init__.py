"""The commands of `noetl`, one module for each."""
