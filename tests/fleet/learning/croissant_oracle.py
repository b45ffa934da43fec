"""Run by ``.venv-oracles``: prints what ML Commons' own library reads from a Croissant file.

Usage: ``croissant_oracle.py FILE``; the last line is a JSON object with the records and the errors that it found.
"""

from __future__ import annotations

import json
import sys

import mlcroissant  # type: ignore[import-not-found]  # in .venv-oracles only

dataset = mlcroissant.Dataset(jsonld=sys.argv[1])
records = [
    {
        name.rpartition("/")[2]: value.decode() if isinstance(value, bytes) else int(value)
        for name, value in record.items()
    }
    for record in dataset.records("records")
]
print(json.dumps({"records": records, "errors": sorted(dataset.metadata.ctx.issues.errors)}))
