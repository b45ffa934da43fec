"""The admin API, ``/api/v1/…``: HTTP requests come in, JSON and live events go out.

The room only carries: it reads through the other rooms' ``views.py`` and changes through their services, and knows no
SQL and no rule of its own. Pure: ``schemas``.
"""
