from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import warm
from assisters_otel import catalog
from assisters_otel.version import __version__
from otlp import Collector

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main_without(*modules, arguments=None):
    """Run the command without a module, `main_without("rich", "demo")`, or without several."""
    if arguments is None:
        *modules, command = modules
        arguments = [command]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(modules)!r})); "
        "from assisters_otel.cli import main; main()"
    )
    return warm.run("-c", code, *arguments, env=os.environ)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        *((module, "cli") for module in ("typer", "rich")),
        *((module, "demo") for module in ("openai", "httpx", "starlette", "uvicorn")),
    ],
)
def test_without_the_extra_it_says_what_to_install(module, extra):
    done = main_without(module, "demo")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"assisters-otel needs {module}: pip install 'assisters-otel[{extra}]'\n"


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_a_web_server_the_fake_api_says_what_to_install(module):
    done = main_without(module, "fake-api")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"assisters-otel needs {module}: pip install 'assisters-otel[testing]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["doctor", "--json"], {0, 1}), (["errors"], {0}), (["explain", "invalid_model"], {0})],
)
def test_without_a_web_server_the_other_commands_work(arguments, code):
    done = main_without("starlette", "uvicorn", "openai", arguments=arguments)

    assert done.returncode in code, done.stderr
    assert done.stdout


def test_the_extra_of_the_command_is_typer_and_rich_alone():
    extras = dict(re.findall(r"^(\w+) = \[(.*)\]$", PYPROJECT.read_text("utf-8"), re.MULTILINE))

    assert re.findall(r'"([\w-]+)', extras["cli"]) == ["rich", "typer"]
    assert re.findall(r'"([\w-]+)', extras["testing"]) == ["starlette", "uvicorn"]
    # doctor reads versions by it, and it comes with the core.
    assert any(text.startswith("packaging") for text in requires("opentelemetry-instrumentation"))


def test_an_import_that_fails_for_another_reason_is_not_laid_to_the_extra():
    done = main_without("assisters_otel.providers.build", "demo")

    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("module", ["openai", "typer", "rich", "packaging"])
def test_the_version_needs_no_extra(module):
    done = main_without(module, "--version")

    assert (done.returncode, done.stdout) == (0, f"assisters-otel {__version__}\n")


def test_the_version_is_told_to_machines_as_well(call):
    for arguments in (["--json", "--version"], ["--version", "--json"]):
        assert json.loads(call(*arguments).out) == {"version": __version__}


@pytest.mark.parametrize(
    "arguments", [["errors"], ["explain", "invalid_model"], ["doctor"]], ids=lambda a: a[0]
)
def test_json_may_stand_before_the_command_and_after_it(call, arguments):
    with Collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        before = call("--json", *arguments, **variables)
        after = call(*arguments, "--json", **variables)

    assert json.loads(before.out) == json.loads(after.out)
    assert before.code == after.code


def test_the_package_is_a_command_where_its_script_is_not_on_the_path():
    done = subprocess.run(
        [sys.executable, "-m", "assisters_otel", "explain", "invalid_model"],
        env={**os.environ, "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "invalid_model" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["errors"], [error.advice for error in catalog.ERRORS]),
        (["explain", "invalid_api_key"], [catalog.find("invalid_api_key").advice]),
        (["doctor", "--endpoint", "http://127.0.0.1:1"], ["Start the collector, or name another"]),
        (["explain", "nonsense"], ["Write one of invalid_api_key, "]),
    ],
    ids=lambda value: value[0] if len(value[0]) < 10 else "",
)
def test_in_a_pipe_lines_are_whole(run, monkeypatch, arguments, told):
    monkeypatch.delenv("COLUMNS")

    done = run(*arguments)

    lines = (done.out + done.err).splitlines()
    for text in told:
        assert [line for line in lines if text in line], text
    assert not [line for line in lines if line != line.rstrip()]
    assert "…" not in done.out


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("--help", 0), ("", 2)])
def test_it_says_what_it_can_do(call, argument, code):
    said = call(*([argument] if argument else []))

    assert said.code == code
    assert __version__ in said.out or "demo" in said.out + said.err
