"""The command, in a process of its own and, where that makes no difference, in this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import warm
from assisters_otel import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPTS = Path(sysconfig.get_path("scripts"))


class Ended(NamedTuple):
    """How the command ended, and what it printed."""

    code: int
    out: str
    err: str


def _is_set_for_us(name: str) -> bool:
    return name.startswith(("OTEL_", "ASSISTERS_", "OPENAI_")) or name.lower().endswith("_proxy")


@pytest.fixture(scope="module", autouse=True)
def _no_variables() -> Iterator[None]:
    """Leave none that the command reads: a test sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_is_set_for_us, list(os.environ)):
            patch.delenv(name)
        patch.setenv("COLUMNS", "80")
        yield


@pytest.fixture(scope="session")
def run() -> Callable[..., Ended]:
    """Run the installed command in a process of its own, under another one if that is named."""

    def run(*arguments: str | Path, under: str | None = None, **variables: str) -> Ended:
        command = [SCRIPTS / "assisters-otel", *arguments]
        if under is None:
            done = warm.run(*command, env={**os.environ, **variables})
        else:
            done = subprocess.run(
                [SCRIPTS / under, *command],
                env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables},
                capture_output=True,
                encoding="utf-8",
                timeout=60,
                check=False,
            )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Ended]:
    """Run the command in this process; what is logged counts as printed, as it would be there."""

    def call(*arguments: str | Path, **variables: str) -> Ended:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["assisters-otel", *map(str, arguments)])
            for name, value in variables.items():
                patch.setenv(name, value)
            capsys.readouterr()
            caplog.clear()
            with pytest.raises(SystemExit) as exit_:
                cli.main()
        out, err = capsys.readouterr()
        return Ended(exit_.value.code, out, err + caplog.text)

    return call


@pytest.fixture
def call_in_ascii(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """`call` on a terminal that shows nothing else, as under ``PYTHONIOENCODING=ascii``."""

    def call_in_ascii(*arguments: str | Path, **variables: str) -> Ended:
        with monkeypatch.context() as patch, io.TextIOWrapper(io.BytesIO(), "ascii") as terminal:
            patch.setattr(sys, "stdout", terminal)
            ended = call(*arguments, **variables)
            terminal.flush()
            return ended._replace(out=terminal.buffer.getvalue().decode())

    return call_in_ascii
