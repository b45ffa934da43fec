"""The configuration that a new device begins with: commented, for the kind of source that is asked for.

``install`` and ``enroll`` write it where there is none; from then on it belongs to the device's owner. Each text loads
as it is (a test loads all), and says beside each key what it means. Keys that are left out have their defaults; all of
them are in docs/agent/sources.md.
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import write_once
from wheeltapper_agent.ground.profile import Profile, load_profile
from wheeltapper_agent.host.boards import detect_board, machine_name, read_device_tree
from wheeltapper_agent.host.systemd_unit import CONFIG_FILE
from wheeltapper_agent.host.uninstall import STATE_DIR

__all__ = ["SOURCES", "configured", "starting_config"]

_DEFAULT_PROFILE: Final = "x86-gateway"
_STREAM: Final = """\
sample_rate_hz = {rate}          # of the sensor; samples that come at another rate are refused
window_samples = {window}         # length of a window; each window gets a score
"""
_CHANNELS: Final = """\
channels = ["x", "y", "z"]     # names, in the order of the samples
units = ["g", "g", "g"]        # of the physical values
# scale = [0.0039, 0.0039, 0.0039]  # physical value = number * scale
# full_scale = [16.0, 16.0, 16.0]   # beyond it the sensor clips
"""
_FILE: Final = """\
kind = "replay"
path = "{path}"      # relative to the folder of this file
rate_hz = 1.0                  # windows a second
hold_until_model = true        # wait for the first release
"""
_TABLE: Final = """\
sample_rate_hz = 1000          # of the rows
window_samples = 1000          # rows in a window; each window gets a score
time_column = "t"              # seconds, or times by ISO 8601; gaps in it are missing samples
channels = ["x", "y"]          # columns; empty: all others
units = ["g", "g"]             # of the physical values
"""
_PAYLOAD: Final = """\
samples_key = "samples"        # where a payload has its samples; empty: the payload is the samples
time_key = "t"                 # time of the first sample, or a list of times; empty: none
time_unit = "s"                # s, ms, us, ns of Unix times
"""
SOURCES: Final = {
    "simulator": """\
kind = "simulator"             # a simulated bearing, to try things out: no sensor is needed
interval_seconds = 10          # machine time from window to window
time_scale = 50                # seconds of machine time a second: 5 windows a second
fault = "outer"                # what wears out: none, outer, inner, ball
wear_from = "model"            # the wear begins with the first release; "start": with the machine
onset_seconds = 1500           # machine time until the first sign of wear: 30 s
failure_seconds = 3500         # machine time until the bearing has failed: 70 s
seed = 1                       # another seed is another machine
""",
    "replay": _FILE.format(path="recording.npz"),
    "csv": _FILE.format(path="recording.csv") + _TABLE + 'delimiter = ","                # between the columns\n',
    "parquet": _FILE.format(path="recording.parquet") + _TABLE,
    "wav": _FILE.format(path="recording.wav")
    + """\
window_samples = 4096          # length of a window; each window gets a score
channels = ["x"]               # names, one a channel of the file
units = ["g"]                  # of the physical values
scale = [1.0]                  # what full scale in the file is
""",
    "mqtt": """\
kind = "mqtt"
host = "127.0.0.1"             # the broker near the machine
port = 1883
topic = "press-1/vibration"    # one topic, without wildcards
payload = "json"               # or msgpack; float32, int16: raw numbers, interleaved
"""
    + _STREAM.format(rate=3200, window=4096)
    + _CHANNELS
    + _PAYLOAD
    + """\
# username = "wheeltapper"     # and password_file: a file that only the agent's user may read
# password_file = "secrets/mqtt"
# tls = true                   # and ca_file, if the broker's certificate is of an authority of your own
# ca_file = "secrets/ca.pem"
""",
    "modbus": """\
kind = "modbus"
host = "192.168.0.20"          # the Modbus TCP server
port = 502
device_id = 1                  # the unit identifier
"""
    + _STREAM.format(rate=10, window=600)
    + """\
# One block a channel; the first is at address 0, as on the wire.
[[pipelines.source.registers]]
name = "velocity"              # of the channel
address = 0                    # from 0
table = "holding"              # or input
type = "float32"               # int16, uint16, int32, uint32, int64, uint64, float32, float64
word_order = "big"             # big: the register with the highest bits comes first; or little
scale = 1.0                    # physical value = (number + offset) * scale
unit = "mm/s"                  # of the physical value
""",
    "opcua": """\
kind = "opcua"
url = "opc.tcp://192.168.0.30:4840"  # the server's endpoint
mode = "poll"                  # read at each sample; subscribe: take what the server reports
"""
    + _STREAM.format(rate=10, window=600)
    + """\
nodes = [                      # one a channel: its name, the node, the unit of its value
  { name = "velocity", node_id = "ns=2;s=Spindle.Velocity", unit = "mm/s" },
]
# username = "wheeltapper"     # and password_file: a file that only the agent's user may read
# password_file = "secrets/opcua"
""",
    "iio": """\
kind = "iio"
device = "adxl355"             # the name in /sys/bus/iio/devices/*/name, or iio:device0
"""
    + _STREAM.format(rate=4000, window=4096)
    + """\
channels = ["in_accel_x", "in_accel_y"]  # as in the device's scan_elements
units = ["m/s^2", "m/s^2"]     # those of the kernel
""",
    "stdin": """\
kind = "stdin"                 # JSON lines on the standard input of the agent
when_full = "wait"             # what is piped waits for a slow pipeline; drop: whole windows, counted
"""
    + _STREAM.format(rate=1000, window=1000)
    + _CHANNELS
    + _PAYLOAD,
}
"""The table ``source`` of a pipeline, by the name that ``--source`` takes."""
_NO_SOURCE: Final = """\
# A sensor stream. Without one the agent only reports that it is there.
# [[pipelines]]
# name = "main"
# source = { kind = "simulator", seed = 1 }
"""


def starting_config(
    profile: Profile, source: str = "", state_dir: str = STATE_DIR, settings: Sequence[str] = ()
) -> str:
    """The text of a new device's configuration.

    Args:
        profile: the board's.
        source: a key of :data:`SOURCES`; empty: no pipeline yet.
        state_dir: the state folder; relative to the configuration's folder.
        settings: ``KEY=VALUE`` for keys of the source; a value is written as in TOML, or is a text.

    Raises:
        AgentError: ``config.invalid``.
    """
    text = f"""\
# Written once when the agent was installed or enrolled; it is yours now. See docs/operations.md.
[device]
state_dir = {json.dumps(state_dir)}  # identity, releases, records that wait for the fleet
profile = "{profile.name}"  # the board; `wheeltapper-agent profiles` lists them

"""
    if not source:
        return text + _NO_SOURCE
    return f"""{text}\
[[pipelines]]
name = "main"                  # of the sensor stream; releases are assigned to it by name

[pipelines.source]
{_with_settings(SOURCES[source], settings)}"""


def _with_settings(table: str, settings: Sequence[str]) -> str:
    """The text of a source with values of the user's; what each key means stays beside it.

    Raises:
        AgentError: ``config.invalid``.
    """
    for text in settings:
        found = re.fullmatch(r"([a-z][a-z0-9_]{0,63})=([^\r\n]{1,2000})", text)
        if found is None:
            raise AgentError("config.invalid", f"write a setting of the source as KEY=VALUE, not {text[:80]!r}")
        key, value = found[1], _literal(found[2])
        line = re.search(rf"^(?:# )?{key} = .*?(  +#.*)?$", table, re.MULTILINE)
        if line is not None:
            table = f"{table[: line.start()]}{key} = {value}{line[1] or ''}{table[line.end() :]}"
        else:
            kind, _, rest = table.partition("\n")
            table = f"{kind}\n{key} = {value}\n{rest}"
    return table


def _literal(text: str) -> str:
    """A value as TOML: as it is if it is one, else as a text."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if list(tomllib.loads(f"value = {text}")) == ["value"]:
            return text
    return json.dumps(text)


@contextlib.contextmanager
def configured(
    path: Path, source: str = "", state_dir: Path | None = None, settings: Sequence[str] = ()
) -> Iterator[None]:
    """Write a configuration to ``path`` where there is none; if what is done with it fails, it is taken back.

    Args:
        path: of the configuration.
        source: see :func:`starting_config`.
        state_dir: the state folder; None: the system's for the system's configuration, else one beside ``path``.
        settings: see :func:`starting_config`.

    Raises:
        AgentError: ``config.invalid`` (there is no such source, or settings for none), ``config.exists`` (there is
            another configuration, and a source is asked for), ``storage.*``.
    """
    if source and source not in SOURCES:
        raise AgentError("config.invalid", f"there is no source {source!r}; choose one of {', '.join(SOURCES)}")
    if settings and not source:
        raise AgentError("config.invalid", "--set is for the source that is written: give --source too")
    folder = str(state_dir.absolute()) if state_dir else STATE_DIR if path == Path(CONFIG_FILE) else "agent-state"
    board = detect_board(read_device_tree(), machine_name()) or _DEFAULT_PROFILE
    text = starting_config(load_profile(board), source, folder, settings)
    written = not path.exists()
    if not written and source and path.read_text(encoding="utf-8") != text:
        raise AgentError("config.exists", f"{path} exists and is never changed: leave out --source, or name a new file")
    try:
        if written:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_once(path, text.encode(), 0o640)
        yield
    except OSError as error:
        raise storage_error(error, f"{path} cannot be written") from error
    except BaseException:
        if written:
            path.unlink(missing_ok=True)
        raise
