from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, insert

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.aliases import get_alias, list_alias_changes, list_aliases, remove_alias, set_alias
from wheeltapper_fleet.tables import releases

MODEL = "bearing"


@pytest.fixture
def published(engine: Engine) -> Engine:
    """A database with releases 1 to 3 of two models."""
    add_releases(engine, MODEL, "fan")
    return engine


def add_releases(engine: Engine, *models: str) -> None:
    with engine.begin() as connection:
        for model in models:
            for number in (1, 2, 3):
                values: dict[str, Any] = {
                    "model": model,
                    "release": number,
                    "path": f"releases/{model}/{number}/manifest.json",
                }
                values |= {"sha256": "1" * 64, "length": 10, "manifest": {}, "published_at": 0.0, "published_by": "t"}
                connection.execute(insert(releases).values(values))


def let(engine: Engine, alias: str, release: int, now: float, version: int | None = None) -> int:
    return set_alias(engine, MODEL, alias, release, who="ann", why=f"at {now:g}", now=now, version=version).version


def test_an_alias_names_one_release_after_another_and_all_is_kept(published: Engine) -> None:
    first = let(published, "champion", 1, 10.0)
    let(published, "candidate", 2, 11.0)
    set_alias(published, "fan", "champion", 3, who="bob", why="", now=12.0)
    second = let(published, "champion", 2, 13.0, version=first)
    assert let(published, "champion", 2, 14.0) == second, "what it names already is no change"
    assert [(each.model, each.alias, each.release) for each in list_aliases(published).items] == [
        (MODEL, "candidate", 2), (MODEL, "champion", 2), ("fan", "champion", 3)
    ]  # fmt: skip
    found = get_alias(published, MODEL, "champion")
    assert (found.release, found.set_at, found.set_by, found.why) == (2, 13.0, "ann", "at 13")
    remove_alias(published, MODEL, "champion", who="bob", why="no good", now=15.0, version=second)
    with pytest.raises(FleetError, match=r"\[alias\.not_found\]"):
        get_alias(published, MODEL, "champion")
    changes = list_alias_changes(published, MODEL, "champion").items
    assert [(each.before, each.after, each.who, each.at) for each in changes] == [
        (2, None, "bob", 15.0), (1, 2, "ann", 13.0), (None, 1, "ann", 10.0)
    ]  # fmt: skip
    page = list_alias_changes(published, MODEL, limit=3)
    rest = list_alias_changes(published, MODEL, limit=3, after=page.next)
    assert [each.alias for each in (*page.items, *rest.items)] == ["champion", "champion", "candidate", "champion"]


def test_what_was_decided_on_another_version_changes_nothing(published: Engine) -> None:
    first = let(published, "champion", 1, 10.0, version=0)
    let(published, "champion", 2, 11.0, version=first)
    for version in (0, first, first + 1000):
        with pytest.raises(FleetError, match=r"\[alias\.conflict\]"):
            let(published, "champion", 3, 12.0, version=version)
        with pytest.raises(FleetError, match=r"\[alias\.conflict\]"):
            remove_alias(published, MODEL, "champion", who="ann", why="", now=12.0, version=version)
    with pytest.raises(FleetError, match=r"\[release\.not_found\]"):
        let(published, "champion", 4, 12.0)
    with pytest.raises(FleetError, match=r"\[alias\.not_found\]"):
        remove_alias(published, MODEL, "challenger", who="ann", why="", now=12.0)
    assert get_alias(published, MODEL, "champion").release == 2
    assert len(list_alias_changes(published, MODEL).items) == 2


def test_over_the_api(server: AdminServer) -> None:
    add_releases(server.engine, MODEL)
    path = f"/api/v1/models/{MODEL}/aliases/champion"
    with server.http() as http:
        assert http.get(path).status_code == 404
        made = http.put(path, json={"release": 1, "why": "first"}, headers={"If-Match": '"0"'})
        assert (made.status_code, made.json()["release"], made.json()["why"]) == (200, 1, "first")
        tag = made.headers["ETag"]
        assert http.get(path).headers["ETag"] == tag
        assert http.put(path, json={"release": 2}, headers={"If-Match": tag}).status_code == 200
        late = http.put(path, json={"release": 3}, headers={"If-Match": tag})
        assert (late.status_code, late.json()["code"], late.json()["current"]["release"]) == (412, "alias.conflict", 2)
        assert http.put(path, json={"release": 9}).json()["code"] == "release.not_found"
        assert http.post(f"{path}/remove", json={"why": "over"}).status_code == 204
        changes = http.get(f"/api/v1/models/{MODEL}/alias-changes?alias=champion").json()["items"]
        assert [each["after"] for each in changes] == [None, 2, 1]
        assert http.get("/api/v1/aliases").json()["items"] == []
