"""Docstrings and comments follow the prose rules: precise verbs, named components, short sentences.

Rules, and what they look at:

* The first word of a docstring is no vague verb (`VAGUE`), and neither "Whether" nor "What".
* The text of an attribute, an argument or a returned value begins with neither of these two.
* A sentence of a docstring has at most `MAX_WORDS` words.
* No docstring and no comment has a phrase of `PHRASES`.

`DO_NOT_HOLD_YET` lists the files that break a rule today. It may only shrink.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "assisters_otel"

VAGUE = {
    *("Begin", "Give", "Gives", "Have", "Hear", "Let", "Lets", "Make", "Makes"),
    *("Put", "Puts", "Say", "Says", "Take", "Takes", "Tell", "Tells"),
}
"""Verbs that leave open whether a function returns, records, creates, starts or logs something."""

NO_NOUN = {"Whether", "What"}
"""Openings of a text that is no noun phrase. A boolean's text begins with "True if"."""

PHRASES = (
    *("anybody", "nobody", "somebody", "whoever", "whom"),
    *("courier", "hush", "of ours", "of theirs"),
    *("take note of", "takes note of", "told of"),
)
"""Stand-ins for a component's name, metaphors, and phrases for "record" and "report"."""

MAX_WORDS = 30

DO_NOT_HOLD_YET: set[str] = set()

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_ENTRY = re.compile(r"\*{0,2}[A-Za-z_][\w.]*(?: \([^)]*\))?: +")
_BULLET = re.compile(r"(?:[*-]|\d+\.) +")
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]* +(?=[A-Z\"'(`*])")
_PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Fault(NamedTuple):
    """A text that breaks a rule, and its line."""

    line: int
    rule: str


class Block(NamedTuple):
    """A paragraph, an item or an entry of a docstring, with its first line and its role."""

    line: int
    role: str  # "summary", "entry" or "text"
    text: str


def docstrings(tree):
    """Yield the line and the text of each docstring, those of constants among them."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for before, statement in zip([None, *body], body, strict=False):
            is_first = before is None and isinstance(node, _DOCUMENTED)
            is_of_constant = isinstance(before, ast.Assign | ast.AnnAssign)
            if not (is_first or is_of_constant) or not isinstance(statement, ast.Expr):
                continue
            value = statement.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value


def blocks(line, text):
    """Yield the blocks of a docstring that begins on *line*."""
    section, indent, role, first, words = None, 0, "summary", line, []

    def block():
        return [Block(first, role, " ".join(words))] if words else []

    for number, raw in enumerate(text.splitlines(), line):
        stripped = raw.strip()
        depth = len(raw) - len(raw.lstrip())
        header = _SECTION.fullmatch(stripped)
        entry = _ENTRY.match(stripped) if section not in {None, "Returns", "Yields"} else None
        bullet = _BULLET.match(stripped)
        if header:
            yield from block()
            section, indent, role, words = header[1], depth, "entry", []
        elif not stripped or (section and depth <= indent):
            yield from block()
            section, role, words = (section, "text", []) if not stripped else (None, "text", [])
            if stripped:
                first, words = number, [stripped]
        elif entry and depth == indent + 4:
            yield from block()
            role, first, words = "entry", number, [stripped[entry.end() :]]
        elif bullet:
            yield from block()
            role, first, words = "text", number, [stripped[bullet.end() :]]
        else:
            first = first if words else number
            words.append(stripped)
    yield from block()


def comments(source):
    """Yield the line and the text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def faults(source):
    """Return what breaks a rule in a module, in the order of its lines."""
    found = []
    for line, docstring in docstrings(ast.parse(source)):
        for block in blocks(line, docstring):
            opening = block.text.split()[0].strip("*`")
            if block.role == "summary" and opening in VAGUE:
                found.append(Fault(block.line, f"begins with {opening!r}"))
            if block.role in {"summary", "entry"} and opening in NO_NOUN:
                found.append(Fault(block.line, f"begins with {opening!r}"))
            for sentence in _SENTENCE_END.split(block.text):
                length = len(sentence.split())
                if length > MAX_WORDS:
                    found.append(Fault(block.line, f"{length} words: {sentence[:40]!r}"))
        for number, text in enumerate(docstring.splitlines(), line):
            found += [Fault(number, f"has {one.lower()!r}") for one in _PHRASE.findall(text)]
    for line, text in comments(source):
        found += [Fault(line, f"has {one.lower()!r}") for one in _PHRASE.findall(text)]
    return sorted(found)


def faults_by_file():
    """Return the faults of each file of the package that has any."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        broken = faults(path.read_text("utf-8"))
        if broken:
            found[path.relative_to(PACKAGE).as_posix()] = broken
    return found


def test_every_text_follows_the_rules():
    broken = [
        f"src/assisters_otel/{name}:{fault.line}: {fault.rule}"
        for name, found in faults_by_file().items()
        if name not in DO_NOT_HOLD_YET
        for fault in found
    ]

    assert not broken, "\n".join(broken)


def test_a_file_that_follows_all_rules_is_not_on_the_list():
    assert sorted(DO_NOT_HOLD_YET - set(faults_by_file())) == []


FINE = '''
"""Read a header. Is it there?

Attributes:
    name: The name.
    is_there: True if it was sent.

Returns:
    The value, or None.
"""
A = 1
"""The first letter."""

def read():  # the client's own header wins
    """Return the header."""
'''

LONG_SENTENCE = "Word" + " word" * MAX_WORDS

PLANTED = {
    "a vague verb": ("Return the header.", "Give the header.", "begins with 'Give'"),
    "a predicate": ("Return the header.", "Whether there is one.", "begins with 'Whether'"),
    "an attribute": ("True if it was sent.", "Whether it was sent.", "begins with 'Whether'"),
    "a returned value": ("The value, or None.", "What was sent.", "begins with 'What'"),
    "a constant": ("The first letter.", "What comes first.", "begins with 'What'"),
    "a module": ("Read a header.", "Take a header.", "begins with 'Take'"),
    "a stand-in": ("The name.", "The name that somebody gave.", "has 'somebody'"),
    "a phrase": ("The name.", "The name of a class of ours.", "has 'of ours'"),
    "a comment": ("the client's own header wins", "nobody else sets it", "has 'nobody'"),
    "a long sentence": ("Is it there?", LONG_SENTENCE, f"{MAX_WORDS + 1} words"),
    "a long entry": ("The name.", LONG_SENTENCE, f"{MAX_WORDS + 1} words"),
}


def test_what_is_fine_has_no_fault():
    assert faults(FINE) == []


@pytest.mark.parametrize(("good", "bad", "rule"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found_with_its_line(good, bad, rule):
    planted = FINE.replace(good, bad)
    at = next(n for n, line in enumerate(planted.splitlines(), 1) if bad in line)

    (fault,) = faults(planted)

    assert (fault.line, fault.rule[: len(rule)]) == (at, rule)


def test_a_paragraph_an_item_and_a_section_end_a_sentence():
    half = " ".join(["word"] * (MAX_WORDS - 5))  # two of them would be too long
    text = f'"""{half}\n\n{half}\n\n* {half}\n* {half}\n\nArgs:\n    a: {half}\n    b: {half}\n"""'

    assert faults(text) == []
