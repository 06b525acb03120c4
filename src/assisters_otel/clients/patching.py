"""Puts wrappers into the clients as they are imported, innermost, and takes them out again."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
import weakref
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import wrapt

from assisters_otel.clients.import_hooks import imports
from assisters_otel.clients.rebinding import _REFERENCES, _rebind
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CellType, ModuleType


class Target(NamedTuple):
    """One method to wrap, for example ``("httpx2", "HTTPTransport.handle_request", ours)``.

    Attributes:
        module: The client's top module, whose import is waited for.
        path: The method, from that module on.
        wrap: Makes, of the function that is there, the one to put in its place.
        wherever_defined: True if the method is wrapped in whichever class defines it, the named
            one or a base of it, and is left alone where none does: versions differ. Otherwise a
            class that only inherits the method is left alone.
    """

    module: str
    path: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    wherever_defined: bool = False


_MARKER: Final = re.compile("opentelemetry_instrumentation_[a-z_]+_applied")
"""On the functions that OpenTelemetry's own instrumentations put in without wrapt."""

# A function and no proxy of wrapt: it has the signature and the name of what was there, and
# a request to another host pays half. With each of ours, the patches that put it in.
_ours: Final[weakref.WeakKeyDictionary[Callable[..., Any], Patches]] = weakref.WeakKeyDictionary()


def _layers(owner: type, name: str) -> list[Any]:
    """Return the layers around a method, from the outside; what is below is a function.

    They are wrapt's, and the functions that OpenTelemetry's own instrumentations put in.
    """
    layers: list[Any] = []
    function = vars(owner)[name]
    while True:
        if isinstance(function, wrapt.BoundFunctionWrapper):
            # OpenTelemetry's `unwrap` puts one where a plain layer was.
            function = function._self_parent  # noqa: SLF001 - wrapt offers no other way
        if not isinstance(function, wrapt.FunctionWrapper) and _cell(function) is None:
            return layers
        layers.append(function)
        function = function.__wrapped__


def _cell(function: Any) -> CellType | None:
    """Return where a function of OpenTelemetry's holds what it wraps; None for any other.

    Its `uninstrument` puts back the ``__wrapped__`` of what it finds on the class. A layer around
    its function, with the marker that `functools.update_wrapper` copies, would make it put back
    the very function that it is to take out. Source: `opentelemetry-instrumentation-requests`.
    """
    if not isinstance(function, FunctionType) or not any(map(_MARKER.fullmatch, vars(function))):
        return None
    wrapped = vars(function).get("__wrapped__")
    cells = (cell for cell in function.__closure__ or () if cell.cell_contents is wrapped)
    return next(cells, None)


def put_in(
    owner: type,
    name: str,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
    patches: Patches,
) -> None:
    """Wrap a method innermost: below everything that others have put or will put around it.

    A class that only inherits it is left alone.

    Args:
        owner: The class that defines it.
        name: Its name.
        wrap: Makes our function of the one that is there. Not called where one of ours
            is already: `httpx2.alias_httpx` gives one class two module names.
        patches: Whose it is. One that was taken out and hangs on, because somebody had
            a mock in its place that day, is replaced.
    """
    if name not in vars(owner) and hasattr(owner, name):
        return
    layers = _layers(owner, name)
    inner = _innermost(layers, owner, name)
    before = _patches_of(inner)
    if before is not None:
        if before.patched:
            return
        inner = inner.__wrapped__
    is_held = sys.getrefcount(inner) > _REFERENCES
    ours = functools.update_wrapper(wrap(inner), inner)
    _ours[ours] = patches
    _set(owner, name, layers, ours)
    if is_held:
        _rebind(inner, ours)


@fail_safe
def take_out(owner: type, name: str) -> None:
    """Take our function out of a method, wherever it is by now; others' layers stay."""
    if name not in vars(owner):
        return
    layers = _layers(owner, name)
    inner = _innermost(layers, owner, name)
    if _patches_of(inner) is not None:
        is_held = sys.getrefcount(inner) > _REFERENCES
        _set(owner, name, layers, inner.__wrapped__)
        if is_held:
            _rebind(inner, inner.__wrapped__)


def _innermost(layers: list[Any], owner: type, name: str) -> Any:
    return layers[-1].__wrapped__ if layers else vars(owner)[name]


def _patches_of(function: Any) -> Patches | None:
    return _ours.get(function) if isinstance(function, FunctionType) else None


def _set(owner: type, name: str, layers: list[Any], function: Callable[..., Any]) -> None:
    if layers:
        cell = _cell(layers[-1])
        if cell is not None:
            cell.cell_contents = function
        layers[-1].__wrapped__ = function
    else:
        setattr(owner, name, function)


def unbound(original: Any) -> Callable[..., Any]:
    """Make what stands in a class callable with the instance, as a function is.

    A mock has no use for the instance; a descriptor asks for it in its own way.
    """
    if type(original) is FunctionType:  # a layer of wrapt's says that it is one, and binds
        return original
    bind = getattr(original, "__get__", None)
    if bind is None:
        return lambda _transport, *args, **kwargs: original(*args, **kwargs)
    return lambda transport, *args, **kwargs: bind(transport, type(transport))(*args, **kwargs)


def as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function that returns a coroutine taken for a coroutine function, as it was."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        # What `asyncio.iscoroutinefunction` looks for, and mocks ask.
        vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function


class Patches:
    """A set of targets, put in when their modules are imported, now or later."""

    def __init__(
        self,
        targets: tuple[Target, ...],
    ) -> None:
        """Remember the targets.

        Args:
            targets: What to wrap.
        """
        self._targets = targets
        self.patched: dict[str, str] = {}
        # Weakly: what was imported anew is in use no longer than the app wants it.
        self._owners: list[tuple[weakref.ref[type], str]] = []

    def put_in(self) -> None:
        """Wrap what is imported, and the rest when it is. Imports nothing."""
        for module in self.modules():
            imports.watch(module, self)

    def modules(self) -> tuple[str, ...]:
        """List the modules, imported or not, in the order of the targets."""
        return tuple(dict.fromkeys(target.module for target in self._targets))

    @fail_safe
    def take_out(self) -> None:
        """Put the very same functions back, and wait for no import any more."""
        imports.forget(self)
        owners, self._owners = self._owners, []
        for reference, name in owners:
            owner = reference()
            if owner is not None:
                take_out(owner, name)
        self.patched.clear()

    def imported(self, module: ModuleType, name: str) -> None:
        """Wrap what is in *module*, which has just been imported as *name*."""
        self._put_in(module, name)

    @fail_safe
    def _put_in(self, module: ModuleType, name: str) -> None:
        self.patched[name] = str(getattr(module, "__version__", "unknown"))
        for target in self._targets:
            if target.module == name:
                owner, attribute = _owner(module, target.path)
                if target.wherever_defined:
                    definers = (one for one in owner.__mro__ if attribute in vars(one))
                    owner = next(definers, object)
                    if owner is object:
                        continue
                put_in(owner, attribute, target.wrap, self)
                if not any(known() is owner and of == attribute for known, of in self._owners):
                    self._owners.append((weakref.ref(owner), attribute))


def _owner(module: ModuleType, path: str) -> tuple[type, str]:
    owner, _, name = path.rpartition(".")
    return attrgetter(owner)(module), name
