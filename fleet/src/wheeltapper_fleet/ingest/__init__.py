"""The ingest: messages of devices come in from the broker; a commit, and then acknowledgements, go out.

It knows no table and no rule: each room applies its own kind of message. ``message.py`` is pure.
"""
