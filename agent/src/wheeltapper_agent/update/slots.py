"""Slots: verified bundles on the disk, and links that say which of them each pipeline shall run.

``releases/<model>-<release>-<first 8 digits of the manifest's SHA-256>/`` holds a bundle.
``pipelines/<pipeline>/active`` and ``previous`` are symbolic links to one.

Invariants:
    * The folder of a release appears by one rename, after everything in it is on the disk.
    * A link changes by one rename. So after a kill at any moment ``active`` names the old or the new bundle, never
      neither.
    * Going back to ``previous`` is a rename and going back to nothing is an unlink. Neither needs room on the disk.

What this module does not do: decide that a bundle is good.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import fsync_file, fsync_folder, replace_link, write_once
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, decode_manifest
from wheeltapper_protocols.wire.assignment import PipelineTarget

__all__ = ["ACTIVE", "PREVIOUS", "Slots", "model_and_release", "slot_name"]

ACTIVE: Final = "active"
PREVIOUS: Final = "previous"


def slot_name(target: PipelineTarget) -> str:
    """The name of the slot for the release of ``target``, e.g. ``bearing-anomaly-7-1f0c3a52``."""
    return f"{target.model}-{target.release}-{target.sha256[:8]}"


def model_and_release(slot: str) -> tuple[str, int]:
    """The model and the release in a slot's name; the inverse of :func:`slot_name`, but for the hash."""
    model, release, _ = slot.rsplit("-", 2)
    return model, int(release)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files; a folder that cannot be read differs from every other."""
    try:
        return _hashes(one) == _hashes(other)
    except OSError:
        return False


def _hashes(folder: Path) -> dict[str, str]:
    """By name: SHA-256 (hex) of each file in ``folder``."""
    found = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


class Slots:
    """The slots and links below ``folder``, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._releases = folder / "releases"
        self._pipelines = folder / "pipelines"
        for path in (self._releases, self._pipelines):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        """The folder that slots and links lie below."""
        return self._folder

    def path(self, name: str) -> Path:
        """The folder of the release called ``name`` (see :func:`slot_name`)."""
        return self._releases / name

    def stage(self, name: str, manifest: bytes, blobs: Mapping[str, Path]) -> Path:
        """Put a verified bundle into the slot ``name``.

        A slot that is there already is replaced, unless a link names it and it holds the same files.

        Args:
            name: of the slot, see :func:`slot_name`.
            manifest: bytes of the manifest.
            blobs: the verified files, by their name in the bundle. They are linked, or copied where links are not
                possible.

        Returns:
            The folder of the slot.

        Raises:
            AgentError: ``storage.*``.
        """
        target = self.path(name)
        temporary = self._releases / f".{name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for file, blob in blobs.items():
                try:
                    os.link(blob, temporary / file)
                except OSError:
                    shutil.copyfile(blob, temporary / file)
                fsync_file(temporary / file)
            write_once(temporary / MANIFEST_FILE, manifest)
            fsync_folder(temporary)
            if target.exists():
                if name in self._referenced() and _same_files(temporary, target):
                    shutil.rmtree(temporary)
                    return target
                shutil.rmtree(target)
            os.rename(temporary, target)
            fsync_folder(self._releases)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise storage_error(error, "the bundle cannot be stored") from error
        return target

    def active(self, pipeline: str) -> str | None:
        """The slot that the link ``active`` of ``pipeline`` names; None if there is none or its folder is gone."""
        return self._read(pipeline, ACTIVE)

    def previous(self, pipeline: str) -> str | None:
        """The slot that the link ``previous`` of ``pipeline`` names; None if there is none or its folder is gone."""
        return self._read(pipeline, PREVIOUS)

    def activate(self, pipeline: str, name: str, keep_previous: bool = False) -> None:
        """Make the slot ``name`` active and what was active previous. Done twice, it is as done once.

        Args:
            pipeline: whose links are switched.
            name: of the slot.
            keep_previous: leave ``previous`` as it is. For the case that the active release did not run, so that
                ``previous`` is the better one to go back to.

        Raises:
            AgentError: ``slot.missing``, ``storage.*``.
        """
        if not self.path(name).is_dir():
            raise AgentError("slot.missing", f"{name} is not staged; it must be staged before it is activated")
        current = self.active(pipeline)
        if current == name:
            self._sync_links(pipeline)
            return
        if current is not None and not keep_previous:
            self._link(pipeline, PREVIOUS, current)
        self._link(pipeline, ACTIVE, name)

    def restore(self, pipeline: str, name: str | None) -> None:
        """Make the slot ``name`` active again (None: no slot at all). Done twice, it is as done once.

        Where ``previous`` names the slot, that link is renamed to ``active``: a rename needs no room, so a full disk
        cannot keep a device on a bad release.

        Raises:
            AgentError: ``storage.*``.
        """
        if name is not None and self.path(name).is_dir():
            if self.active(pipeline) == name:
                self._sync_links(pipeline)
                return
            if self.previous(pipeline) == name:
                self._promote_previous(pipeline)
                return
            self._link(pipeline, ACTIVE, name)
        else:
            folder = self._pipelines / pipeline
            try:
                (folder / ACTIVE).unlink(missing_ok=True)
                if folder.is_dir():
                    fsync_folder(folder)
            except OSError as error:
                raise storage_error(error, f"the links of {pipeline} cannot be switched") from error

    def collect_garbage(self) -> None:
        """Remove slots that no link names, and temporary folders that a kill left."""
        referenced = self._referenced()
        for path in self._releases.iterdir():
            if path.name not in referenced:
                shutil.rmtree(path, ignore_errors=True)

    def find(self, sha256: str, length: int) -> Path | None:
        """A file in some slot that, by its manifest, has this SHA-256 and length; the caller must verify it."""
        for path in self._releases.iterdir():
            try:
                files = decode_manifest((path / MANIFEST_FILE).read_bytes()).files
            except (OSError, WireError):
                continue
            for file in files:
                if file.sha256 == sha256 and file.length == length:
                    return path / file.name
        return None

    def file_hashes(self) -> set[str]:
        """SHA-256 of every file of every slot, by the manifests: these need not be fetched again."""
        found: set[str] = set()
        for path in self._releases.iterdir():
            try:
                raw = (path / MANIFEST_FILE).read_bytes()
                found |= {file.sha256 for file in decode_manifest(raw).files}
            except (OSError, WireError):
                continue
        return found

    def _referenced(self) -> set[str]:
        """The slots that a link names."""
        links = (self._read(folder.name, which) for folder in self._pipelines.iterdir() for which in (ACTIVE, PREVIOUS))
        return {name for name in links if name is not None}

    def _read(self, pipeline: str, which: str) -> str | None:
        """The slot that the link ``which`` names; None if there is no link or no such slot."""
        try:
            name = Path(os.readlink(self._pipelines / pipeline / which)).name
        except OSError:
            return None
        return name if self.path(name).is_dir() else None

    def _sync_links(self, pipeline: str) -> None:
        """Make durable a link that is right already: the life that switched it may have been killed before it was."""
        try:
            fsync_folder(self._pipelines / pipeline)
        except OSError as error:
            raise storage_error(error, f"the links of {pipeline} cannot be switched") from error

    def _promote_previous(self, pipeline: str) -> None:
        """Rename the link ``previous`` to ``active``."""
        folder = self._pipelines / pipeline
        try:
            os.replace(folder / PREVIOUS, folder / ACTIVE)
            fsync_folder(folder)
        except OSError as error:
            raise storage_error(error, f"the links of {pipeline} cannot be switched back") from error

    def _link(self, pipeline: str, which: str, name: str) -> None:
        """Make the link ``which`` name the slot ``name``, by one rename."""
        folder = self._pipelines / pipeline
        try:
            if not folder.is_dir():
                folder.mkdir()
                fsync_folder(self._pipelines)
            replace_link(folder / which, f"../../releases/{name}")
        except OSError as error:
            raise storage_error(error, f"the link {which} of {pipeline} cannot be switched") from error
