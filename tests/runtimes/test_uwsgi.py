"""The functions that uWSGI calls in its workers: the app's are called as well, after the library's.

Python sees no fork of uWSGI's, unless the library or an option of uWSGI's tells it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from apps import HERE, beside, running, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uWSGI is POSIX's")

SEEN, UNSEEN = "starts, fork seen: True", "starts, fork seen: False"
CASES = {
    "set before": [SEEN, "ends"],
    "decorated before": [SEEN],
    "decorated after": [SEEN],
    "shut down": [UNSEEN],
    "shut down under decorators": [UNSEEN],
}


@pytest.mark.parametrize("case", CASES)
def test_the_app_s_own_functions_are_called_once_in_a_worker(tmp_path: Path, case: str):
    words = [
        *(beside("uwsgi"), "--master", "--enable-threads", "--processes=1", "--die-on-term"),
        *("--need-app", "--module=uwsgi_hooks:wsgi", f"--virtualenv={sys.prefix}"),
        f"--socket={tmp_path / 'socket'}",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    said = tmp_path / "said"
    env = {
        **clean,
        "CASE": case,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_EXPORTER": "none",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "SAID": str(said),
    }
    with running(words, env, tmp_path) as app:
        wait_until(said.exists, app)
        app.end(signal.SIGTERM)

    # The master ends by the same function as its worker.
    assert list(dict.fromkeys(said.read_text().splitlines())) == CASES[case], app.said
    assert said.read_text().count("starts") == 1
