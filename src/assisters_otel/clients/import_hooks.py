"""Tells when a client is imported."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, Final, Protocol

import wrapt

from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class Listener(Protocol):
    """Who waits for a module's import."""

    def imported(self, module: ModuleType, name: str) -> None:
        """Take the module, which has just been imported as *name*. It may come again, anew."""


class _Imports(MetaPathFinder):
    """Tells the patches of the day of an import, and of each that follows it.

    A client may be imported anew: by a reloader, a test suite, `importlib.reload`. A hook of
    wrapt's is told of the first import alone, and cannot be taken back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: dict[str, list[Listener]] = {}
        self._finding: set[tuple[str, int]] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._finding = set()

    def watch(self, name: str, listener: Listener) -> None:
        with self._lock:
            self._waiting.setdefault(name, []).append(listener)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)
        if sys.modules.get(name) is not None:  # None keeps it from being imported
            importlib.import_module(name)  # waits, if another thread is just importing it
        module = sys.modules.get(name)
        if module is not None:
            listener.imported(module, name)

    @fail_safe
    def forget(self, listener: Listener) -> None:
        with self._lock:
            for name, waiting in list(self._waiting.items()):
                if listener in waiting:
                    waiting.remove(listener)
                if not waiting:
                    del self._waiting[name]
            if not self._waiting and self in sys.meta_path:
                sys.meta_path.remove(self)

    def tell(self, name: str, module: ModuleType) -> None:
        for listener in list(self._waiting.get(name, ())):
            listener.imported(module, name)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find what the others find, with a loader that tells of it."""
        asked = name, threading.get_ident()
        if name not in self._waiting or asked in self._finding:
            return None
        self._finding.add(asked)  # another's finder may ask all of them again, as wrapt's does
        try:
            found = (finder.find_spec(name, path, target) for finder in self._others())
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._finding.discard(asked)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec

    def _others(self) -> Iterator[Any]:
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                yield finder


class _Loader(wrapt.ObjectProxy):  # type: ignore[type-arg,unused-ignore] # in newer ones only
    """A module's own loader, for as long as it takes to load it; then it is told of."""

    def exec_module(self, module: ModuleType) -> None:
        loader: Any = self.__wrapped__
        spec: Any = module.__spec__
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = loader
        if getattr(spec, "loader", None) is self:
            spec.loader = loader
        loader.exec_module(module)
        imports.tell(module.__name__, module)


imports: Final = _Imports()
"""Whose import is waited for, by whom."""
