"""Every block of the documentation runs, or is read by what it is written for."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import known_names
import promql_parser
import pytest
import yaml
from pages import PAGES, ROOT, all_blocks, blocks
from queries import label, series, wrong_names

import warm
from assisters_otel import catalog
from assisters_otel.semconv import metrics as metric_names

LANGUAGES = {"python", "sh", "promql", "yaml", "text"}
KEY = "ask_test_1234567890abcdef"
OF_THE_READER = {"tenant"}
"""Labels that `init(baggage=…)` adds, in the queries of the pages."""

NOT_INSTALLED = {"azure", "functions_framework", "logfire"}
"""Modules of scripts that this environment may be without. Such a script is only parsed here."""

STAND_INS = (
    *("ddtrace-run", "docker", "helm", "jaeger", "kubectl", "opentelemetry-instrument"),
    *("otelcol", "pip", "prometheus", "promtool", "pytest", "python", "python3"),
)
"""Programs that a block starts and this test does not: a stand-in notes how it was called."""


def of(*languages):
    found = all_blocks(*languages)
    return pytest.mark.parametrize("block", found, ids=map(str, found))


def test_a_block_is_in_a_language_that_is_tried():
    written = {block.language for page in PAGES for block in blocks(page)}

    assert written == LANGUAGES


# -- python ----------------------------------------------------------------------------------------


def imported(text):
    """Return the top-level names of the modules that a script imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


TESTS = [block for block in all_blocks("python") if "\ndef test_" in block.text]
SCRIPTS = [block for block in all_blocks("python") if block not in TESTS]


@pytest.fixture
def run(api, tmp_path):
    """Run a script with the variables of an app whose API is the fake one."""
    variables = {
        "ASSISTERS_BASE_URL": api.url,
        "ASSISTERS_API_KEY": KEY,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }

    def run(*arguments):
        done = warm.run(*arguments, env={**os.environ, **variables}, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_script_runs(run, api, tmp_path, block):
    ast.parse(block.text)
    absent = {name for name in imported(block.text) if importlib.util.find_spec(name) is None}
    if absent:
        assert absent <= NOT_INSTALLED
        pytest.skip(f"not installed: {', '.join(absent)}")
    script = tmp_path / "script.py"
    script.write_text(block.text.replace("https://api.assisters.dev/v1", api.url))
    explains = "told." in block.text
    if explains:
        api.answers("api_key_revoked")

    printed = run(script)

    assert (catalog.find("api_key_revoked").advice in printed) is explains


def test_the_tests_of_the_pages_pass(run, tmp_path):
    """All in one run: each start of pytest takes seconds."""
    for number, block in enumerate(TESTS):
        tmp_path.joinpath(f"test_{number}.py").write_text(block.text)

    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)

    assert len(TESTS) > 2
    assert f"{sum(block.text.count('def test_') for block in TESTS)} passed" in printed


# -- sh --------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path):
    """Run a block in a folder like the repository's, and return the calls of what it starts."""
    notes = tmp_path / "notes"
    notes.touch()
    programs, here = tmp_path / "bin", tmp_path / "here"
    for folder in (programs, here / ".ci", here / ".venv" / "bin"):
        folder.mkdir(parents=True)
    note = f'#!/bin/sh\n{{ echo "$0"; for a; do echo "$a"; done; echo; }} >> {notes}\n'
    stand_ins = [programs / name for name in (*STAND_INS, "assisters-otel")]
    stand_ins += [here / ".ci" / path.name for path in (ROOT / ".ci").iterdir()]
    stand_ins += [here / ".venv" / "bin" / "python"]
    for path in stand_ins:
        path.write_text(note)
        path.chmod(0o755)
    for name in ("collector-config", "examples"):  # copies, which a block may change
        shutil.copytree(ROOT / name, here / name)
    for name in ("docs", "src", "tests"):
        (here / name).symlink_to(ROOT / name)

    def run(text):
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", f"{text}\nwait"],
            cwd=here,
            env={"PATH": f"{programs}:/usr/bin:/bin", "ASSISTERS_API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        calls = [call.splitlines() for call in notes.read_text().strip().split("\n\n") if call]
        return [[Path(program).name, *arguments] for program, *arguments in calls]

    return run


@of("sh")
def test_a_command_can_be_given(shell, block):

    for program, *arguments in shell(block.text):
        if program == "assisters-otel":
            command, *rest = arguments
            options = {one.partition("=")[0] for one in rest if one.startswith("--")}
            assert options <= known_names.commands()[command]
        if program == "pip":
            assert {
                extra
                for one in arguments
                for extra in re.sub(r"^\.\[?|\]$", "", one).split(",")
                if one.startswith(".") and extra
            } <= known_names.extras()
        for one in arguments:
            if one.startswith(("collector-config/", "tests/", "examples/", "docs/")):
                assert (ROOT / one).exists(), one


def test_a_label_is_added_where_the_page_says(shell, tmp_path):
    (block,) = [one for one in all_blocks("sh") if "sed -i" in one.text]

    shell(block.text)

    shipped, changed = ROOT / "collector-config", tmp_path / "here" / "collector-config"
    names = {path.name for path in shipped.glob("*.yaml")}
    texts = {name: changed.joinpath(name).read_text() for name in names}
    assert {name for name in names if texts[name] != shipped.joinpath(name).read_text()} == {
        "collector.yaml", "gateway.yaml", "prometheus.yaml",
    }  # fmt: skip
    for name in ("collector.yaml", "gateway.yaml", "prometheus.yaml"):
        assert "team.name" in texts[name]
        assert yaml.safe_load(texts[name])


def test_a_wrong_command_is_found(shell):
    with pytest.raises(AssertionError, match="no-such-program"):
        shell("no-such-program --help")


def test_the_digest_in_the_page_is_of_eight_digits():
    (block,) = [one for one in all_blocks("sh") if "sha256sum" in one.text and "cut" in one.text]

    done = subprocess.run(
        ["/bin/sh", "-c", block.text],
        env={"ASSISTERS_API_KEY": KEY, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert re.fullmatch(r"[0-9a-f]{8}\n", done.stdout)


# -- promql ----------------------------------------------------------------------------------------


def known_series():
    """Return what can be asked for, with the labels that `init(baggage=…)` adds."""
    return {name: labels | OF_THE_READER for name, labels in series().items()}


@of("promql")
def test_a_query_asks_for_what_is_sent(block):
    promql_parser.parse(block.text)

    assert wrong_names(block.text, known_series()) == []


def test_a_query_for_what_is_not_sent_is_found():
    assert wrong_names("sum by (code) (rate(assisters_client_errors_total[5m]))", known_series())
    assert wrong_names("rate(assisters_client_error_total[5m])", known_series())


def test_every_metric_has_a_query_or_is_the_other_half_of_one():
    asked = "".join(block.text for block in all_blocks("promql"))

    for metric in metric_names.METRICS:
        if ".tokens." not in metric.name:
            assert label(metric.name) in asked, metric.name


# -- yaml ------------------------------------------------------------------------------------------


@of("yaml")
def test_a_document_can_be_read(block):
    document = yaml.safe_load(block.text)

    assert isinstance(document, dict)
    assert json.dumps(document)
