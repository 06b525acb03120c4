"""The pages can be read, and what they link to and name is there."""

from __future__ import annotations

import re

import known_names
import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
from opentelemetry.instrumentation import environment_variables as of_instrumentation
from pages import DOCS, LINKING, PAGES, README, anchors, links, name_of, prose

import assisters_otel
from rules.test_prose import PHRASES

MAX_README_LINES = 200
MAX_LINE = 130
MAX_WORDS = 30
"""Of a sentence. Twenty are the aim."""

PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)
LINKING_PAGE = pytest.mark.parametrize("page", LINKING, ids=name_of)

OTHERS = {  # each under who reads it
    "ASSISTERS_API_KEY",  # the SDKs of the API, and the examples
    # opentelemetry-exporter-prometheus
    "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT",
    # opentelemetry-instrumentation-aws-lambda
    "OTEL_INSTRUMENTATION_AWS_LAMBDA_FLUSH_TIMEOUT",
}  # fmt: skip


def known_variables():
    modules = (
        opentelemetry.environment_variables,
        opentelemetry.sdk.environment_variables,
        of_instrumentation,
    )
    clients = ("HTTPX", "REQUESTS", "AIOHTTP_CLIENT")
    return (
        {value for module in modules for value in vars(module).values() if isinstance(value, str)}
        | {variable.format(client) for variable in known_names.variables() for client in clients}
        | OTHERS
    )


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= MAX_README_LINES


@PAGE
def test_no_line_is_too_long_but_a_row_of_a_table(page):
    lines = enumerate(page.read_text("utf-8").splitlines(), 1)
    may_be_long = page != README

    assert [
        number
        for number, line in lines
        if len(line) > MAX_LINE and not (may_be_long and line.startswith("|"))
    ] == []


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_a_page_is_reached_from_the_readme(page):
    assert name_of(page) in {target.partition("#")[0] for _, target in links(README)}


@LINKING_PAGE
def test_a_link_leads_somewhere(page):
    for line, target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}:{line}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)}:{line}: {target}"


def test_anchors_are_made_as_github_makes_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What's `init`, really?\n## Off\n## Off\n```sh\n# no heading\n```\n")

    assert anchors(page) == {"whats-init-really", "off", "off-1"}


@PAGE
def test_a_heading_says_one_thing_once(page):
    headings = [line for _, line in prose(page) if line.startswith("#")]

    assert headings[0].startswith("# ")
    assert len(headings) == len(set(headings))
    assert sum(line.startswith("# ") for line in headings) == 1


@PAGE
def test_every_variable_that_a_page_names_is_one(page):
    known = known_variables()
    text = re.sub(
        r"\{([A-Z_,]+)\}(\w*)",
        lambda found: " ".join(f"{one}{found[2]}" for one in found[1].split(",")),
        page.read_text("utf-8"),
    )
    for name in re.findall(r"(?<![\w.])(?:OTEL|ASSISTERS)_[A-Z_]+", text):
        assert any(one == name or (name.endswith("_") and one.startswith(name)) for one in known), (
            name
        )


@PAGE
def test_every_name_of_telemetry_that_a_page_names_is_sent(page):
    known = known_names.of_telemetry()
    text = page.read_text("utf-8")
    for name in re.findall(r"`((?:assisters|gen_ai|error)\.[a-z_.]+[a-z])[`=]", text):
        assert name in known or name.startswith("assisters.dev"), name


@PAGE
def test_every_name_of_the_package_that_a_page_names_is_there(page):
    for name in re.findall(r"assisters_otel\.(\w+)", page.read_text("utf-8")):
        submodules = {"testing"}
        assert name in {*assisters_otel.__all__, *submodules}, name


@PAGE
def test_every_command_that_a_page_names_is_there(page):
    known = known_names.commands()
    for name in re.findall(r"(?<![/\w])assisters-otel ([a-z][a-z-]+)", page.read_text("utf-8")):
        assert name in known, name


def sentences(page):
    """Yield the sentences of paragraphs and items, with the line on which each block begins."""
    block, start = [], 0
    for number, line in [*prose(page), (0, "")]:
        begins = re.match(r"\s*(?:[*-]|\d+\.) ", line)
        if (not line.strip() or begins or line.startswith(("|", "#", "<!--"))) and block:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block))
            text = re.sub(r"`[^`]*`", "`x`", text)
            for sentence in re.split(r"(?<=[.?!:;])[*)\"]* +", text):
                yield start, sentence
            block = []
        if line.strip() and not line.startswith(("|", "#", "<!--", "![")):
            start = start if block else number
            block.append(line.strip())


@PAGE
def test_a_sentence_is_short_enough_to_be_read_once(page):
    long = [f"{name_of(page)}:{n}: {s}" for n, s in sentences(page) if len(s.split()) > MAX_WORDS]

    assert long == []


@PAGE
def test_a_component_has_its_name(page):
    pattern = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)

    assert [(n, pattern.findall(line)) for n, line in prose(page) if pattern.search(line)] == []
