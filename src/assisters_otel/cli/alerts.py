"""``assisters-otel alerts``: the alert rules and the other configurations that are in the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

import assisters_otel
from assisters_otel.cli import output

HELP: Final = "Print the alert rules for Prometheus, or another file of collector-config."

RULES: Final = "alerts.yaml"

# In a wheel the files stand in the package, in a checkout two folders above it. Source: the
# `force-include` of pyproject.toml.
_PACKAGE: Final = Path(str(assisters_otel.__file__)).parent
_FOLDERS: Final = (_PACKAGE / "collector_config", _PACKAGE.parents[1] / "collector-config")


def alerts(
    file: Annotated[
        str, typer.Argument(help="For example dashboard.json, collector.yaml, alertmanager.yaml.")
    ] = RULES,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print one file of ``collector-config`` as it is, for ``>`` or a pipe."""
    files = _files()
    if file not in files:
        names = ", ".join(sorted(files)) or "there is none in this installation"
        raise typer.BadParameter(f"{file} is no file of collector-config. Write one of: {names}")
    content = files[file].read_bytes()
    if json:
        output.show_json({"file": file, "text": content.decode()})
    else:
        _write(content)  # no printer: a rule's line may be longer than a terminal


def _write(content: bytes) -> None:
    """Write a file to stdout as it is.

    As text it would be in the encoding of stdout, which is the system's code page where the output
    is redirected on Windows. Prometheus and Grafana read UTF-8.
    """
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # an app's own stream
        sys.stdout.write(content.decode())
        return
    sys.stdout.flush()
    buffer.write(content)
    buffer.flush()


def _files() -> dict[str, Path]:
    """Return the files by their path in ``collector-config``.

    pip compiles the script that is among them.
    """
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is None:
        return {}
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
