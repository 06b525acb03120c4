"""alerts: the configurations that travel with the package."""

from __future__ import annotations

import compileall
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from assisters_otel.cli import alerts

CONFIG = Path(__file__).parents[2] / "collector-config"
FILES = sorted(
    path.relative_to(CONFIG).as_posix() for path in CONFIG.rglob("*.*") if path.suffix != ".pyc"
)


def test_the_alert_rules_are_printed_as_they_are(call):
    code, out, err = call("alerts")

    assert (code, err) == (0, "")
    assert out == CONFIG.joinpath("alerts.yaml").read_text()
    assert yaml.safe_load(out)["groups"]


@pytest.mark.parametrize("columns", [20, 200])
def test_no_line_of_the_rules_is_wrapped_in_a_terminal(call, columns):
    out = call("alerts", COLUMNS=str(columns)).out

    assert out == CONFIG.joinpath("alerts.yaml").read_text()


@pytest.mark.parametrize("file", ["dashboard.json", "collector.yaml", "targets/collector.yaml"])
def test_every_other_file_is_printed_by_its_name(call, file):
    assert call("alerts", file).out == CONFIG.joinpath(file).read_text()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_a_file_is_printed_byte_by_byte_whatever_stdout_encodes(
    call, monkeypatch, encoding, errors
):
    """A redirect on Windows has the code page of the system."""
    for file in FILES:
        with monkeypatch.context() as patch, io.BytesIO() as printed:
            patch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding, errors))
            code, _, err = call("alerts", file)

            assert (code, err) == (0, "")
            assert printed.getvalue() == CONFIG.joinpath(file).read_bytes(), file


def test_where_stdout_takes_text_alone_it_is_text(call, monkeypatch):
    with monkeypatch.context() as patch, io.StringIO() as printed:
        patch.setattr(sys, "stdout", printed)
        call("alerts", "dashboard.json")

        assert printed.getvalue() == CONFIG.joinpath("dashboard.json").read_text("utf-8")


def test_as_json_it_is_one_document(call):
    told = json.loads(call("--json", "alerts", "jaeger-ui.json").out)

    assert told["file"] == "jaeger-ui.json"
    assert json.loads(told["text"])


@pytest.mark.parametrize("file", ["rules.yaml", "../pyproject.toml", "/etc/passwd", "targets"])
def test_a_name_that_is_no_file_is_answered_by_those_that_are(call, file):
    code, out, err = call("alerts", file)

    assert (code, out) == (2, "")
    assert "alerts.yaml" in err
    assert "dashboard.json" in err


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_what_pip_has_compiled_is_none_of_the_files(call, tmp_path, monkeypatch, option):
    shutil.copytree(CONFIG, tmp_path / "config")
    compileall.compile_dir(tmp_path / "config", quiet=1)
    monkeypatch.setattr(alerts, "_FOLDERS", (tmp_path / "config",))
    (compiled,) = tmp_path.rglob("*.pyc")
    file = compiled.relative_to(tmp_path / "config").as_posix()

    code, _, err = call("alerts", *option, file)

    assert code == 2
    assert "Write one of: README.md" in err
    assert file not in err.partition("Write one of")[2]
