"""Who may use the admin API and the page: bearer tokens for programs, sessions for browsers.

In comes an ``Authorization`` header or a session cookie; out comes the name of the token's owner, or a refusal. Pure:
none of its files.
"""
