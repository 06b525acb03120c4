"""What the shipped configs say of themselves: heads, the commands in them, variables."""

from __future__ import annotations

import re
import shlex

from queries import CONFIG


def head(name: str) -> str:
    """The comment that a file begins with, as text."""
    lines = CONFIG.joinpath(f"{name}.yaml").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("#") for line in lines)


def command(name: str) -> dict[str, str]:
    """What the command in a file's head sets."""
    (shown,) = [part for part in head(name).split("\n\n") if "otelcol --config" in part]
    return dict(word.split("=", 1) for word in shlex.split(shown) if "=" in word)


def variables(name: str) -> dict[str, str]:
    """The variables that a file reads, each with its default, if it has one."""
    text = CONFIG.joinpath(f"{name}.yaml").read_text()
    return dict(re.findall(r"\$\{env:(\w+)(?::-([^}]*))?\}", text))
