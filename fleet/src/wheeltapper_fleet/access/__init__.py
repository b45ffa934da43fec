"""Who may use the admin API and the page: bearer tokens for programs, sessions for browsers, and roles for both.

In comes an ``Authorization`` header or a session cookie; out comes the name of whoever it stands for with its roles, or
a refusal. Pure: ``permissions``, ``principal``, ``schemas``.
"""
