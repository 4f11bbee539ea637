"""The store in SQL that SQLite and Postgres share."""
