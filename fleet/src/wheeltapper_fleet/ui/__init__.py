"""The web page: rendered on the server by Jinja2, kept live through the admin API's server-sent events.

``page.py`` has the overview and campaigns; ``cases.py``, ``device.py`` and ``sign_in.py`` the other pages;
``rendering.py`` what they share. In come a browser's requests and what the other rooms' ``views.py`` read; out go HTML,
style and script. Pure: ``charts``.
"""
