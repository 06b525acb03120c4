"""What is run in forks is run once, is reported, and fails the run as it would without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import coverage
import pytest

import side_by_side

TESTS = Path(side_by_side.__file__).parent
RECORDS = """
import os, pytest

@pytest.fixture(scope="session", autouse=True)
def session():
    with open("sessions", "a") as file:
        file.write(f"{os.getpid()}\\n")

@pytest.fixture(autouse=True)
def record(request, tmp_path):
    yield
    with open("ran", "a") as file:
        file.write(f"{os.getpid()} {request.node.nodeid} {tmp_path.parent.name}\\n")
"""
SOME = """
import subprocess, sys

def test_a():
    assert 1 == 1

def test_b():
    print("what was printed")
    assert {} == 1

def test_c():
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def run(folder, *arguments, by=("-m", "pytest")):
    words = [
        "-p",
        "side_by_side",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "--forks",
        "2",
        "-q",
        *arguments,
    ]
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, *by, *words],
        env={**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ran(folder):
    return [line.split() for line in (folder / "ran").read_text().splitlines()]


def test_each_test_is_run_once_in_a_fork_and_what_fails_is_told_with_what_it_printed(tmp_path):
    (tmp_path / "conftest.py").write_text(RECORDS)
    for number in range(5):
        (tmp_path / f"test_{number}.py").write_text(SOME.format(1 if number != 3 else 2))

    done = run(tmp_path)

    assert done.returncode == 1, done.stderr
    assert re.search(r"^1 failed, 14 passed in ", done.stdout, re.MULTILINE)
    assert "FAILED test_3.py::test_b - assert 2 == 1" in done.stdout
    assert "what was printed" in done.stdout
    assert "printed by a child" not in done.stdout
    names = sorted(name for _, name, _ in ran(tmp_path))
    assert names == sorted(f"test_{file}.py::test_{test}" for file in range(5) for test in "abc")
    forks = {(pid, folder) for pid, _, folder in ran(tmp_path)}
    assert {folder for _, folder in forks} <= {"fork-0", "fork-1"}
    assert len(forks) == len({pid for pid, _ in forks})
    sessions = (tmp_path / "sessions").read_text().split()
    assert sorted(sessions) == sorted({pid for pid, _ in forks})


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(0)", 0), ("os.kill(os.getpid(), 9)", -9)], ids=["exit", "killed"]
)
def test_a_fork_that_ends_in_a_test_fails_the_run_and_the_test_is_named(tmp_path, end, code):
    (tmp_path / "test_a.py").write_text(f"import os\ndef test_ends():\n    {end}\n")
    (tmp_path / "test_b.py").write_text("def test_goes_on():\n    pass\n")

    done = run(tmp_path)

    assert done.returncode == 1
    assert f"a fork of the tests has ended with {code}, in test_a.py::test_ends" in done.stdout
    assert re.search(r"^1 failed, 1 passed in ", done.stdout, re.MULTILINE)


def test_what_fails_when_a_fork_exits_fails_the_run(tmp_path):
    script = "import atexit, os\ndef test_it():\n    atexit.register(os._exit, 70)\n"
    (tmp_path / "test_a.py").write_text(script)

    done = run(tmp_path)

    assert done.returncode == 1
    assert "a fork of the tests has ended with 70, in what comes after test_a.py" in done.stdout


def test_after_the_first_failure_nothing_more_is_run_if_so_asked(tmp_path):
    (tmp_path / "ran").touch()
    (tmp_path / "conftest.py").write_text(RECORDS)
    (tmp_path / "test_a.py").write_text("def test_a():\n    assert False\n")
    waits = "import time\nimport pytest\n@pytest.mark.parametrize('n', range(50))\n"
    (tmp_path / "test_b.py").write_text(f"{waits}def test_b(n):\n    time.sleep(1)\n")

    done = run(tmp_path, "-x")

    assert done.returncode == 1
    assert "stopping after 1 failures" in done.stdout
    assert len(ran(tmp_path)) < 50


def test_what_is_run_in_forks_is_measured(tmp_path):
    lines = {f"product_{n}": f"def f():\n    return {n}\n" for n in range(3)}
    for name, text in lines.items():
        (tmp_path / f"{name}.py").write_text(text)
        test = f"import {name}\ndef test_it():\n    assert {name}.f() >= 0\n"
        (tmp_path / f"test_{name}.py").write_text(test)
    (tmp_path / ".coveragerc").write_text("[run]\nparallel = true\nsource = .\n")

    done = run(tmp_path, by=("-m", "coverage", "run", "-m", "pytest"))

    assert done.returncode == 0, done.stdout + done.stderr
    combined = coverage.CoverageData(str(tmp_path / "combined"))
    for path in tmp_path.glob(".coverage.*"):
        part = coverage.CoverageData(str(path))
        part.read()
        combined.update(part)
    for name in lines:
        assert set(combined.lines(str(tmp_path / f"{name}.py"))) == {1, 2}
