"""Helpers for the tests of packages that extend NoETL. Nothing of the product imports them."""
