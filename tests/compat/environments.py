"""The environments in which the library is tried: made with uv, outside the repository.

They lie in the user's cache folder (`~/.cache/assisters-otel/compat`), one for each name, and
are made anew when what they hold has changed. This project goes into each as a built wheel.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

PROJECT = Path(__file__).parents[2]
_HOUR_S = 3600
OLDEST = 10
"""The minor version of Python 3 that `requires-python` names."""


class NotMadeError(RuntimeError):
    """An environment cannot be had; the message says what to do."""


def cache() -> Path:
    """Where the environments lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "assisters-otel" / "compat"


def interpreters() -> dict[str, Path]:
    """Find the interpreters of this machine that the library is for, the oldest first.

    Returns:
        For example ``{"3.10": Path("/usr/bin/python3.10")}``; of two with one minor version
        the one on the PATH.
    """
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": Path(sys.executable)}
    for minor in range(OLDEST, OLDEST + 10):
        version = f"3.{minor}"
        onpath = shutil.which(f"python{version}")
        candidates = [*([Path(onpath)] if onpath else []), *home.glob(f"{version}.*/bin/python")]
        for one in candidates:
            # A shim stands on the PATH for what it then does not start.
            if version not in found and _says(one) == version:
                found[version] = one
    return dict(sorted(found.items(), key=lambda one: int(one[0].partition(".")[2])))


def _says(python: Path) -> str:
    told = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    done = subprocess.run([python, "-c", told], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def run(*command: str | Path, timeout_s: float = 900, **options: object) -> str:
    """Run a command that has to end well, and give what it printed."""
    done = run_for(*command, timeout_s=timeout_s, **options)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise NotMadeError(f"{' '.join(map(str, command[:4]))} … failed:\n{end}")
    return done.stdout


def run_for(
    *command: str | Path, timeout_s: float = 900, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own; one that hangs is ended with all it has started."""
    hushed = ("OTEL_", "ASSISTERS_", "COV", "PYTHON", "PYTEST", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(hushed)}
    with subprocess.Popen(
        [*map(str, command)],
        cwd=cwd,
        env={**clean, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            out, err = process.communicate()
            err += f"\nended after {timeout_s:.0f} s"
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end_all_on_sigterm() -> None:
    """Ended by SIGTERM, a runner ends what it runs as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def uv() -> str:
    """Where uv is: in this environment, or on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise NotMadeError("uv makes the environments and is not there: run .ci/setup")
    return found


def wheel() -> Path:
    """Build this project's wheel, if its source has changed since the last one."""
    files = sorted(one for one in (PROJECT / "src").rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for one in [PROJECT / "pyproject.toml", *files]:
        if one.suffix != ".pyc":
            digest.update(f"{one.relative_to(PROJECT)}\n".encode() + one.read_bytes())
    home = cache() / "wheels" / digest.hexdigest()[:16]
    with alone("wheel"):
        if not list(home.glob("*.whl")):
            for old in home.parent.glob("*"):
                # One of this hour may be another checkout's, and in use.
                if time.time() - old.stat().st_mtime > _HOUR_S:
                    shutil.rmtree(old)
            run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", home, cwd=PROJECT)
    return next(home.glob("*.whl"))


@contextmanager
def environment(name: str, python: Path, built: Path, *install: Sequence[str]) -> Iterator[Path]:
    """An environment with this project in it, for one process at a time.

    Args:
        name: Of its folder, for example ``3.13-lowest-grpc``.
        python: Its interpreter.
        built: The wheel of this project.
        install: The arguments of each `uv pip install` that comes before the wheel.

    Yields:
        Its interpreter.
    """
    home = cache() / name
    wanted = f"{python} {install}" + (PROJECT / "pyproject.toml").read_text()
    stamp = hashlib.sha256(wanted.encode()).hexdigest()
    with alone(name):
        inside = home / "bin" / "python"
        written = home / "stamp"
        if not written.is_file() or written.read_text() != stamp:
            shutil.rmtree(home, ignore_errors=True)
            run(uv(), "venv", "--quiet", "--python", python, home)
            for arguments in install:
                run(uv(), "pip", "install", "--quiet", "--python", inside, *arguments, cwd=PROJECT)
        anew = ("--no-deps", "--reinstall-package", "assisters-otel")
        run(uv(), "pip", "install", "--quiet", "--python", inside, *anew, built)
        written.write_text(stamp)
        yield inside


def try_each(
    script: str, cells: Sequence[object], attempt: Callable[[Any, Path, Path], tuple[bool, str]]
) -> int:
    """Try the wheel in one cell after the other, print what came of each; return an exit code."""
    try:
        built = wheel()
    except NotMadeError as error:
        sys.exit(f"[{script}] {error}")
    failed = 0
    for cell in cells:
        begun = time.monotonic()
        good, told = attempt(cell, Path(sys.executable), built)
        took = f"{time.monotonic() - begun:4.0f} s"
        print(f"{'ok    ' if good else 'FAILED'} {cell!s:22} {took}  {told}", flush=True)
        failed += not good
    print(f"{len(cells) - failed} passed, {failed} failed")
    return 1 if failed else 0


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait for another process that uses the same folder."""
    locks = cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
