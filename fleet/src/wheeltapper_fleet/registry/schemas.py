"""Releases as the API gives them out."""

from __future__ import annotations

from pydantic import BaseModel

from wheeltapper_fleet.registry.promotion_rules import PromotionRule

__all__ = ["AliasChange", "AliasView", "ModelView", "ReleaseView", "RuleView", "VerifyView"]


class ReleaseView(BaseModel):
    """One published release. ``path``, ``sha256`` and ``length`` (bytes) are its manifest's; times are Unix seconds."""

    model: str
    release: int
    path: str
    sha256: str
    length: int
    published_at: float
    published_by: str


class ModelView(BaseModel):
    """A model: the number of its newest release, how many it has, and what each of its aliases names."""

    model: str
    newest: int
    releases: int
    aliases: dict[str, int]


class AliasView(BaseModel):
    """What an alias names now. ``version`` is raised by each change; ``set_at`` is Unix seconds."""

    model: str
    alias: str
    release: int
    version: int
    set_at: float
    set_by: str
    why: str


class AliasChange(BaseModel):
    """One change of an alias: from which release to which (None: it named none), when (Unix seconds), by whom, why."""

    id: int
    model: str
    alias: str
    before: int | None
    after: int | None
    at: float
    who: str
    why: str


class RuleView(BaseModel):
    """What an alias asks of a release. ``version`` is raised by each change; ``set_at`` is Unix seconds."""

    model: str
    alias: str
    rule: PromotionRule
    version: int
    set_at: float
    set_by: str
    why: str


class VerifyView(BaseModel):
    """A release that verified from the trusted root down to every byte: its files, and their bytes together."""

    model: str
    release: int
    verified: bool
    files: int
    length: int
