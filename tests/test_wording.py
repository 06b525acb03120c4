"""What backends, logs and terminals show is in good English."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from assisters_otel import catalog
from assisters_otel.semconv import metrics as metric_names

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# "Begin" is no noun: it is a start, or a beginning.
NO_NOUN = re.compile(r"\b(?:the|its|a|from|at) begin\b|\bbegin of\b", re.IGNORECASE)


def texts(source):
    """Every text of a module, its docstrings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("metric", metric_names.METRICS, ids=lambda metric: metric.name)
def test_a_metric_s_description_is_one_sentence(metric):
    assert re.fullmatch(r"[A-Z][^.]*\.", metric.description)


def test_begin_is_no_noun_in_any_text():
    odd = [(path.name, text) for path in SOURCES for text in texts(path.read_text("utf-8"))
           if NO_NOUN.search(text)]  # fmt: skip

    assert odd == []


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [*PAGES, ROOT / "collector-config" / "dashboard.json"]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_nor_in_what_people_read(path):
    assert NO_NOUN.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("error", catalog.ERRORS, ids=lambda error: error.code)
def test_advice_is_whole_sentences(error):
    for text in (error.advice, error.user_message):
        assert text[0].isupper()
        assert text.endswith((".", "?"))
