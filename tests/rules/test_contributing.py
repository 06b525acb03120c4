"""CONTRIBUTING.md and docs/decisions say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "assisters_otel"
GUIDE = ROOT.joinpath("CONTRIBUTING.md").read_text()
RECORDS = sorted(ROOT.joinpath("docs", "decisions").glob("0*.md"))
TOUR = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", GUIDE, re.MULTILINE)
OWN = {
    *("attempts/control_flow.py", "clients/httpx/adapter.py", "clients/httpx/streams.py"),
    *("logger.py", "testing/server.py"),
}
"""They use names with an underscore that Python documents, or the library's own."""


def test_the_guide_is_short():
    lines = GUIDE.splitlines()

    assert len(lines) <= 120
    assert max(map(len, lines)) <= 130


@pytest.mark.parametrize(("file", "told"), TOUR, ids=[file for file, _ in TOUR])
def test_the_tour_says_how_long_a_file_is(file, told):
    lines = len(SOURCE.joinpath(file).read_text().splitlines())

    assert abs(lines - int(told)) <= 15, f"write {round(lines, -1)}"


def test_the_tour_takes_an_hour():
    assert len(TOUR) >= 15
    assert sum(int(lines) for _, lines in TOUR) <= 4000


@pytest.mark.parametrize(
    "name", re.findall(r"`(\.ci/\w+)", GUIDE) + re.findall(r"^(\.ci/\w+)", GUIDE, re.MULTILINE)
)
def test_a_command_of_the_guide_is_there(name):
    assert ROOT.joinpath(name).stat().st_mode & 0o100


def test_a_file_that_the_guide_names_is_there():
    named = re.findall(r"`((?:tests|docs|collector-config|src)/[\w./-]+)`", GUIDE)
    named += [
        f"src/assisters_otel/{one}"
        for one in re.findall(r"`((?:semconv|sinks|api)/\w+\.py)`", GUIDE)
    ]

    assert len(named) > 8
    assert [one for one in named if not ROOT.joinpath(one.replace("/NAME", "")).exists()] == []


def test_there_are_ten_records_and_each_is_short():
    assert len(RECORDS) >= 10
    for record in RECORDS:
        text = record.read_text()
        assert len(text.splitlines()) <= 40, record.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Context", "Decision", "Consequences", "Tests",
        ]  # fmt: skip


def test_every_record_is_in_the_list():
    listed = ROOT.joinpath("docs", "decisions", "README.md").read_text()

    for number, record in enumerate(RECORDS, 1):
        title = record.read_text().splitlines()[0].removeprefix(f"# {number}. ")
        assert f"{number}. [{title}]({record.name})" in listed


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_test_that_a_record_names_is_there(record):
    tests = "".join(path.read_text() for path in ROOT.joinpath("tests").rglob("test_*.py"))
    told = record.read_text().partition("## Tests")[2]

    names = re.findall(r"`(test_\w+)`", told)
    files = re.findall(r"`(tests/[\w./]+)`", told)
    assert names or files
    assert [name for name in names if f"def {name}(" not in tests] == []
    assert [file for file in files if not ROOT.joinpath(file).exists()] == []


def test_every_file_that_uses_a_private_attribute_is_on_the_list():
    (record,) = [one for one in RECORDS if "private" in one.name]
    listed = set(re.findall(r"^\| `([\w/]+\.py)`", record.read_text(), re.MULTILINE))
    using = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "noqa: SLF001" in path.read_text()
    }

    assert using - OWN == listed
