"""What the documentation describes and the code does not have yet.

A block that needs one of these is not run, and a name or a link that is one of these is not looked
for. Once it is there it is tried as all else is, and one test fails until it is taken out here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

from pages import ROOT
from queries import label, rules

import assisters_otel
from assisters_otel import semconv
from assisters_otel.cli.app import app
from assisters_otel.semconv import environment

LISTED: dict[str, set[str]] = {
    "commands": set(),
    "files": set(),
    "names": set(),  # of attributes, metrics and spans
    "arguments": set(),  # of `init`
    "public": set(),  # names of the package
    "variables": set(),
    "extras": set(),
    "alerts": set(),
}
"""What is described and not there yet, by its kind."""


def commands() -> dict[str, set[str]]:
    """Return the commands that there are, each with its options."""
    import typer.main

    group = typer.main.get_command(app)
    return {
        name: {option for one in command.params for option in one.opts}
        for name, command in group.commands.items()
    }


def known_names() -> set[str]:
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


def there() -> dict[str, set[str]]:
    """Return what there is, of each kind that is listed."""
    return {
        "commands": set(commands()),
        "files": {name for name in LISTED["files"] if ROOT.joinpath(name).exists()},
        "names": known_names(),
        "arguments": set(inspect.signature(assisters_otel.init).parameters),
        "public": set(assisters_otel.__all__),
        "variables": variables(),
        "extras": extras(),
        "alerts": {rule["alert"] for rule in rules("alert")},
    }


PENDING = {kind: names - there()[kind] for kind, names in LISTED.items()}
"""What of it is not there, by its kind."""


def missing(text: str) -> list[str]:
    """Return what a block's text needs and the code does not have yet."""
    names = PENDING["names"]
    as_they_are = (*names, *map(label, names), *PENDING["files"], *PENDING["variables"])
    signs = {
        **{name: name for name in as_they_are},
        **{f"assisters-otel {name}": name for name in PENDING["commands"]},
        **{f"{name}=": name for name in PENDING["arguments"]},
        **{f"assisters_otel.{name}": name for name in PENDING["public"]},
    }
    return [name for sign, name in signs.items() if sign in text]
