"""A Python client of the admin API; the command line and the demo use it.

Method calls go in; HTTP requests go to a running fleet service, and plain dicts and lists come out. Pure: none of its
files.
"""
