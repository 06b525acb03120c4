"""The process that listens on a port of this machine, as Linux reports it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTENS: Final = "0A"  # Source: include/net/tcp_states.h, TCP_LISTEN
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")


def port_holder(port: int) -> str | None:
    """Return the name and id of the process that listens on a port, or None if it is unknown.

    The command line may hold a key, so it is not returned.
    """
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not sockets:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if any(_leads_to(one) in sockets for one in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text("utf-8", "replace").strip()
                return f"{name}, process {folder.name}"
    return None


def _leads_to(link: Path) -> str:
    with suppress(OSError):  # it is closed by now, as that of the folder itself
        return str(link.readlink())
    return ""


def _inodes(port: int) -> Iterator[str]:
    for table in _TABLES:
        with suppress(OSError):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                    yield rest[5]
