"""The base class of every error that the fleet service raises.

Invariant: every error carries a stable dotted code that programs may compare, and the HTTP status with which the APIs
answer. Unless it is given, the status follows from the code (:data:`_STATUS`).

Example:
    >>> raise FleetError("device.not_found", "there is no device 'press-9'")
"""

from __future__ import annotations

from typing import Final

__all__ = ["FleetError"]

_DEFAULT_STATUS: Final = 400
_STATUS: Final[dict[str, int]] = {
    "api.bad_request": 400,
    "api.forbidden": 403,
    "api.not_found": 404,
    "api.rate_limited": 429,
    "api.too_large": 413,
    "api.unauthorized": 401,
    "blob.not_found": 404,
    "blob.hash": 409,
    "blob.too_large": 413,
    "campaign.not_found": 404,
    "default.not_found": 404,
    "capture.device_mismatch": 403,
    "capture.not_found": 404,
    "capture.too_large": 413,
    "capture.command_unknown": 404,
    "capture.conflict": 409,
    "capture.changed": 409,
    "capture.offset": 409,
    "capture.too_many": 429,
    "device.not_found": 404,
    "device.revoked": 403,
    "device.unknown": 403,
    "enrol.cn_mismatch": 403,
    "enrol.csr_invalid": 400,
    "enrol.device_exists": 409,
    "enrol.token_expired": 403,
    "enrol.token_unknown": 403,
    "enrol.token_used": 403,
    "keys.exists": 409,
    "release.exists": 409,
    "release.model_unknown": 404,
    "release.not_found": 404,
    "release.number": 409,
    "tuf.not_found": 404,
}


class FleetError(Exception):
    """A request that the fleet service refuses, or an operation that failed.

    Args:
        code: stable dotted code, e.g. ``enrol.token_used``. Its meaning never changes between versions.
        message: what is wrong and what to do about it, for a person. It never contains a secret.
        status: the HTTP status; by default the one listed for ``code``, or 400 for a code that is not listed.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.status: int = _STATUS.get(code, _DEFAULT_STATUS) if status is None else status
