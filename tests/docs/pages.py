"""The documentation's pages, taken apart: headings, links, tables, blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    README,
    *DOCS,
    ROOT / "collector-config" / "README.md",
    ROOT / "examples" / "README.md",
]
"""The pages for users: all rules are for these."""

LINKING = [
    *PAGES,
    ROOT / "SECURITY.md",
    *ROOT.glob("CONTRIBUTING.md"),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
"""The pages whose links are followed."""

_FENCE = re.compile(r"(`{3,})(\w*)$")


def name_of(page: Path) -> str:
    """Return the page's path inside the repository."""
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found: list[Block] = []
    start, language, lines = 0, "", []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if not start and fence:
            start, language, lines = number, fence[2], []
        elif start and line == "```":
            found.append(Block(name_of(page), start, language, "\n".join(lines) + "\n"))
            start = 0
        elif start:
            lines.append(line)
    assert not start, f"{page}:{start}: the block has no end"
    return found


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that are in one of these languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines outside blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def anchors(page: Path) -> set[str]:
    """Return what a link to the page may have after its ``#``, as GitHub makes it of headings."""
    found: set[str] = set()
    for _, line in prose(page):
        found |= set(re.findall(r'<a id="([^"]+)">', line))
        heading = re.match(r"#+ (.+)", line)
        if not heading:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def links(page: Path) -> list[tuple[int, str]]:
    """Return the targets of a page's links inside the repository, with their lines."""
    return [
        (number, target)
        for number, line in prose(page)
        for target in re.findall(r"\]\(([^)\s]+)\)", line)
        if not target.startswith(("http://", "https://"))
    ]


def rows(page: Path, head: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is *head*."""
    lines = page.read_text("utf-8").splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith(f"| {head} |")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
    return found
