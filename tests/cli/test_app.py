from __future__ import annotations

import subprocess
import sys

import pytest

from assisters_otel import names


def main_without(module, *arguments):
    code = (
        f"import sys; sys.modules[{module!r}] = None; from assisters_otel.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        *((module, "cli") for module in ("typer", "rich", "starlette", "uvicorn")),
        *((module, "demo") for module in ("openai", "httpx")),
    ],
)
def test_without_the_extra_it_says_what_to_install(module, extra):
    done = main_without(module, "demo")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"assisters-otel needs {module}: pip install 'assisters-otel[{extra}]'\n"


def test_an_import_that_fails_for_another_reason_is_not_laid_to_the_extra():
    done = main_without("assisters_otel.export", "demo")

    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("module", ["openai", "typer", "rich", "packaging"])
def test_the_version_needs_no_extra(module):
    done = main_without(module, "--version")

    assert (done.returncode, done.stdout) == (0, f"assisters-otel {names.__version__}\n")


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("--help", 0), ("", 2)])
def test_it_says_what_it_can_do(call, argument, code):
    said = call(*([argument] if argument else []))

    assert said.code == code
    assert names.__version__ in said.out or "demo" in said.out + said.err
