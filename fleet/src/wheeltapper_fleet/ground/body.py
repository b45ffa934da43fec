"""What the bodies of requests have in common, in every room. Pure.

Invariants:
    * A body with an unknown field is refused, so that a misspelt one is never silently ignored.
    * Nothing is converted: ``"5"`` is no number, and ``1`` is not true. JSON has one kind of number, so 5.0 is the
      integer 5 (JSON Schema 2020-12, section 6.1.1 of validation).
    * What the types here refuse, the JSON Schema of the OpenAPI document refuses. A rule that it cannot say has a code
      of its own: ``PydanticCustomError("asset.bearing", …)``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, StringConstraints, WithJsonSchema

__all__ = ["CLOSED", "NO_NUL", "PRINTABLE", "QueryText", "SomeQuery", "Whole", "either"]

NO_NUL: Final = r"^[^\x00]*$"
"""A text that the databases can hold. Pydantic's ``$`` matches only at the very end."""
PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""A text of one line, without control characters."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole: Final = BeforeValidator(_whole)
"""For integers: what JSON writes as 5.0 is one too."""
QueryText = Annotated[
    str,
    StringConstraints(max_length=4000, pattern=NO_NUL),
    WithJsonSchema({"type": "string", "maxLength": 4000, "pattern": NO_NUL, "format": "wheeltapper-query"}),
]
"""An expression of the query language, which :mod:`wheeltapper_fleet.ground.query` reads."""


_SOME: Final = r"^[^\x00]*[^\s\x00][^\x00]*$"
SomeQuery = Annotated[
    str,
    StringConstraints(max_length=4000, pattern=_SOME),
    WithJsonSchema({"type": "string", "maxLength": 4000, "pattern": _SOME, "format": "wheeltapper-devices"}),
]
"""A query that says something: none means every device."""


def either(*schemas: dict[str, Any]) -> dict[str, Any]:
    """For ``json_schema_extra``: what is allowed to go together, where a model's validator or its service checks it."""
    return {"anyOf": [*schemas]}


CLOSED: Final = ConfigDict(extra="forbid", strict=True)
"""The configuration of the model of a body."""
