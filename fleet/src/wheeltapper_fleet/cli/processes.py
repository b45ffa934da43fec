"""``wheeltapper processes``: of which processes the service consists."""

from __future__ import annotations

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_table

__all__ = ["processes"]


def processes(url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the processes of a service that is several: who is alive, and who leads."""
    with open_client(url, token_file, data_dir) as client:
        found = client.processes()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["name"],
            item["role"],
            f"{item['host']}:{item['pid']}",
            item["version"],
            format_time(item["started_at"]),
            format_time(item["seen_at"]),
            "leads" if item["leads"] else "alive" if item["alive"] else "dead",
        )
        for item in found
    ]
    heads = ("NAME", "ROLE", "HOST:PID", "VERSION", "STARTED", "SEEN", "STATE")
    print_table(heads, rows, "the service is one process")
