"""Patterns that are compiled when they are used first are right all the same."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import assisters_otel
from assisters_otel.api import patterns


def found():
    for module in pkgutil.walk_packages(assisters_otel.__path__, "assisters_otel."):
        # Their imports need a package of their own, and they have none.
        if any(part in module.name for part in (".cli", "__main__", "hook")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, patterns._Pattern):
                yield f"{module.name}.{name}", value


FOUND = dict(found())


@pytest.mark.parametrize("name", FOUND)
def test_a_pattern_compiles(name):
    pattern = FOUND[name]

    assert isinstance(re.compile(pattern._source, pattern._flags), re.Pattern)


def test_a_pattern_does_what_a_compiled_one_does():
    pattern = patterns.pattern("a(b)", re.IGNORECASE)

    assert pattern.match("AB")[1] == "B"
    assert pattern.sub("c", "xab") == "xc"
    assert pattern.pattern == "a(b)"
    assert "match" in vars(pattern)


def test_a_pattern_is_compiled_at_its_first_use_and_not_before():
    pattern = patterns.pattern("a(")

    with pytest.raises(re.error):
        pattern.match("a")
