"""Build the Debian package of the agent or of the fleet service, with all dependencies but Python.

    python packaging/build_deb.py --arch amd64 --out dist
    python packaging/build_deb.py --package fleet

Installing a package downloads nothing. It is a virtual environment in ``/usr/lib/wheeltapper-agent`` or
``/usr/lib/wheeltapper-fleet``, filled from wheels with the versions in ``constraints.txt``. Wheels are only unpacked,
so a package can be built for another processor than this one. For
``armhf`` there are no wheels of numpy and zstandard (the package depends on Debian's) nor of msgspec and cffi
(``--wheels`` names a folder with wheels built for it); its runtime is tflite-runtime.

It needs ``dpkg-deb``, and the development environment (``make setup``) for the metadata of all dependencies.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"
# Parts of wheels that devices do not need: tests, tools for training and conversion, code for other accelerators.
PRUNE = (
    "**/__pycache__",
    "numpy/**/tests",
    "onnxruntime/transformers",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/datasets",
    "ai_edge_litert/tools",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "bin",
)
FROM_SOURCE = {"nkeys"}  # pure Python, and published without a wheel
FLEET_EXTRAS = ("postgres", "oidc")
NEVER = {"pip", "setuptools", "wheel"}  # sqlite-utils names pip for its own plug-ins


@dataclass(frozen=True)
class Package:
    """What a package is of. Its name is that of the distribution; its program starts ``module``'s ``__main__``."""

    name: str
    module: str
    program: str
    sources: tuple[str, ...]
    """Folders of the project that its wheels are built from."""
    programs: tuple[str, ...] = ()
    """More programs of the virtual environment that it needs."""

    @property
    def home(self) -> str:
        """The folder of its virtual environment, from the root."""
        return f"usr/lib/{self.name}"

    @property
    def debian(self) -> Path:
        """The folder of its maintainer scripts and of what they need."""
        return ROOT / "packaging" / f"debian-{self.sources[-1]}"


PACKAGES = {
    "agent": Package("wheeltapper-agent", "wheeltapper_agent", "wheeltapper-agent", ("protocols", "agent")),
    "fleet": Package("wheeltapper-fleet", "wheeltapper_fleet", "wheeltapper", ("protocols", "fleet"), ("nats-server",)),
}


@dataclass(frozen=True)
class Target:
    """A Debian architecture: Python's name for it, the tags of its wheels, its runtimes, the packages from Debian."""

    machine: str
    platforms: tuple[str, ...]
    extras: tuple[str, ...]
    from_debian: dict[str, str]

    @property
    def system_packages(self) -> bool:
        """Whether the virtual environment can import Debian's Python packages."""
        return bool(self.from_debian)


def _tags(machine: str, *glibc: str) -> tuple[str, ...]:
    return (*(f"manylinux_{minor}_{machine}" for minor in glibc), f"manylinux2014_{machine}", f"linux_{machine}")


_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_17")
TARGETS = {
    "amd64": Target("x86_64", _tags("x86_64", *_GLIBC), ("onnx", "litert"), {}),
    "arm64": Target("aarch64", _tags("aarch64", *_GLIBC), ("onnx", "litert"), {}),
    "armhf": Target(
        "armv7l", _tags("armv7l", *_GLIBC), ("tflite",), {"numpy": "python3-numpy", "zstandard": "python3-zstandard"}
    ),
}


def run(*line: str, **options: object) -> None:
    """Run a program; its output is shown only where it fails."""
    done = subprocess.run(line, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]  # plain options
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(line[:6])} … failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def constraints() -> dict[str, str]:
    """The versions in ``constraints.txt``, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)}


def closure(package: Package, target: Target) -> dict[str, str]:
    """The distributions that a package needs on ``target`` and their versions, without the project's own."""
    environment = {"platform_machine": target.machine, "python_version": PYTHON, "sys_platform": "linux"}
    pinned = constraints()
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    extras = target.extras if package.name == "wheeltapper-agent" else FLEET_EXTRAS
    waiting = [Requirement(f"{package.name}[{','.join(extras)}]")]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen or name in NEVER or name in target.from_debian:
            continue
        seen.add((name, frozenset(wanted.extras)))
        if not name.startswith("wheeltapper-"):
            exact = next((spec.version for spec in wanted.specifier if spec.operator == "=="), "")
            found[name] = pinned.get(name) or exact
        try:
            lines = requires(wanted.name) or []
        except PackageNotFoundError:
            lines = []  # not for this processor; its needs are few and pinned: numpy
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            named = wanted.extras or {""}
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in named):
                waiting.append(requirement)
    missing = [name for name, pin in found.items() if not pin]
    if missing:
        raise SystemExit(f"constraints.txt does not pin {', '.join(sorted(missing))}")
    return found


def fill(site: Path, package: Package, target: Target, work: Path, wheels: Path | None) -> None:
    """Install the project's code and its dependencies into ``site``, a site-packages folder."""
    house = work / "wheels"
    house.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(house),
        *(str(ROOT / source) for source in package.sources),
    )
    tags = [word for tag in target.platforms for word in ("--platform", tag)]
    only = [*tags, "--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    needed = closure(package, target)
    wanted = [f"{name}=={pin}" for name, pin in sorted(needed.items())]
    for name in FROM_SOURCE & set(needed):
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(house), f"{name}=={needed[name]}")
    more = ["--find-links", str(wheels)] if wheels is not None else []
    run(*pip, "download", *only, *more, "--find-links", str(house), "-d", str(house), *wanted)
    ours = [f"{name}=={version(name)}" for name in (package.name, "wheeltapper-protocols")]
    run(
        *pip,
        "install",
        *only,
        "--no-index",
        "--find-links",
        str(house),
        "--no-compile",
        "--target",
        str(site),
        *ours,
        *wanted,
    )
    for program in package.programs:
        (site / "bin" / program).rename(site.parents[2] / "bin" / program)
    for pattern in PRUNE:
        for path in list(site.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # The service cannot write next to its code, so the package has the byte code. It is the same on every processor.
    compileall.compile_dir(
        site, quiet=2, stripdir=str(site), prependdir=f"/{package.home}/lib/python{PYTHON}/site-packages",
        invalidation_mode=compileall.py_compile.PycInvalidationMode.UNCHECKED_HASH,  # type: ignore[attr-defined]  # re-exported by accident
    )  # fmt: skip


def environment(root: Path, package: Package, target: Target) -> Path:
    """Make an empty virtual environment below ``root``; returns its site-packages folder."""
    home = root / package.home
    site = home / f"lib/python{PYTHON}/site-packages"
    site.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to(f"/usr/bin/python{PYTHON}")
    seen = "true" if target.system_packages else "false"
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {seen}\nversion = {PYTHON}\n")
    program = root / "usr/bin" / package.program
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/{package.home}/bin/python -I\nfrom {package.module}.__main__ import main\n\nmain()\n")
    program.chmod(0o755)
    return site


def control(root: Path, arch: str, package: Package, target: Target) -> None:
    """Write the package's control file, maintainer scripts and, where it has them, configuration and unit."""
    folder = root / "DEBIAN"
    folder.mkdir()
    own = [path for path in package.debian.rglob("*") if path.is_file() and path.parent != package.debian]
    for path in own:
        place = root / path.relative_to(package.debian)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        place.chmod(0o644)
    kept = sorted(f"/{path.relative_to(package.debian)}\n" for path in own if "etc" in path.parts)
    if kept:
        (folder / "conffiles").write_text("".join(kept))
    size = sum(path.lstat().st_size for path in root.rglob("*")) // 1024
    depends = [f"python3 (>= {PYTHON})", f"python{PYTHON}", "passwd", "libc6 (>= 2.36)", "libstdc++6", "libgcc-s1"]
    depends += target.from_debian.values()
    text = (package.debian / "control.in").read_text(encoding="utf-8")
    values = {"VERSION": version(package.name), "ARCH": arch, "DEPENDS": ", ".join(depends), "SIZE": str(size)}
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    (folder / "control").write_text(text)
    uninstall = (ROOT / "agent/src/wheeltapper_agent/host/uninstall.py").read_text(encoding="utf-8")
    for name in ("postinst", "prerm", "postrm"):
        script = (package.debian / name).read_text(encoding="utf-8").replace("@UNINSTALL@\n", uninstall)
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    doc = root / "usr/share/doc" / package.name
    doc.mkdir(parents=True)
    shutil.copyfile(ROOT / "packaging/copyright", doc / "copyright")


def clamp_times(root: Path, epoch: int) -> None:
    """Set the time of every file to ``epoch`` (Unix seconds), so that the same sources give the same package."""
    for path in root.rglob("*"):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def build(package: Package, arch: str, out: Path, wheels: Path | None, compression: str = "xz") -> Path:
    """Build a package for ``arch``; returns its file."""
    target = TARGETS[arch]
    work = ROOT / "build" / "deb" / package.name / arch
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    fill(environment(root, package, target), package, target, work, wheels)
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    control(root, arch, package, target)
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _commit_time()
    clamp_times(root, int(epoch))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{package.name}_{version(package.name)}_{arch}.deb"
    run(
        "dpkg-deb",
        "--root-owner-group",
        f"-Z{compression}",
        "--build",
        str(root),
        str(file),
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
    )
    return file


def _commit_time() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "1767225600"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", choices=sorted(PACKAGES), default="agent")
    parser.add_argument("--arch", choices=sorted(TARGETS), default="amd64")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--wheels", type=Path, help="more wheels, for what has none for this processor")
    parser.add_argument("--compression", choices=("xz", "zstd", "none"), default="xz")
    arguments = parser.parse_args()
    print(build(PACKAGES[arguments.package], arguments.arch, arguments.out, arguments.wheels, arguments.compression))


if __name__ == "__main__":
    main()
