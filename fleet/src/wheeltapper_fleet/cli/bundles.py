"""``wheeltapper bundle``: a model that somebody else trained becomes a bundle, and is checked. Needs no service.

What a device would do is done by the agent's program, which must be installed here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import BAD_INPUT, fail, failures, print_json, printable

if TYPE_CHECKING:
    from wheeltapper_fleet.training.labelled import LabelledWindows
    from wheeltapper_protocols.manifest.manifest import Gate, TensorSpec

__all__ = ["bundle_app"]

bundle_app = typer.Typer(help="Bundles of models that others trained; needs no fleet service.", no_args_is_help=True)

_Data = Annotated[
    list[str] | None,
    typer.Option(help="LABEL=FILE: a recording (.npz, .csv, .parquet, .wav) or a folder of .npz; repeatable."),
]
_DataSet = Annotated[str, typer.Option(help="Instead of --data: NAME[@VERSION] of a dataset.")]
_Side = Annotated[str, typer.Option(help="Of a dataset: the side that is read; empty: all.")]
_Label = Annotated[str, typer.Option(help="Of a dataset: the name of the label that counts.")]
_Store = Annotated[str | None, typer.Option(help="Of a dataset: where it is; see `wheeltapper dataset list`.")]
_SampleRate = Annotated[float, typer.Option(min=0, help="Of a table: samples a second.")]
_Window = Annotated[int, typer.Option(min=0, help="Samples in a window; of a table, and where the model takes any.")]
_Channels = Annotated[str, typer.Option(help="Of a table: its columns with samples, e.g. ax,ay; else all.")]
_Units = Annotated[str, typer.Option(help="Of a table or .wav: a unit for each channel, e.g. g,g.")]
_TimeColumn = Annotated[str, typer.Option(help="Of a table: the column with the time of each row.")]
_Agent = Annotated[
    list[str] | None,
    typer.Option(help="A wheeltapper-agent of another environment, e.g. with tflite-runtime; repeatable."),
]
_Profile = Annotated[list[str] | None, typer.Option(help="A board that it is tested for; repeatable.")]
_Champion = Annotated[Path | None, typer.Option(help="Folder of a bundle that it must not be worse than.")]
_Timeout = Annotated[float, typer.Option(min=1.0, help="For the model to be loaded and run, each time.")]
_Accuracy = Annotated[float, typer.Option(min=0, max=1, help="Least balanced accuracy of a classification.")]
_Auroc = Annotated[float, typer.Option(min=0, max=1, help="Least AUROC of an anomaly score.")]
_ErrorRatio = Annotated[float, typer.Option(min=0, max=1, help="Greatest error of a remaining life; 1: a constant.")]


@bundle_app.command("init")
def bundle_init(
    model: Annotated[
        Path, typer.Option(help="The model: .onnx or .tflite, or models:/NAME@ALIAS of MLflow's registry.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    data: _Data = None,
    name: Annotated[str, typer.Option(help="The model's name in the fleet.")] = "own-model",
    task: Annotated[
        str, typer.Option(help="score, reconstruction, classification or remaining_life; else by the output's shape.")
    ] = "",
    output: Annotated[str, typer.Option(help="The output that is read, where there are several.")] = "",
    signature: Annotated[str, typer.Option(help="The signature of a TFLite model, where there are several.")] = "",
    input_: Annotated[
        str, typer.Option("--input", help="features, flat, sample_channel or channel_sample; else by shapes.")
    ] = "",
    scaling: Annotated[
        str, typer.Option(help="none, standard, log, or an .npz with center and scale; else as the data shows.")
    ] = "",
    classes: Annotated[
        str, typer.Option(help="Of a classification: in the order of the output, e.g. normal,inner.")
    ] = "",
    normal: Annotated[str, typer.Option(help="The classes that mean a healthy machine.")] = "",
    threshold: Annotated[
        float, typer.Option(min=0, help="Of a score: the warning threshold; else from the data.")
    ] = 0.0,
    unit: Annotated[str, typer.Option(help="Of a remaining life: seconds, hours or cycles.")] = "",
    life_scale: Annotated[float, typer.Option(help="Life = output * this, e.g. 125 where 1 means 125 cycles.")] = 1.0,
    cap: Annotated[
        float, typer.Option(min=0, help="The longest life that counts; else the longest in the data.")
    ] = 0.0,
    warn_at: Annotated[float, typer.Option(min=0, help="Of a remaining life: below which it warns.")] = 0.0,
    tensor: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SCALE,ZERO of an integer input or output of an ONNX file; repeatable."),
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(help="A runtime that the release claims [default: those here]; repeatable.")
    ] = None,
    latency_ms: Annotated[float, typer.Option(min=0.001, help="Budget for a window.")] = 50.0,
    memory_mb: Annotated[float, typer.Option(min=1.0, help="Budget for the memory.")] = 96.0,
    sample_rate_hz: _SampleRate = 0.0,
    window_samples: _Window = 0,
    channels: _Channels = "",
    units: _Units = "",
    time_column: _TimeColumn = "",
    dataset: _DataSet = "",
    side: _Side = "test",
    label: _Label = "fault",
    store: _Store = None,
    profile: _Profile = None,
    champion: _Champion = None,
    float_model: Annotated[
        Path | None, typer.Option(help="The same model in floating point, which a quantised one is compared with.")
    ] = None,
    min_accuracy: _Accuracy = 0.8,
    min_auroc: _Auroc = 0.8,
    max_error_ratio: _ErrorRatio = 0.7,
    agent: _Agent = None,
    timeout_seconds: _Timeout = 120.0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of a model: its manifest, golden vectors, drift reference and gates, from labelled data.

    What model and data leave open is asked on a terminal; scripts say it by an option. Give data that the
    model was not trained on: its gates are computed from it. This function is long because each option is a parameter.
    """
    said: list[str] = []
    with failures():
        from wheeltapper_fleet.training.bundle_init import init_bundle
        from wheeltapper_fleet.training.desk_agent import DeskAgent
        from wheeltapper_fleet.training.judging.judge import Limits
        from wheeltapper_fleet.training.own_draft import Answers
        from wheeltapper_fleet.training.own_model import refuse
        from wheeltapper_fleet.training.runs.mlflow_log import model_file
        from wheeltapper_protocols.manifest.manifest import Budget

        _one_of("unit", unit, ("", "seconds", "hours", "cycles"))
        _one_of("task", task, ("", "score", "reconstruction", "classification", "remaining_life"))
        answers = Answers(
            name=name, task=task, output=output, signature=signature, input=input_, window_samples=window_samples,
            scaling=scaling, classes=_entries(classes), normal=_entries(normal), threshold=threshold, unit=unit,
            life_scale=life_scale, cap=cap, warn_at=warn_at, tensors=_tensors(tensor or ()), claim=tuple(claim or ()),
            budget=Budget(latency_p95_ms=latency_ms, rss_growth_mb=memory_mb),
        )  # fmt: skip
        agents = [DeskAgent(command, timeout_seconds) for command in ("", *(agent or ()))]
        say = _sayer(said)
        read = _read(
            data, say, sample_rate_hz, window_samples, channels, units, time_column, dataset, side, label, store
        )
        terminal = sys.stdin.isatty() and not as_json
        with model_file(model) as (file, origin):
            made = init_bundle(
                file, read, answers, out, agents=agents, ask=_asked if terminal else refuse, say=say,
                limits=Limits(accuracy=min_accuracy, auroc=min_auroc, error_ratio=max_error_ratio), origin=origin,
                profiles=profile or (), champion=champion, float_model=float_model, replace=force,
            )  # fmt: skip
    if as_json:
        import msgspec

        runtimes = [entry.name for entry in made.runtimes or ()]
        gates = msgspec.to_builtins(made.gates)
        print_json({"bundle": str(out), "model": made.model, "runtimes": runtimes, "gates": gates, "notes": said})
        return
    _print_gates(made.gates)
    typer.echo(f"bundle: {out}")


@bundle_app.command("check")
def bundle_check(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    data: _Data = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the gates that were computed from the data into the manifest.")
    ] = False,
    sample_rate_hz: _SampleRate = 0.0,
    window_samples: _Window = 0,
    channels: _Channels = "",
    units: _Units = "",
    time_column: _TimeColumn = "",
    dataset: _DataSet = "",
    side: _Side = "test",
    label: _Label = "fault",
    store: _Store = None,
    profile: _Profile = None,
    champion: _Champion = None,
    min_accuracy: _Accuracy = 0.8,
    min_auroc: _Auroc = 0.8,
    max_error_ratio: _ErrorRatio = 0.7,
    agent: _Agent = None,
    timeout_seconds: _Timeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Do with a bundle all that a device will do, and compute its gates from labelled data.

    Exit code 1 if a gate fails or a claimed runtime is not here. This function is long because each option is a
    parameter.
    """
    said: list[str] = []
    with failures():
        import msgspec

        from wheeltapper_fleet.training.bundle_check import check_bundle
        from wheeltapper_fleet.training.bundle_init import with_gates
        from wheeltapper_fleet.training.bundles import write_bundle
        from wheeltapper_fleet.training.desk_agent import DeskAgent
        from wheeltapper_fleet.training.judging.judge import Limits
        from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, encode_manifest

        if write and not (data or dataset):
            fail("bundle.data", "gates are computed from labelled data: --write needs --data or --dataset", BAD_INPUT)
        say = _sayer(said)
        agents = [DeskAgent(command, timeout_seconds) for command in ("", *(agent or ()))]
        read = (
            _read(data, say, sample_rate_hz, window_samples, channels, units, time_column, dataset, side, label, store)
            if data or dataset
            else None
        )
        report = check_bundle(
            bundle, agents, data=read, profiles=profile or (), champion=champion, say=say,
            limits=Limits(accuracy=min_accuracy, auroc=min_auroc, error_ratio=max_error_ratio),
        )  # fmt: skip
        if as_json:
            gates = msgspec.to_builtins(report.gates)
            print_json({"bundle": str(bundle), "gates": gates, "untested": report.missing, "notes": said})
        else:
            _print_gates(report.gates)
        report.refuse()
        if write:
            files = {file.name: (bundle / file.name).read_bytes() for file in report.manifest.files}
            manifest = msgspec.structs.replace(with_gates(report.manifest, report), release=None, rollback_floor=None)
            write_bundle(bundle, files | {MANIFEST_FILE: encode_manifest(manifest)}, replace=True)


@bundle_app.command("quantize")
def bundle_quantize(
    model: Annotated[Path, typer.Option(help="The model in floating point: .onnx.")],
    out: Annotated[Path, typer.Option(help="The .onnx to write.")],
    data: _Data = None,
    input_: Annotated[
        str, typer.Option("--input", help="features, flat, sample_channel or channel_sample; else by shapes.")
    ] = "",
    scaling: Annotated[str, typer.Option(help="none, standard, log, or an .npz with center and scale.")] = "",
    output: Annotated[str, typer.Option(help="The output that is read, where there are several.")] = "",
    limit: Annotated[
        float, typer.Option(min=0.0, help="Greatest loss, as a share of the deviation of the outputs.")
    ] = 0.05,
    smaller: Annotated[bool, typer.Option("--smaller", help="Keep 8 bits even where they are slower.")] = False,
    sample_rate_hz: _SampleRate = 0.0,
    window_samples: _Window = 0,
    channels: _Channels = "",
    units: _Units = "",
    time_column: _TimeColumn = "",
    dataset: _DataSet = "",
    side: _Side = "train",
    label: _Label = "fault",
    store: _Store = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a model to 8 bits on its training data, layer by layer where it must be, and keep what is faster.

    Where the whole model loses too much, the layers that lose most stay in floating point. Both models are timed side
    by side on this computer; the faster one is written, and the answer says which. This function is long because each
    option is a parameter.
    """
    said: list[str] = []
    with failures():
        try:
            from wheeltapper_fleet.training.own_quantize import quantize_model
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        from wheeltapper_fleet.training.own_draft import Answers
        from wheeltapper_fleet.training.own_model import refuse

        say = _sayer(said)
        read = _read(
            data, say, sample_rate_hz, window_samples, channels, units, time_column, dataset, side, label, store
        )
        answers = Answers(
            task="reconstruction", input=input_, scaling=scaling, output=output, window_samples=window_samples
        )
        ask = _asked if sys.stdin.isatty() and not as_json else refuse
        found = quantize_model(
            model, read, answers, out, ask=ask, say=say, limit=limit, smaller=smaller,
        )  # fmt: skip
    if as_json:
        fields = (
            "kept",
            "why",
            "loss",
            "full_loss",
            "float_layers",
            "float_ms",
            "int8_ms",
            "float_bytes",
            "int8_bytes",
        )
        print_json({"path": str(out), "notes": said} | {name: getattr(found, name) for name in fields})
    else:
        typer.echo(f"{out}: {found.why}; it loses {found.loss:.3g}; {len(found.content)} bytes")


@bundle_app.command("features")
def bundle_features(
    out: Annotated[Path, typer.Option(help="The .npz to write.")],
    data: _Data = None,
    sample_rate_hz: _SampleRate = 0.0,
    window_samples: _Window = 0,
    channels: _Channels = "",
    units: _Units = "",
    time_column: _TimeColumn = "",
    dataset: _DataSet = "",
    side: _Side = "train",
    label: _Label = "fault",
    store: _Store = None,
    as_json: AsJson = False,
) -> None:
    """Compute what a device computes from recordings, to train a model on it: standardised features with labels.

    The file has x [window, feature] float32, label, recording, machine, names, and the center and scale
    that `bundle init --scaling FILE` takes.
    """
    said: list[str] = []
    with failures():
        from wheeltapper_fleet.training.own_features import write_features

        read = _read(
            data,
            _sayer(said),
            sample_rate_hz,
            window_samples,
            channels,
            units,
            time_column,
            dataset,
            side,
            label,
            store,
        )
        shape = write_features(read, out)
    if as_json:
        print_json({"path": str(out), "windows": shape[0], "features": shape[1], "notes": said})
    else:
        typer.echo(f"{out}: {shape[0]} windows of {shape[1]} features")


def _read(
    data: Sequence[str] | None,
    say: Any,
    sample_rate_hz: float,
    window_samples: int,
    channels: str,
    units: str,
    time_column: str,
    dataset: str,
    side: str,
    label: str,
    store: str | None,
) -> LabelledWindows:
    """The labelled data that the options name."""
    from wheeltapper_fleet.training.labelled import read_dataset, read_labelled
    from wheeltapper_fleet.training.tables import TableForm
    from wheeltapper_protocols.tables.options import TableOptions

    if dataset and data:
        fail("bundle.data", "name either recordings with --data, or a dataset with --dataset", BAD_INPUT)
    if dataset:
        return read_dataset(dataset, store, side, label, say)
    options = TableOptions(channels=_entries(channels), time_column=time_column)
    form = TableForm(
        sample_rate_hz=sample_rate_hz, window_samples=window_samples, units=_entries(units), options=options
    )
    return read_labelled(data or (), form, say)


def _sayer(said: list[str]) -> Any:
    """Shows a sentence on standard error, and keeps it for the answer."""

    def say(text: str) -> None:
        said.append(text)
        typer.echo(f"note: {printable(text)}", err=True)

    return say


def _asked(option: str, question: str, choices: Sequence[str]) -> str:
    """Ask on the terminal until the answer is one of ``choices``."""
    while True:
        told = f"{question} [{', '.join(choices)}]" if choices else question
        answer = str(typer.prompt(f"{told} (--{option})", err=True)).strip()
        if answer and (not choices or answer in choices):
            return answer
        typer.echo("one of these, please", err=True)


def _print_gates(gates: Sequence[Gate]) -> None:
    for gate in gates:
        what = "passed" if gate.passed else "FAILED"
        typer.echo(f"{what}  {gate.name}: {gate.value:.4g} (limit {gate.limit:.4g}) {gate.detail}".rstrip())


def _one_of(option: str, text: str, known: Sequence[str]) -> None:
    """End the command if an option has another value."""
    if text not in known:
        fail("bundle.option", f"--{option} is {text!r}; choose of {', '.join(known[1:])}", BAD_INPUT)


def _entries(text: str) -> tuple[str, ...]:
    """The entries of a list with commas."""
    return tuple(entry.strip() for entry in text.split(",")) if text else ()


def _tensors(texts: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Scales and zero points; ends the command if a text is none."""
    from wheeltapper_protocols.manifest.manifest import TensorSpec

    found = []
    for text in texts:
        name, _, numbers = text.rpartition("=")
        scale, _, zero = numbers.partition(",")
        try:
            found.append(TensorSpec(name=name, scale=float(scale), zero_point=int(zero or 0)))
        except ValueError:
            fail("bundle.tensor", f"{text!r} is no NAME=SCALE,ZERO such as input=0.05,-3", BAD_INPUT)
    return tuple(found)
