"""Runs a script in a process of its own, as a user would: global state and exits are real."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import NamedTuple

import warm


class Run(NamedTuple):
    out: str
    err: str
    code: int


def run(
    script: str,
    *,
    by: tuple[str, ...] = (),
    is_first: bool = False,
    timeout_s: float = 180,
    **env: str,
) -> Run:
    """Run a script with no telemetry variable but those that are named.

    Args:
        script: Dedented here.
        by: What starts the interpreter, as ``opentelemetry-instrument`` does.
        is_first: It is the first that the interpreter imports; see `warm`.
        timeout_s: Then it is killed.
        env: Its variables.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    words = "-c", textwrap.dedent(script)
    done = (
        subprocess.run(
            [*by, sys.executable, *words],
            env=clean | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if by or is_first
        else warm.run(*words, env=clean | env, timeout_s=timeout_s)
    )
    return Run(done.stdout, done.stderr, done.returncode)


def passed(script: str, *, by: tuple[str, ...] = (), is_first: bool = False, **env: str) -> Run:
    """Run a script, which must end well."""
    done = run(script, by=by, is_first=is_first, **env)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return done
