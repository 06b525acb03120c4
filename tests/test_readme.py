"""What the README and SECURITY.md say of the repository holds."""

from __future__ import annotations

import re
from pathlib import Path

import assisters_otel

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text("utf-8")


def test_the_readme_s_commands_are_there():
    commands = re.findall(r"^(\.ci/\w+)$", README, re.MULTILINE)

    assert set(commands) == {".ci/demo", ".ci/test"}
    for command in commands:
        assert ROOT.joinpath(command).exists(), command


def test_ci_runs_the_readme_s_test_command():
    assert "exec .ci/test" in ROOT.joinpath(".ci/run").read_text()


def test_every_public_name_is_there():
    for name in assisters_otel.__all__:
        assert getattr(assisters_otel, name) is not None
    assert set(dir(assisters_otel)) == set(assisters_otel.__all__)
    assert not hasattr(assisters_otel, "anything_else")


def test_every_test_that_security_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())

    assert len(named) > 10
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), name
