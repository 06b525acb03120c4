"""The names that the code has, to compare the pages with."""

from __future__ import annotations

import importlib
import pkgutil
import re

from pages import ROOT

from assisters_otel import semconv
from assisters_otel.cli.app import app
from assisters_otel.semconv import environment


def commands() -> dict[str, set[str]]:
    """Return the commands that there are, each with its options."""
    import typer.main

    group = typer.main.get_command(app)
    return {
        name: {option for one in command.params for option in one.opts}
        for name, command in group.commands.items()
    }


def of_telemetry() -> set[str]:
    """Return every name of an attribute, metric or span that the library writes."""
    modules = [
        importlib.import_module(f"{semconv.__name__}.{one.name}")
        for one in pkgutil.iter_modules(semconv.__path__)
    ]
    values = [value for module in modules for value in vars(module).values()]
    rows = [row for value in values if isinstance(value, tuple) for row in value]
    named = [one.name for one in [*values, *rows] if isinstance(getattr(one, "name", None), str)]
    return {value for value in values if isinstance(value, str)} | set(named)


def extras() -> set[str]:
    """Return the extras that there are."""
    text = ROOT.joinpath("pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))


def variables() -> set[str]:
    """Return the variables that the library reads by name."""
    return {value for value in vars(environment).values() if isinstance(value, str)}
