"""Changes as the API gives them out."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["ChainView", "ChangeView"]


class ChangeView(BaseModel):
    """A request that changed something, or was forbidden to (``status`` 403). ``at`` is Unix seconds.

    ``via`` says by which token or login ``who`` is known; ``request`` is the id of the request, as in the log.
    ``digest`` covers the other fields but ``id``, and the digest of the change before.
    """

    id: int
    at: float
    who: str
    via: str
    route: str
    subject: dict[str, str]
    status: int
    request: str
    address: str
    digest: str


class ChainView(BaseModel):
    """The chain of changes: ``digest`` is that of the newest one.

    ``cut_rows`` old ones were cut, the last of them at ``cut_up_to`` (Unix seconds) with the digest ``cut_digest``,
    from which the chain goes on.
    """

    digest: str
    cut_digest: str
    cut_up_to: float | None
    cut_rows: int
