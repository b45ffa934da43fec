"""The types of the names and numbers in the paths and queries of the admin API, each with its bounds.

Invariant: the database can compare with every value of these types: integers fit in 64 bits, texts hold no NUL.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from fastapi import Path, Query
from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from wheeltapper_fleet.ground.body import NO_NUL
from wheeltapper_fleet.ground.paging import MAX_LIMIT
from wheeltapper_protocols.wire.ids import NAME_PATTERN, device_id, name

__all__ = [
    "After",
    "AliasName",
    "DeviceId",
    "FileName",
    "Key",
    "Limit",
    "ModelName",
    "PipelineName",
    "Q",
    "ReleaseNumber",
    "RunId",
    "Sha256",
]

_NAME: Final = {"type": "string", "pattern": NAME_PATTERN.replace(r"\Z", "$")}
_KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # pydantic's $ matches only at the very end

DeviceId: TypeAlias = Annotated[str, AfterValidator(device_id), WithJsonSchema(_NAME)]
ModelName: TypeAlias = Annotated[str, AfterValidator(lambda text: name(text, "model name")), WithJsonSchema(_NAME)]
AliasName: TypeAlias = Annotated[str, AfterValidator(lambda text: name(text, "alias")), WithJsonSchema(_NAME)]
PipelineName: TypeAlias = Annotated[
    Annotated[str, AfterValidator(lambda text: name(text, "pipeline name")), WithJsonSchema(_NAME)] | None,
    Query(description="Only this pipeline"),
]
Key: TypeAlias = Annotated[str, StringConstraints(pattern=_KEY_PATTERN)]
"""The id of a campaign or of a command."""
Sha256: TypeAlias = Annotated[
    str,
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    Path(description="SHA-256 of the blob, in hex"),
]
FileName: TypeAlias = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
RunId: TypeAlias = Annotated[str, Path(pattern=r"^r-[0-9a-f]{12}$")]
ReleaseNumber: TypeAlias = Annotated[int, Path(ge=1, le=999_999_999)]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items a page has at most.")]
After: TypeAlias = Annotated[
    str | None,
    Query(pattern="^[A-Za-z0-9_-]{1,600}$", description="The cursor `next` of the page before."),
]
Q: TypeAlias = Annotated[
    str | None,
    Query(
        max_length=4000,
        pattern=NO_NUL,
        description="Only what matches: an expression of the query language.",
        json_schema_extra={"format": "wheeltapper-query"},
    ),
]
