"""The S3 server of the history's tests, for datasets too."""

from __future__ import annotations

from tests.fleet.history.conftest import s3_url

__all__ = ["s3_url"]
