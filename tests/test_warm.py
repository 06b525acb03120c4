"""A script that is run in a fork is run as the interpreter would have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import assisters_otel
import warm
from sizes import SIZE, WHOLE

LOOK = """
import os, sys
import __main__
print(sys.argv, sys.path[0], os.getcwd(), __name__, getattr(__main__, "__file__", None))
print(sorted(name for name in vars() if not name.startswith("__")), sys.stdout.seekable())
print([name for name in sys.path if "somewhere" in name], os.environ.get("SOME"))
print(sorted(os.environ))
"""
ENDS = {
    "print(7); raise SystemExit(3)": (3, "7\n"),
    "import atexit; atexit.register(print, 'last')": (0, "last\n"),
    "import os; os._exit(70)": (70, ""),
    "import os; os.kill(os.getpid(), 15)": (-15, ""),
    "import threading, time\nthreading.Timer(0.1, print, ['waited for']).start()": (
        0,
        "waited for\n",
    ),
    "import os, time\nif os.fork() == 0: time.sleep(0.2); print('child')": (0, "child\n"),
}
pytestmark = pytest.mark.skipif(SIZE >= WHOLE, reason="every script has its own interpreter")


def by_interpreter(*arguments, env, cwd):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("is_file", [True, False], ids=["a file", "a command"])
def test_a_script_sees_what_it_would_see(tmp_path, is_file):
    env = {**os.environ, "SOME": "é", "PYTHONPATH": os.pathsep.join(["/somewhere/a", "/somewhere"])}
    path = tmp_path / "look.py"
    path.write_text(LOOK)
    words = (path, "one", "two") if is_file else ("-c", LOOK, "one")

    done = warm.run(*words, env=env, cwd=tmp_path)

    assert done.stdout == by_interpreter(*words, env=env, cwd=tmp_path).stdout
    assert done.stderr == ""
    assert warm._kept[0].may_run(env)


@pytest.mark.parametrize("script", ENDS)
def test_a_script_ends_as_it_would_end(tmp_path, script):
    done = warm.run("-c", script, env=os.environ, cwd=tmp_path)
    other = by_interpreter("-c", script, env=os.environ, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (other.returncode, other.stdout) == ENDS[script]


def test_what_a_script_raises_is_told_and_is_1(tmp_path):
    done = warm.run("-c", "1 / 0", env=os.environ, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_script_that_does_not_end_is_killed():
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run("-c", "while True: pass", env=os.environ, timeout_s=0.2)
    assert warm.run("-c", "print(1)", env=os.environ).stdout == "1\n"


def test_no_client_is_there_before_it_is_imported():
    script = f"import sys; print({warm.LEFT!r} & sys.modules.keys())"

    assert warm.run("-c", script, env=os.environ).stdout == "set()\n"


def test_nothing_is_there_that_the_library_looks_for():
    looked_for = {
        name.partition(".")[0]
        for path in Path(assisters_otel.__file__).parent.rglob("*.py")
        for name in re.findall(r'sys\.modules\b(?:\.get\(|\[)"([\w.]+)"', path.read_text("utf-8"))
    }

    assert len(looked_for) > 3
    assert looked_for <= warm.LEFT


@pytest.mark.parametrize("name", ["OTEL_PYTHON_CONTEXT", "PYTHONHASHSEED", "LC_ALL", "HOME"])
def test_a_variable_for_which_a_fork_comes_too_late_has_an_interpreter_of_its_own(name):
    warm.run("-c", "", env=os.environ)

    assert warm._kept[0].may_run(os.environ)
    assert not warm._kept[0].may_run({**os.environ, name: "7"})
    assert warm.run("-c", "print(1)", env={**os.environ, "PYTHONHASHSEED": "7"}).stdout == "1\n"
