"""Children of multiprocessing, which leave by ``os._exit`` after their finalizers.

A child clears the finalizers that it inherits, and then calls what `register_after_fork` was given.
That holds whether its parent forks it or the fork server. So a finalizer is registered there.

There are copies of multiprocessing. `multiprocess` has finalizers of its own; pathos and Hugging
Face's datasets use it. billiard, which Celery uses, has those of multiprocessing, and may import
them in the child alone. So the modules that have finalizers are awaited by their import.

Source: `multiprocessing.process`, 3.10 to 3.13; multiprocess 0.70; billiard 4.2.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.import_hooks import imports
from assisters_otel.fail_safe import fail_safe
from assisters_otel.process import PROCESS

if TYPE_CHECKING:
    from types import ModuleType

_UTIL: Final = ".util"
_WITH_FINALIZERS: Final = tuple(f"{name}{_UTIL}" for name in ("multiprocessing", "multiprocess"))


class ChildHooks:
    """The finalizer of this process, and the functions that register it in its children."""

    def __init__(self) -> None:
        """Register nothing yet."""
        self._known: dict[str, ModuleType] = {}
        self._finalizer: Any = None
        self._pid = 0

    def apply(self) -> None:
        """Wait for the modules with finalizers, which may be imported already."""
        for name in _WITH_FINALIZERS:
            imports.watch(name, self)

    def undo(self) -> None:
        """Wait for no module any more. What is registered does nothing while all is off."""
        imports.forget(self)

    @fail_safe
    def imported(self, module: Any, name: str) -> None:
        """Register the finalizer in each later child, and here if this is a child."""
        if self._known.get(name) is not module:
            self._known[name] = module
            # Of the object it keeps a weak reference: hence one object for the whole process.
            module.register_after_fork(self, lambda hooks: hooks.register(module))
        if _is_child(name.removesuffix(_UTIL)):
            self.register(module)

    def register(self, util: Any) -> None:
        """Register the finalizer of this process, once. A child goes on if this raises."""
        is_registered = self._pid == os.getpid() and self._finalizer.still_active()
        if not is_registered:
            self._pid = os.getpid()
            self._finalizer = util.Finalize(None, PROCESS.exit_child, exitpriority=0)


def _is_child(package: str) -> bool:
    """Return True if a package has started this process, and has come to the child's own code."""
    process: Any = sys.modules.get(f"{package}.process")
    # By the class's name: billiard makes its process multiprocessing's current one, and knows no
    # parent's.
    return process is not None and type(process.current_process()).__name__ != "_MainProcess"


CHILDREN: Final = ChildHooks()
"""The hooks of this process."""
