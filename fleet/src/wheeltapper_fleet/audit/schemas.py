"""Changes as the API gives them out."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["ChangeView"]


class ChangeView(BaseModel):
    """A request that changed something, or was forbidden to (``status`` 403). ``at`` is Unix seconds.

    ``via`` says by which token or login ``who`` is known; ``request`` is the id of the request, as in the log.
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
