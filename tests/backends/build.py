"""Builds the real servers that the tests talk to: python tests/backends/build.py.

They come from their own Go modules, at the versions pinned here, into the user's cache
folder (`~/.cache/assisters-otel/servers`), once. Needs Go 1.24 or later, some 6 GB of disk
while it builds and about ten minutes on two cores. `ASSISTERS_OTEL_SERVERS` names a folder
of your own in its place, with the binaries in it; nothing is built then. An older promtool comes
out of Debian's package, where there is apt-get.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN_FOLDER = "ASSISTERS_OTEL_SERVERS"
"""The variable that names a folder of the user's own."""

COLLECTOR = "0.158.0"
_STABLE = "1.64.0"
"""What the collector's stable modules are called in that release."""


class Server(NamedTuple):
    """One server and how it is built.

    Attributes:
        name: Of its folder in the cache.
        version: Pinned: the tests and `compose.yaml` are about this one.
        binaries: What is built, each with the arguments that make it print its version.
        minutes: What a first build takes on two cores.
        build: Makes the binaries in a folder, from another one to work in.
        recipe: Counted up where the same version is built otherwise, so that it is built anew.
        optional: True if the machine may be without it.
    """

    name: str
    version: str
    binaries: dict[str, tuple[str, ...]]
    minutes: int
    build: Callable[[Path, Path, Path], None]
    recipe: int = 1
    optional: bool = False


class BuildError(RuntimeError):
    """A server cannot be had; the message says what to do."""


def folder() -> Path | None:
    """The user's own folder of binaries, or None."""
    own = os.environ.get(OWN_FOLDER, "").strip()
    return Path(own).expanduser() if own else None


def cache() -> Path:
    """Where built servers lie: one folder for each, keyed by version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "assisters-otel" / "servers"


def binary(name: str) -> Path:
    """Where a binary is, if it is.

    Args:
        name: For example ``promtool``.

    Raises:
        BuildError: It is not there, or of another version than the pinned one.
    """
    server = next(server for server in SERVERS if name in server.binaries)
    own = folder()
    path = (own or _home(server)) / name
    if not path.is_file():
        raise BuildError(
            f"{name} is not in {path.parent}: put it there, or unset {OWN_FOLDER}"
            if own
            else f"{name} {server.version} is not built: run python tests/backends/build.py"
        )
    if own:
        _check(server, name, path)
    return path


def everything() -> None:
    """Build what is missing. Another process that does the same is waited for.

    Raises:
        BuildError: Go is missing or a build failed; it says which and why.
    """
    if folder():
        for server in SERVERS:
            for name in () if server.optional else server.binaries:
                binary(name)
        return
    with _alone():
        for server in SERVERS:
            if _home(server).is_dir():
                continue
            try:
                _make(server)
            except BuildError as error:
                if not server.optional:
                    raise
                _say(f"goes on without {server.name} {server.version}: {error}")


@contextmanager
def _alone() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _home(server: Server) -> Path:
    recipe = f"-{server.recipe}" if server.recipe > 1 else ""
    return cache() / f"{server.name}-{server.version}{recipe}"


def _make(server: Server) -> None:
    go = shutil.which("go")
    if not go:
        raise BuildError(
            f"the real servers are built with Go, and there is no go on the PATH: install Go 1.24 "
            f"or later, or name a folder that holds the binaries with {OWN_FOLDER}"
        )
    begun = time.monotonic()
    log = cache() / f"{server.name}-{server.version}.log"
    with (
        tempfile.TemporaryDirectory(dir=cache(), prefix=f".{server.name}-") as scratch,
        _progress(f"{server.name} {server.version}", server.minutes),
    ):
        work, out = Path(scratch) / "work", Path(scratch) / "out"
        work.mkdir()
        out.mkdir()
        log.write_text("")
        server.build(work, out, log)
        for name in server.binaries:
            _check(server, name, out / name)
        out.rename(_home(server))
    log.unlink()
    _say(f"{server.name} {server.version}: built in {time.monotonic() - begun:.0f} s")


def _check(server: Server, name: str, path: Path) -> None:
    """Hold what a binary says of its version against the pinned one."""
    done = subprocess.run(
        [path, *server.binaries[name]], capture_output=True, text=True, timeout=60, check=False
    )
    told = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    if not told or told[0] != server.version:
        raise BuildError(
            f"{path} is version {told[0] if told else 'unknown'}, and {server.version} is wanted"
        )


def _say(line: str) -> None:
    print(f"[servers] {line}", file=sys.stderr, flush=True)


@contextmanager
def _progress(what: str, minutes: int) -> Iterator[None]:
    """Say what is going on: a clock on a terminal, a line every minute elsewhere."""
    over, begun = threading.Event(), time.monotonic()
    terminal = sys.stderr.isatty()

    def tell() -> None:
        while not over.wait(1 if terminal else 60):
            passed = f"{what}: building, {time.monotonic() - begun:.0f} s of about {minutes} min"
            if terminal:
                print(f"\r[servers] {passed} ", end="", file=sys.stderr, flush=True)
            else:
                _say(passed)

    _say(f"{what}: building, about {minutes} min, once")
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        if terminal:
            print(file=sys.stderr)


def _run(log: Path, where: Path, *command: str | Path, **variables: str) -> str:
    """Run one step; what it prints goes to the log, of which a failure shows the end."""
    own = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=where,
        env={**os.environ, **own, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-15:])
        raise BuildError(f"{command[0]} {command[1]} failed; the whole log is {log}\n{end}")
    return done.stdout


def _collector(work: Path, out: Path, log: Path) -> None:
    own = "go.opentelemetry.io/collector/"
    contrib = "github.com/open-telemetry/opentelemetry-collector-contrib/"
    parts = {
        "receivers": (own, "receiver/otlpreceiver"),
        "processors": (own, "processor/batchprocessor", "processor/memorylimiterprocessor"),
        "connectors": (own, "connector/forwardconnector"),
        "exporters": (
            own,
            "exporter/debugexporter",
            "exporter/otlpexporter",
            "exporter/otlphttpexporter",
        ),
        "extensions": (own, "extension/zpagesextension"),
    }
    more = {
        "processors": ("deltatocumulative", "filter", "resource", "tailsampling", "transform"),
        "connectors": ("spanmetrics",),
        "exporters": ("loadbalancing", "prometheus", "prometheusremotewrite"),
    }
    modules = {kind: [f"{base}{path} v{COLLECTOR}" for path in paths]
               for kind, (base, *paths) in parts.items()}  # fmt: skip
    for kind, names in more.items():
        one = kind.removesuffix("s")
        modules[kind] += [f"{contrib}{one}/{name}{one} v{COLLECTOR}" for name in names]
    modules["extensions"] += [
        f"{contrib}extension/healthcheckextension v{COLLECTOR}",
        f"{contrib}extension/storage/filestorage v{COLLECTOR}",
    ]
    modules["providers"] = [
        f"{own}confmap/provider/{name}provider v{_STABLE}" for name in ("env", "file", "yaml")
    ]
    out_of = f"output_path: {work}/build, build_tags: grpcnotrace"
    lines = [
        f"dist: {{module: example.invalid/otelcol, name: otelcol, version: {COLLECTOR}, {out_of}}}"
    ]
    for kind, names in modules.items():
        lines += [f"{kind}:", *(f"  - gomod: {name}" for name in names)]
    (work / "builder.yaml").write_text("\n".join(lines) + "\n")
    # The installer of a tool is the one Go command that wants no -mod=mod.
    builder = f"{own}cmd/builder@v{COLLECTOR}"
    _run(log, work, "go", "install", builder, GOBIN=str(work), GOFLAGS="")
    _run(log, work, work / "builder", "--config", "builder.yaml", GOFLAGS="")
    (work / "build" / "otelcol").rename(out / "otelcol")


def _module(work: Path, log: Path, module: str, *, replace: str = "") -> None:
    """Make a module around another's programs, checked against that one's own sums."""
    (work / "go.mod").write_text(
        f"module example.invalid/wrapper\ngo 1.24.6\nrequire {module}\n{replace}\n"
    )
    found = json.loads(_run(log, work, "go", "mod", "download", "-json", module.replace(" ", "@")))
    sums = (Path(found["Dir"]) / "go.sum").read_text()
    with (work / "go.sum").open("a") as file:
        file.write(sums)


_SMALL = "-s -w"
_VERSION = "-X github.com/prometheus/common/version.Version="


def _jaeger(work: Path, out: Path, log: Path) -> None:
    # Its module path has no /v2, so the module of Jaeger 2.13 is numbered 1.76; and it has a
    # replacement of its own, which only a main module can have.
    module = "github.com/jaegertracing/jaeger"
    sarama = "replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0"
    _module(work, log, f"{module} v1.76.0", replace=sarama)
    flags = f"{_SMALL} -X {module}/internal/version.latestVersion=v2.13.0"
    _run(log, work, "go", "build", "-trimpath", "-ldflags", flags,
         "-o", out / "jaeger", f"{module}/cmd/jaeger")  # fmt: skip


def _prometheus(work: Path, out: Path, log: Path) -> None:
    # Its service discoveries need half of every cloud's client; files and fixed targets remain.
    module = "github.com/prometheus/prometheus"
    _module(work, log, f"{module} v0.316.0")
    flags = f"{_SMALL} {_VERSION}3.16.0"
    _run(log, work, "go", "build", "-trimpath", "-tags", "remove_all_sd", "-ldflags", flags,
         "-o", f"{out}/", f"{module}/cmd/prometheus", f"{module}/cmd/promtool")  # fmt: skip


def _alertmanager(work: Path, out: Path, log: Path) -> None:
    module = "github.com/prometheus/alertmanager"
    for name in ("alertmanager", "amtool"):
        _run(log, work, "go", "install", "-trimpath", "-ldflags", f"{_SMALL} {_VERSION}0.28.1",
             f"{module}/cmd/{name}@v0.28.1", GOBIN=str(out), GOFLAGS="")  # fmt: skip


def _older(work: Path, out: Path, log: Path) -> None:
    """Take promtool out of Debian's package, as it is: it is not installed, and needs no rights."""
    if not shutil.which("apt-get"):
        raise BuildError("promtool 2.42 is Debian's, and there is no apt-get here")
    try:
        _run(log, work, "apt-get", "download", "prometheus")
    except BuildError:
        _run(log, work, "apt-get", "update")
        _run(log, work, "apt-get", "download", "prometheus")
    (package,) = work.glob("prometheus_*.deb")
    _run(log, work, "dpkg-deb", "--extract", package, work / "package")
    shutil.copy2(work / "package/usr/bin/promtool", out / "promtool-2")


_VERSION_FLAG = ("--version",)
SERVERS = (
    Server("alertmanager", "0.28.1", dict.fromkeys(("alertmanager", "amtool"), _VERSION_FLAG),
           1, _alertmanager),
    Server("prometheus", "3.16.0", dict.fromkeys(("prometheus", "promtool"), _VERSION_FLAG),
           3, _prometheus),
    Server("prometheus-debian", "2.42.0", {"promtool-2": _VERSION_FLAG}, 1, _older,
           optional=True),
    Server("otelcol", COLLECTOR, {"otelcol": _VERSION_FLAG}, 4, _collector, recipe=2),
    Server("jaeger", "2.13.0", {"jaeger": ("version",)}, 4, _jaeger),
)  # fmt: skip
"""The quick ones first: what is there can be used while the others are built."""


if __name__ == "__main__":
    # Ended by SIGTERM, it ends what it runs as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        everything()
    except BuildError as error:
        sys.exit(f"[servers] {error}")
    _say(f"all there: {folder() or cache()}")
