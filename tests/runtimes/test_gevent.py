"""Under gevent a program that `subprocess` runs starts as a fork of the app."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
from gevent import monkey

monkey.patch_all()
import os, subprocess, sys
import gevent
import assisters_otel

assisters_otel.init("program", endpoint="http://127.0.0.1:1")
ran_in = os.open("ran_in", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def run_on():
    while True:
        os.write(ran_in, b"%d\\n" % os.getpid())
        gevent.sleep(0)

gevent.spawn(run_on)
gevent.sleep(0)
for _ in range(5):
    assert subprocess.run(["true"]).returncode == 0
print(os.getpid())
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_program_that_is_run_is_not_the_app_once_more(tmp_path):
    """A greenlet of the app that runs there takes what is meant for the app, from its sockets."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert {*(tmp_path / "ran_in").read_text().split()} == {done.stdout.strip()}
