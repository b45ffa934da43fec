"""The web page: rendered on the server by Jinja2, kept live through the admin API's server-sent events.

In come a browser's requests and what the other rooms' ``views.py`` read; out go HTML, style and script. Pure:
``charts``.
"""
