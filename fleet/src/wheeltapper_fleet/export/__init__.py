"""The portable export: the fleet's database becomes one SQLite file for people and their tools.

In comes the database, SQLite or PostgreSQL; out comes a file that Datasette or any SQLite tool opens, with records
instead of messages and without secrets. Pure: ``schema``.
"""
