"""A version as Croissant: JSON-LD that other tools read (ML Commons' Croissant 1.0). Pure.

The list of items is a record set with one record an item; contents are a file set of the store, each named by its hash.

Source: the Croissant Format Specification 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import json
from typing import Any, Final

from wheeltapper_fleet.learning.datasets.manifest import DatasetManifest

__all__ = ["croissant_of"]

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives, in its appendix."""
_FIELDS: Final = {
    "sha256": ("sc:Text", "SHA-256 of the content"),
    "machine": ("sc:Text", "the physical machine"),
    "count": ("sc:Integer", "snapshots (rows)"),
    "bytes": ("sc:Integer", "length of the content"),
}


def croissant_of(manifest: DatasetManifest, items_url: str = "") -> bytes:
    """A manifest as Croissant.

    Args:
        manifest: of the version.
        items_url: where the list of items is, relative to the Croissant file; by default as the store has them.
    """
    listed = manifest.items
    forms = [
        f"{form.items} × {form.kind}"
        + (
            f" at {form.sample_rate_hz:g} Hz, {form.window_samples} samples a window"
            if form.kind == "recording"
            else ""
        )
        + f": {', '.join(form.channels[:20])}"
        for form in manifest.schema
    ]
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": "\n".join([manifest.description or manifest.name, *forms]),
        "version": f"{manifest.version}.0.0",
        "datePublished": manifest.created_at,
        "url": f"urn:wheeltapper:dataset:{manifest.name}:{manifest.version}",
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "items",
                "name": "items",
                "description": "one item a line",
                "contentUrl": items_url or f"../../items/{listed.sha256}.jsonl",
                "contentSize": f"{listed.bytes} B",
                "encodingFormat": "application/jsonlines",
                "sha256": listed.sha256,
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "records",
                "name": "records",
                "description": f"{listed.count} items; divided by {manifest.splitting.lineage}",
                "key": {"@id": "records/sha256"},
                "field": [_field(name, kind, text) for name, (kind, text) in _FIELDS.items()],
            }
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _field(name: str, kind: str, text: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"records/{name}",
        "name": name,
        "description": text,
        "dataType": kind,
        "source": {"fileObject": {"@id": "items"}, "extract": {"column": name}},
    }
