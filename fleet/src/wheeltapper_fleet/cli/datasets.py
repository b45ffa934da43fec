"""``wheeltapper dataset``: versions of what models are trained on. Needs no service, but for captures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheeltapper_fleet.cli.dataset_service import captures_of, history_of, show_trained
from wheeltapper_fleet.cli.dataset_views import show_checks, show_manifest
from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    failures,
    open_client,
    print_json,
    print_result,
    print_table,
    printable,
)
from wheeltapper_fleet.cli.table_options import (
    Channels,
    Decimal,
    Delimiter,
    Header,
    Missing,
    SampleRateHz,
    Scale,
    SkipRows,
    TimeColumn,
    TimeFormat,
    TimeUnit,
    Units,
    WindowSamples,
)

if TYPE_CHECKING:
    from wheeltapper_fleet.learning.datasets.importing import Incoming, Made
    from wheeltapper_fleet.learning.datasets.manifest import Label
    from wheeltapper_fleet.learning.datasets.store import DatasetStore
    from wheeltapper_fleet.learning.datasets.tables import TableForm

__all__ = ["dataset_app"]

dataset_app = typer.Typer(help="Datasets: immutable versions of recordings and tables.", no_args_is_help=True)

Store = Annotated[
    str | None,
    typer.Option(help="Folder or s3://BUCKET/PREFIX [env: WHEELTAPPER_DATASETS; default: wheeltapper-data/datasets]."),
]
RefArgument = Annotated[str, typer.Argument(help="NAME, or NAME@VERSION.", show_default=False)]


def open_store(url: str | None) -> DatasetStore:
    """The store at ``url``, else the default one."""
    from wheeltapper_fleet.learning.datasets.reading import default_store
    from wheeltapper_fleet.learning.datasets.store import DatasetStore

    return DatasetStore(url or default_store())


@dataset_app.command("import")
def dataset_import(
    name: Annotated[str, typer.Argument(help="The dataset's name; a new version of it is made.", show_default=False)],
    source: Annotated[list[Path] | None, typer.Argument(help="Files or folders.", show_default=False)] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--from", help="files, tables, or a public set: ai4i, battery, cmapss, cwru, femto, nab, uci-fan."
        ),
    ] = "files",
    base: Annotated[str | None, typer.Option(help="NAME[@VERSION] whose items it begins with.")] = None,
    from_captures: Annotated[
        str | None,
        typer.Option(help="Recordings of the devices that this query means, e.g. 'site = north'; '' is all."),
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="Of captures: only of this pipeline.")] = None,
    from_history: Annotated[
        Path | None, typer.Option(help="Records of devices, as tables: the service's TOML file with its [history].")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Of the history: a device; repeatable.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="Of captures and history: the last days only.")] = None,
    machine: Annotated[
        str, typer.Option(help="Of files: the machine [default: what the recording says, or the name].")
    ] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that holds for all files; repeatable.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of labels: source, name, value, and start, stop where they hold for a part."),
    ] = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE under which all were recorded; repeatable.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="SIDE=SHARE of train, validation, test; repeatable.")] = None,
    split_by: Annotated[str, typer.Option(help="machine; recording or window leak, and need --force.")] = "machine",
    assign: Annotated[list[str] | None, typer.Option(help="MACHINE=SIDE; repeatable.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let a machine be on two sides; the version is marked.")
    ] = False,
    description: Annotated[str, typer.Option(help="What it is, its licence and citation.")] = "",
    sample_rate_hz: SampleRateHz = 0.0,
    window_samples: WindowSamples = 0,
    channels: Channels = "",
    units: Units = "",
    scale: Scale = "",
    time_column: TimeColumn = "",
    time_unit: TimeUnit = "s",
    time_format: TimeFormat = "",
    delimiter: Delimiter = "auto",
    decimal: Decimal = ".",
    skip_rows: SkipRows = 0,
    header: Header = True,
    missing: Missing = None,
    store: Store = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a new version of a dataset from files, a public set, captures of devices, or another version.

    This function is long because each option is a parameter.
    """
    with failures():
        from rich.console import Console

        from wheeltapper_fleet.learning.datasets.importing import import_version
        from wheeltapper_fleet.learning.datasets.manifest import parse_ref

        form = _form(
            {"time_unit": time_unit, "decimal": decimal, "time_column": time_column, "time_format": time_format}
            | {"delimiter": delimiter, "skip_rows": skip_rows, "header": header, "missing": tuple(missing or ())},
            channels=channels,
            units=units,
            scale=scale,
            sample_rate_hz=sample_rate_hz,
            window_samples=window_samples,
        )
        if not source and base is None and from_captures is None and from_history is None:
            hint = "name files or folders, --from-captures, --from-history, or a version with --base"
            fail("dataset.empty", hint, BAD_INPUT)
        opened = open_store(store)
        request = _request(split or [], split_by, assign or [], force)
        console, warnings = Console(stderr=True), list[str]()

        def warn(text: str) -> None:
            warnings.append(text)
            console.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)

        with ExitStack() as stack:
            coming = [_incoming(kind, path, form, labels, warn) for path in source or []]
            if from_captures is not None:
                client = stack.enter_context(open_client(url, token_file, data_dir))
                coming.append(captures_of(client, opened, from_captures, pipeline, days))
            if from_history is not None:
                coming.append(stack.enter_context(history_of(from_history, device or [], days)))
            status = stack.enter_context(console.status("reading"))
            made = import_version(
                opened,
                name,
                (_described(each, machine, label or [], condition or []) for each in chain.from_iterable(coming)),
                base=None if base is None else parse_ref(base),
                request=request,
                description=description,
                progress=lambda text: status.update(printable(text)),
            )
    show_made(made, warnings, as_json)


def show_made(made: Made, warnings: list[str], as_json: bool) -> None:
    """Print a version that was made."""
    import msgspec

    if as_json:
        found = {"manifest": msgspec.to_builtins(made.manifest), "sha256": made.sha256, "new": made.new}
        print_json({**found, "warnings": warnings})
        return
    if not made.new:
        typer.echo(f"nothing changed: {made.manifest.ref} is the same")
        return
    show_manifest(made.manifest, made.sha256)


def _incoming(kind: str, path: Path, form: TableForm, labels: Path | None, warn: Any) -> Iterator[Incoming]:
    from wheeltapper_fleet.learning.datasets.importers import files, of_set
    from wheeltapper_fleet.learning.datasets.table_files import table_files

    if kind == "files":
        return files(path, form, warn, _labels_of(labels))
    if kind == "tables":
        return table_files(path, form.options.delimiter, _labels_of(labels))
    return of_set(kind, path, warn)


def _labels_of(path: Path | None) -> dict[str, list[Label]]:
    from wheeltapper_fleet.learning.datasets.label_file import read_labels

    return {} if path is None else read_labels(path)


def _described(incoming: Incoming, machine: str, labels: list[str], conditions: list[str]) -> Incoming:
    """What comes in, with what the command says of all of it."""
    from dataclasses import replace

    from wheeltapper_fleet.learning.datasets.label_file import value_of
    from wheeltapper_fleet.learning.datasets.manifest import Label

    said = [Label(name=key, value=value_of(value)) for key, value in _pairs(labels)]
    known = {key: value_of(value) for key, value in _pairs(conditions)}
    return replace(
        incoming,
        machine=machine or incoming.machine,
        labels=[*incoming.labels, *said],
        condition={**incoming.condition, **known},
    )


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    """Read ``NAME=VALUE`` texts; ends the command if one is none."""
    found = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            fail("dataset.pair", f"{text!r} is not NAME=VALUE", BAD_INPUT)
        found.append((key, value))
    return found


def _request(split: list[str], split_by: str, assign: list[str], force: bool) -> Any:
    from wheeltapper_fleet.learning.datasets.manifest import SPLITS, shares_of
    from wheeltapper_fleet.learning.datasets.splits import Request

    if split_by not in ("machine", "recording", "window"):
        fail("dataset.split", f"--split-by is machine, recording or window, not {split_by!r}", BAD_INPUT)
    assigned = dict(_pairs(assign))
    if wrong := sorted(side for side in assigned.values() if side not in SPLITS):
        fail("dataset.split", f"{wrong[0]!r} is no side: choose of {', '.join(SPLITS)}", BAD_INPUT)
    by: Any = split_by if split or split_by != "machine" else "none"
    return Request(by=by, shares=shares_of(split), assigned=assigned, force=force)


def _form(options: dict[str, Any], *, channels: str, units: str, scale: str, **given: Any) -> TableForm:
    from wheeltapper_fleet.learning.datasets.tables import TableForm
    from wheeltapper_protocols.tables.options import TableOptions

    def entries(text: str) -> tuple[str, ...]:
        return tuple(entry.strip() for entry in text.split(",")) if text else ()

    try:
        factors = tuple(float(entry) for entry in entries(scale))
    except ValueError:
        fail("dataset.scale", f"{scale!r} is not a list of numbers such as 9.81,9.81", BAD_INPUT)
    return TableForm(
        units=entries(units), scale=factors, options=TableOptions(channels=entries(channels), **options), **given
    )


@dataset_app.command("list")
def dataset_list(store: Store = None, as_json: AsJson = False) -> None:
    """List datasets: the newest version of each."""
    with failures():
        from wheeltapper_fleet.learning.datasets.manifest import Ref

        opened, found = open_store(store), []
        for name in opened.names():
            versions = opened.versions(name)
            if versions:
                manifest, sha256 = opened.manifest(Ref(name, versions[-1]))
                found.append(
                    {
                        "name": name,
                        "version": manifest.version,
                        "versions": len(versions),
                        "items": manifest.items.count,
                        "machines": manifest.machines,
                        "bytes": manifest.bytes,
                        "created_at": manifest.created_at,
                        "sha256": sha256,
                    }
                )
    if as_json:
        print_json(found)
        return
    columns = ("name", "version", "items", "machines", "bytes", "created_at")
    print_table(
        [each.upper() for each in columns], [[row[each] for each in columns] for row in found], "no dataset yet"
    )


@dataset_app.command("show")
def dataset_show(
    ref: RefArgument,
    items: Annotated[bool, typer.Option("--items", help="Also list its items.")] = False,
    croissant: Annotated[bool, typer.Option("--croissant", help="Print it as Croissant (JSON-LD).")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show a version: schema, sides, labels, checks."""
    with failures():
        import msgspec

        from wheeltapper_fleet.learning.datasets.croissant import croissant_of
        from wheeltapper_fleet.learning.datasets.reading import open_dataset

        found = open_dataset(ref, open_store(store))
        if croissant:
            typer.echo(croissant_of(found.manifest).decode(), nl=False)
            return
        if as_json:
            shown: dict[str, Any] = {"manifest": msgspec.to_builtins(found.manifest), "sha256": found.sha256}
            if items:
                shown["items"] = [msgspec.to_builtins(item) for item in found.items()]
            print_json(shown)
            return
        show_manifest(found.manifest, found.sha256)
        if items:
            rows = [
                (item.machine, item.source, item.kind, item.count, item.split or None, item.sha256[:12])
                for item in found.items()
            ]
            typer.echo("")
            print_table(("MACHINE", "SOURCE", "KIND", "SNAPSHOTS", "SIDE", "SHA256"), rows, "no items")


@dataset_app.command("diff")
def dataset_diff(
    one: RefArgument,
    other: Annotated[str, typer.Argument(help="NAME, or NAME@VERSION.", show_default=False)],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say what the second version has that the first has not, and the other way round."""
    with failures():
        from wheeltapper_fleet.learning.datasets.comparing import difference
        from wheeltapper_fleet.learning.datasets.reading import open_dataset

        opened = open_store(store)
        found = difference(open_dataset(one, opened), open_dataset(other, opened))
    if as_json:
        print_json(found)
        return
    for change in ("added", "removed", "changed"):
        for entry in found[change]:
            fields = f" ({', '.join(entry['fields'])})" if entry.get("fields") else ""
            typer.echo(printable(f"{change:8} {entry['machine']}  {entry['source']}  {entry['sha256'][:12]}{fields}"))
    counts = found["counts"]
    typer.echo(
        f"{counts['added']} added, {counts['removed']} removed, {counts['changed']} changed, {counts['same']} the same"
    )


@dataset_app.command("check")
def dataset_check(
    ref: RefArgument,
    content: Annotated[bool, typer.Option("--content", help="Also read every content and compare its hash.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Check a version; exit code 1 where a check fails."""
    with failures():
        import msgspec
        from rich.console import Console

        from wheeltapper_fleet.learning.datasets.comparing import check_version
        from wheeltapper_fleet.learning.datasets.reading import open_dataset

        with Console(stderr=True).status("checking") as status:
            found = check_version(
                open_dataset(ref, open_store(store)), content, lambda text: status.update(printable(text))
            )
        failed = [check.name for check in found if check.verdict == "fail"]
        if as_json:
            print_json({"checks": [msgspec.to_builtins(check) for check in found], "failed": failed})
        else:
            show_checks(found)
    if failed:
        fail("dataset.check", f"{ref} fails {', '.join(failed)}")


@dataset_app.command("export")
def dataset_export(
    ref: RefArgument,
    out: Annotated[Path, typer.Option(help="Folder; what is there already with its hash is not written again.")],
    split: Annotated[str | None, typer.Option(help="Only this side.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Write the contents of a version as files, with its items and its Croissant description."""
    with failures():
        from rich.console import Console

        from wheeltapper_fleet.learning.datasets.exporting import export_version
        from wheeltapper_fleet.learning.datasets.reading import open_dataset

        with Console(stderr=True).status("exporting") as status:
            count, written = export_version(
                open_dataset(ref, open_store(store)), out, split, lambda text: status.update(printable(text))
            )
    value = {"path": str(out), "items": count, "written": written}
    print_result(value, f"{out}: {count} items, {written} of them written", as_json)


@dataset_app.command("remove")
def dataset_remove(
    ref: RefArgument,
    why: Annotated[str, typer.Option(help="The reason; it is kept.")],
    machine: Annotated[str | None, typer.Option(help="All contents of this machine.")] = None,
    content: Annotated[str | None, typer.Option(help="One content, by 8 or more digits of its SHA-256.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="All contents of the version.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove them.")] = False,
    store: Store = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove contents on request, from every version; their hashes stay, and the models trained on them are listed."""
    with failures():
        import getpass
        from dataclasses import asdict

        from wheeltapper_fleet.learning.datasets.reading import open_dataset
        from wheeltapper_fleet.learning.datasets.removal import chosen_contents, remove_contents

        opened = open_store(store)
        found = chosen_contents(open_dataset(ref, opened), machine, content, whole)
        if not yes:
            what = f"this removes {len(found)} contents ({sum(found.values())} bytes) from {opened.url} for ever"
            fail("usage.not_confirmed", f"{what}: say --yes; nothing was changed", BAD_INPUT)
        removal = remove_contents(opened, found, why, getpass.getuser())
        releases, ran = show_trained(removal.versions, url, token_file, data_dir)
    if as_json:
        print_json({**asdict(removal), "releases": releases, "runs": ran})
        return
    typer.echo(
        f"{len(removal.contents)} contents removed, {removal.bytes} bytes; they were in {', '.join(removal.versions)}"
    )
    if releases is None:
        typer.echo("no fleet service was found, so it is not known which models were trained on them")
    for each in releases or []:
        typer.echo(f"trained on them: {each['model']} {each['release']} ({each['dataset']}@{each['version']})")
    for each in ran or []:
        typer.echo(f"run on them: {each['id']} {each['state']}, {each['model']} ({each['dataset']})")


@dataset_app.command("models")
def dataset_models(
    ref: RefArgument,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the releases that were trained on a version of a dataset, or on any."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.learning.datasets.manifest import parse_ref

        name, version = parse_ref(ref)
        found = list(client.items(f"/datasets/{name}/releases", {} if version is None else {"version": version}))
    if as_json:
        print_json(found)
        return
    columns = ("model", "release", "dataset", "version", "split")
    print_table([each.upper() for each in columns], [[row[each] for each in columns] for row in found], "no release")


@dataset_app.command("prune")
def dataset_prune(
    older_hours: Annotated[float, typer.Option(min=1.0, help="Only what was written so long ago.")] = 24.0,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Remove contents that no version names, which imports that ended early have left."""
    with failures():
        import time
        from dataclasses import asdict

        from rich.console import Console

        from wheeltapper_fleet.learning.datasets.removal import prune

        with Console(stderr=True).status("looking") as status:
            done = prune(open_store(store), older_hours * 3600.0, time.time(), status.update)
    print_result(asdict(done), f"{done.files} files removed, {done.bytes} bytes", as_json)
