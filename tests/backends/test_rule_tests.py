"""A file of tests of the rules that has passed is run again if anything has changed, else not."""

from __future__ import annotations

import os

import pytest
import rule_tests

from sizes import SIZE, WHOLE


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A promtool that records that it ran, and fails if the rules say so."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "promtool").write_text(
        '#!/bin/sh\necho "$@" >> ran\necho SUCCESS\n! grep -q wrong alerts.yaml\n'
    )
    (tmp_path / "promtool").chmod(0o755)
    (tmp_path / "alerts.yaml").write_text("right")
    (tmp_path / "some_test.yaml").write_text("tests")
    (tmp_path / "other_test.yaml").write_text("tests")
    return tmp_path


@pytest.fixture
def ran(files):
    """Run, tell whether that was done and how it ended."""

    def ran(file="some_test.yaml"):
        (files / "ran").write_text("")
        done = rule_tests.run(files / "promtool", files, file)
        assert done.stdout == "SUCCESS\n"
        told = (files / "ran").read_text()
        assert told in {"", f"test rules {file}\n"}
        return bool(told), done.returncode

    return ran


def test_what_has_passed_is_not_run_again_but_at_full_size(ran):
    assert ran() == (True, 0)
    assert ran() == (SIZE >= WHOLE, 0)


@pytest.mark.parametrize("changed", ["alerts.yaml", "some_test.yaml", "promtool"])
def test_it_is_if_anything_of_it_has_changed(files, ran, changed):
    assert ran() == (True, 0)
    with (files / changed).open("a") as file:
        file.write("# more\n")

    assert ran() == (True, 0)


def test_another_file_is_run_of_its_own(ran):
    assert ran() == (True, 0)
    assert ran("other_test.yaml") == (True, 0)


def test_what_has_failed_is_run_again(files, ran):
    (files / "alerts.yaml").write_text("wrong")

    assert ran() == (True, 1)
    assert ran() == (True, 1)


def test_what_nothing_has_used_for_a_month_is_forgotten(ran):
    assert ran() == (True, 0)
    (old,) = rule_tests.kept().iterdir()
    os.utime(old, (0, 0))

    assert ran("other_test.yaml") == (True, 0)
    assert old not in rule_tests.kept().iterdir()
