from __future__ import annotations

import re
from pathlib import Path

import pytest

import sizes
from scripts import passed, run

HERE = str(Path(__file__).parent)


@pytest.mark.parametrize(
    ("size", "rounds"), [("", 20), ("1", 20), (" 3 ", 60), ("10", 200), ("25", 500)]
)
def test_the_variable_says_how_many_tenths(size, rounds):
    done = passed(
        "import sizes; print(sizes.sized(200), sizes.sized(5, at_least=7))",
        PYTHONPATH=HERE,
        **{sizes.VARIABLE: size},
    )

    assert done.out.split() == [str(rounds), str(max(7, rounds // 40))]


@pytest.mark.parametrize(("size", "items"), [("1", "ad be cf"), ("2", "abcdef abcdef abcdef")])
def test_a_share_is_one_of_those_that_are_the_whole(size, items):
    done = passed(
        "import sizes; print(*(''.join(sizes.shared('abcdef', one, 3)) for one in (3, 1, 2)))",
        PYTHONPATH=HERE,
        **{sizes.VARIABLE: size},
    )

    assert done.out.strip() == items


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "whole", "\u00b2"])
def test_what_is_no_size_says_what_to_write(size):
    done = run("import sizes", PYTHONPATH=HERE, **{sizes.VARIABLE: size})

    assert done.code == 1
    assert "ASSISTERS_OTEL_SIZE is a whole number from 1, not" in done.err
    assert "Write 1 for a tenth" in done.err


COLLECT = """
    import sys
    import pytest
    sys.exit(pytest.main(["--collect-only", "-q", "ASKED"]))
"""


MODULE = f"{HERE}/clients/test_propagation.py"
SAMPLED = "test_the_span_goes_to_the_api_and_the_app_s_baggage_does_not"


def collected(size, asked):
    """The variants of the sampled test that are collected."""
    done = passed(COLLECT.replace("ASKED", asked), **{sizes.VARIABLE: size})
    return re.findall(rf"::{SAMPLED}\[(.+)\]$", done.out, re.MULTILINE)


def test_of_what_is_sampled_a_third_stays_with_each_client_and_each_header():
    some, every = collected("1", MODULE), collected("10", MODULE)

    assert len(every) / 4 < len(some) < len(every) / 2
    assert set("-".join(some).split("-")) == set("-".join(every).split("-"))


def test_what_is_asked_for_by_its_name_is_run_at_any_size():
    assert collected("1", f"{MODULE}::{SAMPLED}") == collected("10", MODULE)
