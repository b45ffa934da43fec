"""Container files: what they set exists, they give away no more than they must, and the schemas of others take them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.packaging.roots import REPOSITORY, need_tools
from wheeltapper_fleet.config import VARIABLES, FleetConfig

FOLDER = REPOSITORY / "packaging/containers"
BASE = FOLDER / "kubernetes/base"
ORACLES = REPOSITORY / ".venv-oracles"
PORTS = {FleetConfig().admin_port, FleetConfig().device_port, FleetConfig().mqtt_port}


def _documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def _stateful() -> dict[str, Any]:
    (found,) = _documents(BASE / "fleet.yaml")
    return found


def _labelled() -> list[dict[str, Any]]:
    """What kustomize makes of the base, as far as schemas look: the labels are in."""
    labels = {"app.kubernetes.io/name": "wheeltapper-fleet"}
    found = []
    for name in _documents(BASE / "kustomization.yaml")[0]["resources"]:
        for each in _documents(BASE / name):
            spec = each["spec"]
            each["metadata"]["labels"] = labels
            if each["kind"] == "StatefulSet":
                spec["selector"]["matchLabels"] = spec["template"]["metadata"]["labels"] = labels
            elif each["kind"] == "Service":
                spec["selector"] = labels
            found.append(each)
    return found


def test_every_setting_is_one_that_the_service_has() -> None:
    known = set(VARIABLES.values()) | {"WHEELTAPPER_HOST"}
    for path in FOLDER.rglob("*"):
        if path.is_file():
            named = set(re.findall(r"\bWHEELTAPPER_[A-Z_]+", path.read_text(encoding="utf-8")))
            assert named <= known, path


def test_the_ports_are_those_of_the_service() -> None:
    exposed = re.findall(r"^EXPOSE (.+)$", (FOLDER / "fleet.Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(port) for port in exposed[0].split()} == PORTS
    compose = _documents(FOLDER / "compose.yaml")[0]["services"]["fleet"]
    assert {int(port.partition(":")[0]) for port in compose["ports"]} == PORTS
    ports = _stateful()["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {port["containerPort"] for port in ports} == PORTS


def test_nothing_runs_as_root_or_with_more_than_it_needs() -> None:
    for name in ("fleet", "agent"):
        users = re.findall(r"^USER (\d+)", (FOLDER / f"{name}.Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        assert users
        assert int(users[-1]) > 0
    pod = _stateful()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    compose = _documents(FOLDER / "compose.yaml")[0]["services"]["fleet"]
    assert compose["read_only"] is True
    assert compose["cap_drop"] == ["ALL"]


def test_no_secret_stands_in_a_file() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert not re.search(r"(?i)password:\s+[^{\s]|//\w+:\w+@", path.read_text(encoding="utf-8")), path


def test_patches_are_of_things_that_are_there() -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in _labelled()}
    for folder in (FOLDER / "kubernetes").iterdir():
        wanted = _documents(folder / "kustomization.yaml")[0]
        for resource in wanted["resources"]:
            assert (folder / resource).exists()
        for patch in wanted.get("patches", ()):
            (each,) = _documents(folder / patch["path"])
            assert (each["kind"], each["metadata"]["name"]) in names


@pytest.mark.slow
def test_what_others_know_of_these_forms_finds_nothing(tmp_path: Path) -> None:
    if not (ORACLES / ".ready").exists():
        need_tools("no .venv-oracles: make oracles")
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(yaml.safe_dump_all(_labelled()), encoding="utf-8")
    lines = [["hadolint", str(FOLDER / f"{name}.Dockerfile")] for name in ("fleet", "agent")]
    lines.append(["kubernetes-validate", "--strict", str(manifests)])
    for program, *arguments in lines:
        done = subprocess.run(
            [str(ORACLES / "bin" / program), *arguments], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (schema,) = (ORACLES / "lib/python3.11/site-packages/compose/config").glob("compose_spec.json")
    jsonschema.validate(
        _documents(FOLDER / "compose.yaml")[0],
        json.loads(schema.read_text(encoding="utf-8")),
        jsonschema.Draft7Validator,
    )
