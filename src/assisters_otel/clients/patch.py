"""Puts wrappers into the clients as they are imported, innermost, and takes them out again."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


class Target(NamedTuple):
    """One method to wrap, for example ``("httpx2", "HTTPTransport.handle_request", ours)``.

    Attributes:
        module: The client's top module, whose import is waited for.
        path: The method, from that module on.
        wrapper: Called as wrapt calls it: wrapped, instance, args, kwargs.
    """

    module: str
    path: str
    wrapper: Callable[..., Any]


class _Ours(wrapt.FunctionWrapper):  # type: ignore[type-arg] # generic for mypy, not at run time
    """A layer that we put in."""


def _is_layer(function: object) -> bool:
    # In wrapt 2 neither is an ObjectProxy.
    return isinstance(function, (wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper))


def _is_ours(function: object) -> bool:
    # OpenTelemetry's `unwrap` puts a bound layer back where a plain one was.
    return isinstance(function, _Ours) or isinstance(
        getattr(function, "_self_parent", None) if _is_layer(function) else None, _Ours
    )


def _layers(owner: type, name: str) -> Iterator[Any]:
    function = vars(owner)[name]
    while _is_layer(function):
        yield function
        function = function.__wrapped__


def put_in(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Wrap a method innermost: below everything that others have put or will put around it.

    Args:
        owner: The class that defines it.
        name: Its name.
        wrapper: Called as wrapt calls it. Not put in where one of ours is already:
            `httpx2.alias_httpx` gives one class two module names.
    """
    layers = list(_layers(owner, name))
    if any(map(_is_ours, layers)):
        return
    if layers:
        layers[-1].__wrapped__ = _Ours(layers[-1].__wrapped__, wrapper)
    else:
        setattr(owner, name, _Ours(vars(owner)[name], wrapper))


def take_out(owner: type, name: str) -> None:
    """Take our layer out of a method, wherever it is by now; others' layers stay."""
    outer = None
    for layer in _layers(owner, name):
        if _is_ours(layer):
            if outer is None:
                setattr(owner, name, layer.__wrapped__)
            else:
                outer.__wrapped__ = layer.__wrapped__
            return
        outer = layer


class Patches:
    """A set of targets, put in when their modules are imported, now or later."""

    def __init__(
        self,
        targets: tuple[Target, ...],
        guard: Callable[..., Any],
        then: Callable[[str], object],
    ) -> None:
        """Remember the targets.

        Args:
            targets: What to wrap.
            guard: Runs a step of ours so that it cannot break the app's import.
            then: Called with a module's name once its methods are wrapped.
        """
        self._targets = targets
        self._guard = guard
        self._then = then
        self.patched: dict[str, str] = {}

    def put_in(self) -> None:
        """Wrap what is imported, and the rest when it is. Imports nothing."""
        for module in dict.fromkeys(target.module for target in self._targets):
            _imports.watch(module, self)

    def take_out(self) -> None:
        """Put the very same functions back, and wait for no import any more."""
        _imports.forget(self)
        for target in self._targets:
            module = sys.modules.get(target.module)
            if module is not None and target.module in self.patched:
                self._guard(take_out, *_owner(module, target.path))
        self.patched.clear()

    def imported(self, module: ModuleType, name: str) -> None:
        """Wrap what is in *module*, which has just been imported as *name*."""
        self._guard(self._put_in, module, name)
        self._guard(self._then, name)

    def _put_in(self, module: ModuleType, name: str) -> None:
        for target in self._targets:
            if target.module == name:
                put_in(*_owner(module, target.path), target.wrapper)
        self.patched[name] = str(getattr(module, "__version__", "unknown"))


def _owner(module: ModuleType, path: str) -> tuple[type, str]:
    owner, _, name = path.rpartition(".")
    return getattr(module, owner), name


class _Imports:
    """Tells the patches of the day of an import.

    wrapt cannot take an import hook back, so there is one for each module and
    process, whatever is put in and taken out.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._hooked: set[str] = set()
        self._waiting: dict[str, list[Patches]] = {}

    def watch(self, name: str, patches: Patches) -> None:
        with self._lock:
            self._waiting.setdefault(name, []).append(patches)
            hooked = name in self._hooked
            self._hooked.add(name)
        module = sys.modules.get(name)
        if not hooked:
            # Fires at once if it is imported already.
            wrapt.register_post_import_hook(lambda module: self._tell(name, module), name)
        elif module is not None:
            patches.imported(module, name)

    def forget(self, patches: Patches) -> None:
        with self._lock:
            for waiting in self._waiting.values():
                if patches in waiting:
                    waiting.remove(patches)

    def _tell(self, name: str, module: ModuleType) -> None:
        for patches in list(self._waiting.get(name, ())):
            patches.imported(module, name)


_imports: Final = _Imports()
