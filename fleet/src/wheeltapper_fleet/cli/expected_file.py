"""Files of ``wheeltapper device pre-enrol``: a CSV with devices comes in, a CSV with their tokens goes out.

Invariant: the file with the tokens can be written before any token is made, is readable by its owner only, and appears
whole or not at all.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["read_expected", "written_once"]

_COLUMNS: Final = ("id", "site", "tags")
_WRONG_SHOWN: Final = 10
_MAX_BYTES: Final = 8 * 1024 * 1024


def read_expected(path: Path) -> list[dict[str, Any]]:
    """The devices in a CSV file, as the API takes them: ``device``, ``tags``, ``row`` (the line).

    Raises:
        FleetError: ``enrol.file``: it is no such file; ``enrol.rows``: which lines are wrong, and why.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise FleetError("enrol.file", f"{path} is larger than {_MAX_BYTES // 2**20} MB; split it", 422)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            if "id" not in columns or set(columns) - set(_COLUMNS) or len(set(columns)) != len(columns):
                message = f"the first line of {path} must name the columns: id and, if wanted, site and tags"
                raise FleetError("enrol.file", message, 422)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FleetError("enrol.file", f"{path} is not CSV in UTF-8: {error}", 422) from error
    found, wrong = [], []
    for line, row in rows:
        if len(row) > len(columns):
            wrong.append(f"line {line}: {len(row)} cells for {len(columns)} columns")
            continue
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=False)}
        try:
            found.append({"device": cells["id"], "tags": _tags(cells), "row": line})
        except (ValueError, KeyError) as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _WRONG_SHOWN} more" if len(wrong) > _WRONG_SHOWN else ""
        raise FleetError("enrol.rows", f"no token was made: {'; '.join(wrong[:_WRONG_SHOWN])}{more}", 422)
    if not found:
        raise FleetError("enrol.file", f"{path} names no device", 422)
    return found


def _tags(cells: dict[str, str]) -> dict[str, str]:
    tags = {"site": cells["site"]} if cells.get("site") else {}
    for text in filter(None, (part.strip() for part in cells.get("tags", "").split(";"))):
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise ValueError(f"{text!r} is not a tag; write key=value;key=value")
        if key in tags:
            raise ValueError(f"the tag {key} is there twice")
        tags[key] = value
    return tags


@contextmanager
def written_once(path: Path) -> Iterator[Callable[[Sequence[Sequence[str]]], None]]:
    """Prepare the file at ``path``, which must not be there; gives what writes the rows with the tokens.

    Raises:
        FleetError: ``enrol.out``: the file is there.
        OSError: it cannot be written.
    """
    if path.exists():
        raise FleetError("enrol.out", f"{path} is there already; it may hold tokens: choose another file", 422)
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:

            def write(rows: Sequence[Sequence[str]]) -> None:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("device", "token", "expires_at"))
                writer.writerows(rows)
                file.flush()
                os.fsync(file.fileno())
                os.rename(temporary, path)

            yield write
    finally:
        temporary.unlink(missing_ok=True)
