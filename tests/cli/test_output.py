"""The printer that the commands share."""

from __future__ import annotations

import pytest
from rich.text import Text

from assisters_otel.cli import output

ROWS = [
    output.Row((Text("one"), Text("1")), ((Text("first"), Text("a")), (Text("second"), Text("b")))),
    output.Row((Text("other"), Text("2")), ((Text("third"), Text("c")),)),
]
LISTING = output.Listing(("Name", "No", "What", "Why"), ROWS)
TABLE = """\
Name   No  What    Why
one    1   first   a
           second  b
other  2   third   c
"""
BLOCKS = """\
Name  No
one  1
  first   a
  second  b
other  2
  third  c
"""


@pytest.fixture
def shown(capsys, monkeypatch):
    def shown(*parts, columns):
        if columns is None:
            monkeypatch.delenv("COLUMNS")
        else:
            monkeypatch.setenv("COLUMNS", str(columns))
        output.show(*parts)
        return "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())

    return shown


@pytest.mark.parametrize(
    ("columns", "text"), [(74, BLOCKS), (output.NARROW, TABLE), (120, TABLE), (None, TABLE)]
)
def test_a_listing_is_blocks_in_a_narrow_terminal_alone(shown, columns, text):
    assert shown(LISTING, columns=columns) == text


@pytest.mark.parametrize("columns", [40, 120, None])
def test_one_title_alone_stands_above_no_block_and_no_titles_make_no_line(shown, columns):
    rows = [output.Row((Text("one"),), ((Text("a"),),))]

    out = shown(output.Listing(("", ""), rows), columns=columns)
    assert out.split() == ["one", "a"]
    assert out[0] == "o"
    has_title = "Name" in shown(output.Listing(("Name", "What"), rows), columns=columns or 120)
    assert has_title is (columns != 40)


@pytest.mark.parametrize("columns", [20, 120, None])
def test_a_command_to_copy_stays_one_line_and_a_sentence_is_wrapped(shown, columns):
    command = "  assisters-otel demo --endpoint http://localhost:4318"

    assert shown(output.uncut(command), columns=columns) == f"{command}\n"
    assert (shown(command, columns=columns or 120) == f"{command}\n") is (columns != 20)


@pytest.mark.parametrize(("in_one_line", "lines"), [(True, 1), (False, 3)])
def test_json_is_one_line_where_the_reader_takes_one(capsys, in_one_line, lines):
    output.show_json({"url": "http://h"}, in_one_line=in_one_line)

    assert len(capsys.readouterr().out.splitlines()) == lines
