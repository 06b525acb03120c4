"""The runners of the matrix and of other people's suites see what goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import metadata
from pathlib import Path

import bundle
import check_gen_ai
import environments
import foreign
import gen_ai
import matrix
import policies
import pytest
import vendors
from environments import NotMadeError
from suites import Suite

PYPROJECT = environments.PROJECT.joinpath("pyproject.toml").read_text()


def interpreter(path, says):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return path


def test_a_shim_that_starts_nothing_is_no_interpreter(tmp_path, monkeypatch):
    interpreter(tmp_path / "bin" / "python3.19", "exit 127")
    real = interpreter(tmp_path / "pyenv/versions/3.19.2/bin/python", "echo 3.19")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))

    assert environments.interpreters()["3.19"] == real


def test_the_interpreter_that_runs_it_is_always_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))

    found = environments.interpreters()

    assert list(found.values()) == [Path(sys.executable)]


def test_every_extra_is_tried():
    extras = metadata("assisters-otel").get_all("Provides-Extra")

    assert sorted(extras) == sorted([*matrix.EXTRAS, *matrix.EMPTY_EXTRAS])
    assert set(matrix.CLIENTS) == {"core", matrix.EMPTY, *matrix.EXTRAS}


def test_the_extras_that_bring_nothing_are_those_that_are_tried_as_such():
    assert set(re.findall(r"^(\w+) = \[\]$", PYPROJECT, re.MULTILINE)) == set(matrix.EMPTY_EXTRAS)


def test_a_client_s_range_is_that_of_the_development_group():
    written = set(re.findall(r'"([^"]+)"', re.sub(r"\[[a-z\d,]+\]", "", PYPROJECT)))

    assert {one for clients in matrix.CLIENTS.values() for one in clients} <= written


def test_the_bounded_choice_has_every_interpreter_and_the_lowest_versions():
    chosen = list(map(str, matrix.cells(["3.10", "3.13"], everything=False)))

    assert chosen == ["3.10-newest-core", "3.13-newest-core", "3.10-lowest-core"]


def test_an_install_that_fails_is_told_and_fails():
    cell = matrix.Cell("3.99", "newest", "core")

    good, told = matrix.attempt(cell, Path("/no/such/python"), Path("none.whl"))

    assert not good
    assert "/no/such/python" in told or "uv" in told


def test_each_vendor_is_tried_with_init_before_it_and_after_it():
    tried = {(cell.vendor, cell.when) for cell in vendors.CELLS}

    assert tried == {(one, when) for one in vendors.NEEDS for when in ("before", "after")}


def test_a_vendor_that_cannot_be_installed_is_told_and_fails(monkeypatch):
    monkeypatch.setattr(vendors, "attempt", lambda *_: (False, "no such version"))
    monkeypatch.setattr(environments, "wheel", lambda: Path("none.whl"))

    assert vendors.main(["logfire-after"]) == 1


def test_every_genai_instrumentation_that_can_be_checked_is_tried(monkeypatch, capsys):
    assert set(check_gen_ai.PEERS) == set(gen_ai.NEEDS)

    monkeypatch.setattr(gen_ai, "attempt", lambda name, *_: (name != "logfire", "told"))
    monkeypatch.setattr(environments, "wheel", lambda: Path("none.whl"))

    assert gen_ai.main(["logfire", "langfuse"]) == 1
    assert "1 passed, 1 failed" in capsys.readouterr().out


def test_a_bundle_that_cannot_be_built_is_told_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(environments, "wheel", lambda: Path("none.whl"))
    monkeypatch.setattr(bundle, "attempt", lambda *_: (False, "no compiler"))

    assert bundle.main() == 1
    assert "no compiler" in capsys.readouterr().out


@pytest.fixture
def builder(tmp_path):
    """An interpreter that notes each build, and makes a file as PyInstaller does."""
    inside = tmp_path / "bin" / "python"
    app, notes = tmp_path / "bundle" / bundle.APP.stem, tmp_path / "notes"
    interpreter(inside, f"echo built >> {notes}; mkdir -p {app.parent}; echo app > {app}")
    return inside, notes


def test_a_bundle_is_built_anew_only_for_another_wheel(builder, tmp_path):
    inside, notes = builder

    for digest in ("one", "one", "two", "two", "one"):
        app = bundle.bundle(inside, tmp_path / digest / "a.whl")

    assert app.read_text() == "app\n"
    assert notes.read_text() == "built\n" * 3


def test_a_bundle_that_was_not_finished_is_built_anew(builder, tmp_path):
    inside, notes = builder
    bundle.bundle(inside, tmp_path / "one" / "a.whl")
    interpreter(inside, "exit 1")
    with pytest.raises(NotMadeError):
        bundle.bundle(inside, tmp_path / "two" / "a.whl")
    interpreter(inside, f"echo built >> {notes}")

    bundle.bundle(inside, tmp_path / "one" / "a.whl")

    assert notes.read_text() == "built\n" * 2


def test_a_policy_that_is_judged_otherwise_fails_the_runner(monkeypatch, capsys):
    monkeypatch.setattr(policies, "attempt", lambda name, *_: (name == "litellm", "told"))
    monkeypatch.setattr(environments, "wheel", lambda: Path("none.whl"))

    assert policies.main([]) == 1
    assert "1 passed, 1 failed" in capsys.readouterr().out
    assert policies.main(["litellm"]) == 0


def test_a_test_that_fails_or_vanishes_with_us_alone_is_a_difference():
    theirs = {"same": "failed", "fine": "passed", "gone": "passed", "skipped": "skipped"}
    mine = {"same": "failed", "fine": "error", "skipped": "failed", "new": "failed"}

    assert foreign.worse(mine, theirs) == ["fine", "gone", "skipped", "new"]


def test_a_test_that_passes_with_us_alone_is_none():
    assert foreign.worse({"one": "passed"}, {"one": "failed"}) == []


def test_the_hosts_are_those_that_a_suite_names(tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    tests.joinpath("test_a.py").write_text('"https://user:pass@www.example.org:99/a" "all://b.c"')

    assert {"www.example.org", "b.c", "127.0.0.1"} <= set(foreign.hosts(tmp_path).split())


ODD = Suite("odd", "1.0")


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Play a suite whose only test fails in the first *failing* runs; say how many there were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, runs = tmp_path / "odd-1.0", tmp_path / "runs"
    (root / "tests").mkdir(parents=True)
    packed = tmp_path / "cache/assisters-otel/compat/downloads/odd-1.0.tar.gz"
    packed.parent.mkdir(parents=True)
    packed.touch()
    runs.touch()

    def odd(suite=ODD, *, mode="bare", anew=False, failing=0):
        told = f"""
            [ "$2" = pytest ] || exit 0
            echo >> {runs}
            [ $(wc -l < {runs}) -gt {failing} ] && outcome=passed || outcome=failed
            echo '{{"outcomes": {{"a test": "'$outcome'"}}, "spans": 0, "attempts": 0}}' \\
                > "$ASSISTERS_OTEL_FOREIGN_OUTCOMES"
        """
        python = interpreter(tmp_path / "bin" / "python", told)
        done, _ = foreign.run_of(suite, python, root, mode, anew=anew)
        return done.outcomes["a test"], len(runs.read_text())

    return odd


def test_a_run_without_the_library_is_kept_until_another_is_asked_for(odd):
    assert odd() == odd() == ("passed", 1)
    assert odd(anew=True) == ("passed", 2)
    assert odd(replace(ODD, arguments=("-v",))) == ("passed", 3)
    assert odd() == ("passed", 3)
    assert odd(mode="otel") == ("passed", 4)


def test_a_run_with_the_library_is_never_kept(odd):
    assert [odd(mode=mode) for mode in ("ours", "ours", "unwatched", "unwatched")] == [
        ("passed", number) for number in (1, 2, 3, 4)
    ]


def test_what_fails_by_chance_without_the_library_is_not_kept_as_failed(odd):
    assert odd(failing=2) == odd() == ("passed", 3)


def test_what_always_fails_without_the_library_is_kept_so(odd):
    assert odd(failing=99) == odd() == ("failed", 1 + foreign.AGAIN)


def test_a_baseline_counts_for_what_it_was_played_with_alone(tmp_path):
    here, installed = Path(sys.executable), tmp_path / "installed"
    other = interpreter(tmp_path / "bin/python", f"echo {installed}")

    def digest(suite=ODD, python=here, packed=b"", mode="otel", variables=()):
        return foreign.depends_on(suite, python, packed, mode, dict(variables))

    installed.mkdir()
    empty = digest(python=other)
    (installed / "assisters_otel-9.dist-info").mkdir()
    assert digest(python=other) == empty
    (installed / "httpx-9.dist-info").mkdir()
    assert digest() == digest(variables={"HOSTNAME": "other"}.items())
    digests = [
        empty, digest(python=other), digest(), digest(replace(ODD, version="1.1")),
        digest(packed=b"other"), digest(mode="bare"), digest(variables={"NO_PROXY": "*"}.items()),
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)


def test_what_hangs_is_ended_with_what_it_has_started():
    done = environments.run_for("sh", "-c", "sleep 77 & sleep 77", timeout_s=0.3)

    assert done.returncode != 0
    assert "ended after 0 s" in done.stderr


def test_a_command_that_fails_shows_what_it_said():
    with pytest.raises(NotMadeError, match="no space left"):
        environments.run("sh", "-c", "echo no space left; exit 1")


def test_what_is_not_there_is_no_success():
    done = subprocess.run(
        [sys.executable, matrix.__file__, "3.9-newest-core"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "there is none of these here; there are " in done.stderr
