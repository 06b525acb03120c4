"""Reports each import of a client, the first one and those that follow.

A client may be imported anew: by a reloader, a test suite, `importlib.reload`. wrapt's hooks report
the first import only, and cannot be removed. So a finder of the library's stands first in
`sys.meta_path`, as long as a module is waited for. It asks the other finders for the module's spec,
and wraps the loader. The module is reported when its loader has run.
"""

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
    """A receiver of a module's imports."""

    def imported(self, module: ModuleType, name: str) -> None:
        """Handle the import of *module* as *name*. A later import of it is reported as well."""


class ImportHooks(MetaPathFinder):
    """The finder, with the listeners that wait."""

    def __init__(self) -> None:
        """Wait for no module yet."""
        self._lock = threading.RLock()
        self._waiting: dict[str, list[Listener]] = {}
        self._finding: set[tuple[str, int]] = set()
        self._added: set[str] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._finding = set()

    def watch(self, name: str, listener: Listener, *, is_added: bool = False) -> None:
        """Report a module to *listener*: now if it is imported, and at each import.

        Args:
            name: The module.
            listener: The receiver.
            is_added: True if a program that embeds Python may add the module to `sys.modules`
                without an import. Then it is reported at the next import of any module.
        """
        with self._lock:
            if is_added and name not in sys.modules:
                self._added.add(name)
            self._waiting.setdefault(name, []).append(listener)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)
        if sys.modules.get(name) is not None:  # None in `sys.modules` forbids the import
            importlib.import_module(name)  # waits while another thread imports it
        module = sys.modules.get(name)
        if module is not None:
            listener.imported(module, name)

    @fail_safe
    def forget(self, listener: Listener) -> None:
        """Report nothing to *listener* any more."""
        with self._lock:
            for name, waiting in list(self._waiting.items()):
                if listener in waiting:
                    waiting.remove(listener)
                if not waiting:
                    del self._waiting[name]
                    self._added.discard(name)
            if not self._waiting and self in sys.meta_path:
                sys.meta_path.remove(self)

    def report(self, name: str, module: ModuleType) -> None:
        """Report to each listener that *module* has been imported as *name*."""
        for listener in list(self._waiting.get(name, ())):
            listener.imported(module, name)

    @fail_safe
    def _report_added(self) -> None:
        for name in self._added & sys.modules.keys():
            self._added.discard(name)
            self.report(name, sys.modules[name])

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders find, with a loader that reports the import."""
        if self._added:
            self._report_added()
        asked = name, threading.get_ident()
        if name not in self._waiting or asked in self._finding:
            return None
        self._finding.add(asked)  # another finder may ask all finders again, as wrapt's does
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
    """A proxy of a module's own loader. It reports the module when it has been loaded.

    The module itself keeps its own loader.
    """

    def exec_module(self, module: ModuleType) -> None:
        loader: Any = self.__wrapped__
        spec: Any = module.__spec__
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = loader
        if getattr(spec, "loader", None) is self:
            spec.loader = loader
        loader.exec_module(module)
        imports.report(module.__name__, module)


imports: Final = ImportHooks()
"""The finder of this process."""
