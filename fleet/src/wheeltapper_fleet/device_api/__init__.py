"""The HTTPS API of devices: enrolment requests and recordings come in; certificates, TUF metadata and blobs go out.

The room only carries: it authenticates devices by their TLS certificate and calls the other rooms' services. Pure:
``rate_limit``.
"""
