"""Tools of operators: builds, checks of the template, migrations, and the reference of the language.

The packages that run playbooks do not import them.
"""

if __name__ == "infra":
    from noetl.checkout import alias_package

    alias_package(__name__)
