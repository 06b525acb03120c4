"""What promtool says of the tests of the rules, and what it has said of the very same before.

It computes for minutes, and depends on nothing but itself, the rules, and the file of tests. So
that it passed is kept in the cache under the digest of all three. A failure is not kept. At full
size, which `.ci/nightly` has, nothing is taken from there.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from contextlib import suppress
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Final

import build
from servers import GO

from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from pathlib import Path

RULES: Final = "alerts.yaml"
"""What each of the files names as its rules; test_configs holds that it names no other."""

_KEPT_S: Final = 30 * 86_400
"""How long an unused pass stays in the cache."""


def kept() -> Path:
    """Where the passes lie."""
    return build.cache().parent / "rules"


def run(promtool: Path, folder: Path, file: str) -> CompletedProcess[str]:
    """Run the tests of a file, or tell how they passed before.

    Args:
        promtool: Which one.
        folder: Of the rules and the file.
        file: Its name.
    """
    command = ["nice", str(promtool), "test", "rules", file]
    path = kept() / f"{_digest(promtool, folder, file)}.txt"
    if SIZE < WHOLE and path.is_file():
        os.utime(path)
        return CompletedProcess(command, 0, path.read_text("utf-8"), "")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **GO},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(done.stdout, "utf-8")
        new.replace(path)
        _forget_old()
    return done


def _digest(promtool: Path, folder: Path, file: str) -> str:
    binary = promtool.stat()  # to read all of it would take as long as a short file of tests
    found = hashlib.sha256(f"{promtool} {binary.st_size} {binary.st_mtime_ns}".encode())
    for name in (RULES, file):
        text = folder.joinpath(name).read_bytes()
        found.update(f"\n{name} {len(text)}\n".encode() + text)
    return found.hexdigest()


def _forget_old() -> None:
    for path in kept().iterdir():
        with suppress(FileNotFoundError):  # another run forgets, too
            if path.stat().st_mtime < time.time() - _KEPT_S:
                path.unlink()
