"""What the documentation describes and the code does not have yet.

A block that needs one of these is not run, and a name or a link that is one of these is not looked
for. A test fails for each that is there: then it is taken out of its list here.
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

COMMANDS = ("alerts", "fingerprint")
"""Commands of `assisters-otel`."""

FILES = (
    "CONTRIBUTING.md",
    "collector-config/kubernetes",
    "examples/otel-config.yaml",
    "examples/tenant_with_celery.py",
    "examples/tenant_with_fastapi.py",
)
"""Files and folders that pages link to."""

NAMES = (
    "assisters.api_key.fingerprint",
    "assisters.call",
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.token.usage",
    "gen_ai.request.max_tokens",
    "gen_ai.response.time_to_first_chunk",
)
"""Names of attributes, metrics and spans."""

ARGUMENTS = ("baggage", "key_fingerprint")
"""Arguments of `init`."""

PUBLIC = ("flushed",)
"""Names of the package."""

VARIABLES = ("ASSISTERS_OTEL_BAGGAGE", "ASSISTERS_OTEL_KEY_FINGERPRINT")
"""Variables of the library."""

EXTRAS = ("config",)
"""Extras of the distribution."""

ALERTS = ("AssistersTokensFast",)
"""Alerts."""


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
    """Return what there is, of each kind that has a list above."""
    return {
        "COMMANDS": set(commands()),
        "FILES": {name for name in FILES if ROOT.joinpath(name).exists()},
        "NAMES": known_names(),
        "ARGUMENTS": set(inspect.signature(assisters_otel.init).parameters),
        "PUBLIC": set(assisters_otel.__all__),
        "VARIABLES": variables(),
        "EXTRAS": extras(),
        "ALERTS": {rule["alert"] for rule in rules("alert")},
    }


def missing(text: str) -> list[str]:
    """Return what a block's text needs and the code does not have yet."""
    names = {form for name in NAMES for form in (name, label(name)) if name != "assisters.call"}
    signs = {
        **{f"assisters-otel {name}": name for name in COMMANDS},
        **{name: name for name in (*FILES, *names, *VARIABLES, *ALERTS)},
        **{f"{name}=": name for name in ARGUMENTS},
        **{f"assisters_otel.{name}": name for name in PUBLIC},
    }
    return [name for sign, name in signs.items() if sign in text]
