"""The page of NoETL: `bundle` is what browsers load, and is made from `source` by `make ui`."""
