"""Loads and self-tests a release in a child process, so that a broken model takes down a child and not the agent.

A model can hang, take all memory or crash its process (ADR 7).

Invariants:
    * The child has a session of its own, a lower priority than the agent, and limits on memory, processor time and open
      files. It writes no file.
    * The kernel ends the child first when memory is short, and ends it together with the agent.
    * Whatever the child does, the parent gets figures or raises an :class:`AgentError` within the time limit.
    * The child's answer is JSON of bounded size, and only figures or an error code are taken from it.

What this module does not do: keep a hostile model from reading what the agent may read. Releases are signed; this
module protects from broken ones.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.model.runtimes import preload
from wheeltapper_agent.model.self_test import compare_golden, process_memory_mb, self_test
from wheeltapper_protocols.errors import ProtocolError, brief
from wheeltapper_protocols.python_path import child_environment

__all__ = ["confine", "main", "measure_in_child", "try_candidate"]

_MAX_ANSWER_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 2000
_POLL_SECONDS: Final = 0.1
_NICENESS: Final = 10
_NICE_LATENCY_FACTOR: Final = 4.0
"""How many times its latency budget may pass in the child, which runs at a lower priority than the agent. The processor
time of a window has no such allowance."""
_MAX_FILES: Final = 256
_PR_SET_PDEATHSIG: Final = 1
_CODE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_NO_MEMORY: Final = re.compile(r"bad_alloc|failed to allocate|out of memory|cannot allocate|alloc(ation)? failed", re.I)
_PROFILE_FIELDS: Final = ("name", "runtimes", "providers", "threads")


def try_candidate(
    folder: Path,
    profile: Profile,
    sha256: str,
    timeout_seconds: float,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Bundle, dict[str, float]] | None:
    """Test a release in a child process; if it passes, load it in this process and compare its golden vectors here too.

    Nothing is measured here: this process is busy with live windows, and the child was not.

    Args:
        folder: of the release.
        profile: the board.
        sha256: the beginning of the SHA-256 that the manifest must have.
        timeout_seconds: for the child.
        interrupted: asked every tenth of a second whether to give up.

    Returns:
        The bundle and the figures of the self-test, or None if it was interrupted.

    Raises:
        AgentError: as :func:`measure_in_child`.
        ProtocolError: ``manifest.*``.
    """
    in_child = measure_in_child(folder, profile, sha256, timeout_seconds, interrupted)
    if in_child is None:
        return None
    bundle = load_bundle(folder, profile, sha256)
    return bundle.without_golden(), in_child | compare_golden(bundle)


def measure_in_child(
    folder: Path,
    profile: Profile,
    sha256: str,
    timeout_seconds: float,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Load and self-test the release in ``folder`` in a child process.

    Args:
        folder: of the release.
        profile: the board.
        sha256: the beginning of the SHA-256 that the manifest must have.
        timeout_seconds: for the child.
        interrupted: asked every tenth of a second whether to give up.

    Returns:
        The figures of :func:`wheeltapper_agent.model.self_test.self_test`, or None if it was interrupted.

    Raises:
        AgentError: ``self_test.timeout``, ``self_test.memory``, ``self_test.crashed``, or the error that the child
            found.
    """
    request = {
        "folder": str(folder.resolve()),
        "sha256": sha256,
        "memory_mb": profile.memory_cap_mb,
        "seconds": timeout_seconds,
        "profile": {name: getattr(profile, name) for name in _PROFILE_FIELDS},
    }
    environment = {name: value for name, value in os.environ.items() if name != "WHEELTAPPER_TOKEN"}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # the buffer of each thread would count against the limit on data
    environment = child_environment(environment, sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", "wheeltapper_agent.model.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    try:
        output = _watch(process, json.dumps(request).encode(), timeout_seconds, interrupted)
    finally:
        _end(process)
    if output is None:
        return None
    answer, stderr = output
    return _read_answer(answer, stderr, process.returncode, profile.memory_cap_mb)


def _watch(
    process: subprocess.Popen[bytes], request: bytes, timeout_seconds: float, interrupted: Callable[[], bool]
) -> tuple[bytes, bytes] | None:
    """Send the request and read until the child has closed both outputs; return its answer and the end of its stderr.

    The answer is not checked here: see :func:`_read_answer`.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(request)  # fits into the pipe's buffer, so this never blocks
    answer, stderr = bytearray(), bytearray()
    deadline = time.monotonic() + timeout_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, answer)
        selector.register(process.stderr, selectors.EVENT_READ, stderr)
        while selector.get_map():
            asked_at = time.monotonic()
            if interrupted():
                return None
            deadline += time.monotonic() - asked_at  # the child does not pay for the time of interrupted()
            left = deadline - time.monotonic()
            if left <= 0:
                text = (
                    f"the release was not loaded and tested within {timeout_seconds:g} s; see self_test_timeout_seconds"
                )
                raise AgentError("self_test.timeout", text)
            for key, _ in selector.select(min(left, _POLL_SECONDS)):
                chunk = os.read(key.fd, 8192)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            del stderr[:-_TAIL_BYTES]
            if len(answer) > _MAX_ANSWER_BYTES:
                raise AgentError("self_test.crashed", "the process that tested the release wrote an endless answer")
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    return bytes(answer), bytes(stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and all that it started, and close its pipes."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _read_answer(answer: bytes, stderr: bytes, status: int, memory_cap_mb: int) -> dict[str, float]:
    """Return the figures that the child sent, or raise the error that it sent or died of."""
    tail = stderr.decode(errors="replace").strip()[-300:]
    try:
        body = json.loads(answer)
        metrics, code, message = body.get("metrics"), body.get("code"), brief(body.get("message"), 1000)
    except (ValueError, AttributeError, RecursionError):
        metrics, code, message = None, None, ""
    if isinstance(code, str) and _CODE.fullmatch(code) and len(code) <= 80:
        if _NO_MEMORY.search(message):
            code, message = "self_test.memory", f"more than {memory_cap_mb} MB: {message}"
        raise AgentError(code, message)
    if isinstance(metrics, dict) and status == 0:
        return {
            str(name)[:80]: float(value)
            for name, value in list(metrics.items())[:32]
            if isinstance(value, int | float) and math.isfinite(value)
        }
    if _NO_MEMORY.search(tail):
        raise AgentError("self_test.memory", f"the release needs more than {memory_cap_mb} MB: {tail}")
    end = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"exit status {status}"
    raise AgentError("self_test.crashed", f"the model ended its process with {end} {tail}".strip())


# --- in the child -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run in the child: read a request from stdin, test the release, write the answer to stdout."""
    request = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    body = _tested(request)
    os.write(answer, json.dumps(body).encode()[:_MAX_ANSWER_BYTES])
    os._exit(0)  # skip the libraries' cleaning up, in which they may crash


def _tested(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to ``request``: ``metrics``, or ``code`` and ``message`` of the error."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in request["profile"].items()
    }
    profile = Profile(**fields)
    _die_with_parent()
    os.nice(_NICENESS)
    preload(profile)
    try:
        confine(int(request["memory_mb"]), float(request["seconds"]))
        before_mb = process_memory_mb("VmHWM")
        bundle = load_bundle(Path(request["folder"]), profile, request["sha256"])
        return {"metrics": self_test(bundle, before_mb, _NICE_LATENCY_FACTOR, profile.threads)}
    except (AgentError, ProtocolError) as error:
        return {"code": error.code, "message": error.message}
    except MemoryError:
        return {"code": "self_test.memory", "message": f"the release needs more than {request['memory_mb']} MB"}


def confine(memory_mb: int, seconds: float, files: bool = False) -> None:
    """Limit what this process may use.

    The limit is on data (heap and private maps), ``memory_mb`` above what the libraries have now. Address space is not
    limited: a GPU's driver reserves much of it and uses little. Without ``files`` no file can be written.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    limits = {
        resource.RLIMIT_DATA: round((process_memory_mb("VmData") + memory_mb) * 1024 * 1024),
        resource.RLIMIT_CPU: math.ceil(seconds) * 2 + 1,
        resource.RLIMIT_NOFILE: _MAX_FILES,
        resource.RLIMIT_CORE: 0,
    } | ({} if files else {resource.RLIMIT_FSIZE: 0})
    for what, limit in limits.items():
        _, hard = resource.getrlimit(what)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (least, least))


def _die_with_parent() -> None:
    """Have the kernel end this process when the agent ends (prctl(2), ``PR_SET_PDEATHSIG``)."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # the parent ended before prctl took effect
        os._exit(1)


if __name__ == "__main__":
    main()
