"""What is public is on a list: a name more or less is a decision, and stands in the changelog."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import assisters_otel
from assisters_otel import catalog, testing

TYPING = Path(__file__).parents[1] / "typing" / "api.py"

PUBLIC = {
    assisters_otel: """
        AssistersInstrumentor Explanation Status Telemetry __version__ catalog explain
        flushed init retry_after_s retryable
    """,
    testing: """
        AssistersTelemetry FakeApi Point Received Recorded RetryPolicyError RetryReport RetryRow
        SentUsage check_retries recorded
    """,
    catalog: "ERRORS Error ErrorType TYPES find find_type retryable",
}


def _public(module):
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return set(listed)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (name.isupper() or getattr(value, "__module__", None) == module.__name__)
    }


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_a_public_name_is_on_the_list(module):
    assert _public(module) == set(PUBLIC[module].split())


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_a_public_function_or_class_has_a_docstring(module):
    things = {name: getattr(module, name) for name in PUBLIC[module].split()}

    silent = [
        name
        for name, thing in things.items()
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and not inspect.getdoc(thing)
    ]
    assert silent == []


def test_every_public_name_is_used_in_the_file_that_the_type_checkers_read():
    tree = ast.parse(TYPING.read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    for module in (assisters_otel, testing):
        assert set(PUBLIC[module].split()) - used - {"__version__", "catalog"} == set()


def test_dir_shows_what_is_public():
    assert set(dir(assisters_otel)) == set(PUBLIC[assisters_otel].split())
