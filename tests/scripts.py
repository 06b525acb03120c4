"""Runs a script in a process of its own, as a user would: global state and exits are real."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import NamedTuple


class Run(NamedTuple):
    out: str
    err: str
    code: int


def run(script: str, *, by: tuple[str, ...] = (), timeout_s: float = 60, **env: str) -> Run:
    """Run *script*, dedented, with no telemetry variable but those of *env*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [*by, sys.executable, "-c", textwrap.dedent(script)],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Run(done.stdout, done.stderr, done.returncode)


def passed(script: str, *, by: tuple[str, ...] = (), **env: str) -> Run:
    """Run *script*, which must end well."""
    done = run(script, by=by, **env)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return done
