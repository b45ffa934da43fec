from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.trust.world import Killed, killed_at, sha256
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.blobs import Blob, BlobStore, chunks_of


def test_put_and_find(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", cap_bytes=3_000_000)
    content = b"ab" * 1_200_000
    blob = store.put(chunks_of(io.BytesIO(content)), sha256(content))
    assert blob == Blob(sha256(content), len(content))
    inode = store.path(blob.sha256).stat().st_ino
    assert store.put_bytes(content) == blob
    assert store.path(blob.sha256).stat().st_ino == inode
    assert store.path(blob.sha256).read_bytes() == content
    assert store.has(blob.sha256, blob.length)
    assert not store.has(blob.sha256, blob.length + 1)
    store.check(blob.sha256, blob.length)


def test_refused_blobs_leave_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", cap_bytes=10)

    def endless() -> Iterator[bytes]:
        while True:
            yield b"123456"

    with pytest.raises(FleetError) as caught:
        store.put(endless())
    assert caught.value.code == "blob.too_large"
    with pytest.raises(FleetError) as caught:
        store.put_bytes(b"hello", "0" * 64)
    assert caught.value.code == "blob.hash"
    with pytest.raises(FleetError) as caught:
        store.put_bytes(b"")
    assert caught.value.code == "blob.empty"
    assert not list((tmp_path / "blobs").iterdir())


@pytest.mark.parametrize("name", ["0" * 64, "../keys/director.pem", "", "0" * 64 + "\n", "."])
def test_unknown_names(tmp_path: Path, name: str) -> None:
    store = BlobStore(tmp_path / "blobs")
    with pytest.raises(FleetError) as caught:
        store.path(name)
    assert caught.value.code == "blob.not_found"
    assert not store.has(name, 1)


def test_damage_is_found_and_repaired(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    blob = store.put_bytes(b"hello")
    for damage in (b"hellO", b"hell"):
        store.path(blob.sha256).write_bytes(damage)
        with pytest.raises(FleetError) as caught:
            store.check(blob.sha256, blob.length)
        assert caught.value.code == "blob.hash"
    store.put_bytes(b"hello")
    store.check(blob.sha256, blob.length)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, after: bool) -> None:
    store = BlobStore(tmp_path / "blobs")
    with killed_at(monkeypatch, nth, after=after), pytest.raises(Killed):
        store.put_bytes(b"hello")
    store = BlobStore(tmp_path / "blobs")
    blob = store.put_bytes(b"hello")
    store.check(blob.sha256, blob.length)
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [blob.sha256]
