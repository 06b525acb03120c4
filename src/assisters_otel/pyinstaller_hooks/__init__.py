"""The hook with which PyInstaller puts into a bundle what it cannot find by itself.

PyInstaller finds this package by its entry point, and the hook by the name of its file. An app
never imports either.
"""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folder with the hook, for the entry point ``pyinstaller40``."""
    return [str(Path(__file__).parent)]
