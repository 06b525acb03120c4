"""Wraps methods of the clients when they are imported, and restores them.

Rules.

* The library's function is innermost: below each layer that another library has put around the
  method, or will put there. Then the order of set-up does not matter, and the app's HTTP span is
  open and current in the function.
* `Patches.undo` restores the very same functions, and leaves the layers of others in place.
* A method has at most one of the library's functions.
* Nothing is imported. `import_hooks` reports the import of a client, now or later.

How it works. A method in a class is the end of a chain of layers. A layer is a wrapper of wrapt, or
a function of OpenTelemetry's instrumentation or of logfire, which holds the wrapped function in a
cell of its closure. `_wrapt_layers` walks the chain, and `_replace_innermost` replaces what the
innermost layer holds. Without a layer it replaces the attribute of the class. A layer may also hold
a *bound* method, on one client or one transport: `rebinding` finds those by the garbage collector.

The function is a plain function and no proxy of wrapt. It has the signature and the name of the
original, and a call for another host costs half. `_patches_by_function` maps it to its `Patches`.

What would break it.

* A layer *around* OpenTelemetry's function: `uninstrument` restores the ``__wrapped__`` of what it
  finds on the class, and would restore its own function (`_closure_cell`).
* A mark on the function in place of `_patches_by_function`: `functools.update_wrapper` copies marks
  to the app's wrappers (test_somebody_s_copy_of_our_attributes_is_not_ours).
* `isinstance(function, wrapt.ObjectProxy)`: in wrapt 2 a `FunctionWrapper` is none.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import weakref
from operator import attrgetter
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import wrapt

from assisters_otel.api.patterns import pattern
from assisters_otel.clients.import_hooks import imports
from assisters_otel.clients.rebinding import OWN_REFERENCES, Replaced, rebind
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CellType, ModuleType


class Target(Record):
    """One method to wrap, for example ``("httpx2", "HTTPTransport.handle_request", wrap)``.

    Attributes:
        module: The client's top module. The method is wrapped when it is imported.
        path: The method, from that module on. A function of the module has its name alone.
        wrap: A function that gets the original and returns the function to put in its place.
        wherever_defined: True if the class that defines the method may be a base of the named one.
            It may differ between versions, and without one nothing is wrapped. False if a class
            that inherits the method is left alone.
    """

    module: str
    path: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    wherever_defined: bool = False


_MARKER: Final = pattern("opentelemetry_instrumentation_[a-z_]+_applied")
"""The marker on functions that OpenTelemetry's instrumentations put in without wrapt."""

_LOGFIRE: Final = "logfire._internal.integrations.llm_providers.llm_provider"
"""The module whose functions logfire puts around ``OpenAI.request``. Source: logfire 5.4, where
`functools.wraps` gives them the name, the module and the ``__wrapped__`` of the SDK's own."""

# Each of the library's functions, with the patches that put it in.
_patches_by_function: Final[weakref.WeakKeyDictionary[Callable[..., Any], Patches]] = (
    weakref.WeakKeyDictionary()
)


def _wrapt_layers(owner: type, name: str) -> list[Any]:
    """Return the layers around a method, the outermost first. Below the last is a function.

    A layer is a wrapper of wrapt, or a function of OpenTelemetry's instrumentation or of logfire.
    """
    layers: list[Any] = []
    function = vars(owner)[name]
    while True:
        if isinstance(function, wrapt.BoundFunctionWrapper):
            # OpenTelemetry's `unwrap` puts a bound wrapper where an unbound one was.
            function = function._self_parent  # noqa: SLF001 - wrapt offers no other way
        if not isinstance(function, wrapt.FunctionWrapper) and _closure_cell(function) is None:
            return layers
        layers.append(function)
        function = function.__wrapped__


def _closure_cell(function: Any) -> CellType | None:
    """Return the cell in which OpenTelemetry's or logfire's function holds what it wraps, or None.

    OpenTelemetry's `uninstrument` restores ``__wrapped__`` of the function that it finds on the
    class, if that has the marker. A layer around it would have the marker as well, because
    `functools.update_wrapper` copies it. Then `uninstrument` would restore the function that it is
    to remove. Source: `opentelemetry-instrumentation-requests`.
    """
    if not isinstance(function, FunctionType):
        return None
    is_marked = any(map(_MARKER.fullmatch, vars(function)))
    if not is_marked and function.__globals__.get("__name__") != _LOGFIRE:
        return None
    wrapped = vars(function).get("__wrapped__")
    cells = (cell for cell in function.__closure__ or () if cell.cell_contents is wrapped)
    return next(cells, None)


def wrap_innermost(
    owner: type,
    name: str,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
    patches: Patches,
) -> None:
    """Wrap a method innermost: below each layer that others have put or will put around it.

    A class that only inherits the method is left alone.

    Args:
        owner: The class that defines the method.
        name: The method's name.
        wrap: A function that gets the original and returns the library's. It is not called if the
            method is wrapped already: `httpx2.alias_httpx` gives one class two module names.
        patches: The patches that this function belongs to. A function left behind by earlier
            patches is replaced: a mock stood in its place when they were taken out.
    """
    if name not in vars(owner) and hasattr(owner, name):
        return
    layers = _wrapt_layers(owner, name)
    inner = _innermost(layers, owner, name)
    before = _patches_of(inner)
    if before is not None:
        if before.patched:
            return
        inner = inner.__wrapped__
    is_held = sys.getrefcount(inner) > OWN_REFERENCES
    ours = functools.update_wrapper(wrap(inner), inner)
    _patches_by_function[ours] = patches
    _replace_innermost(owner, name, layers, ours)
    if is_held:
        patches.replaced.append(Replaced(owner, inner, ours))


@fail_safe
def unwrap(owner: type, name: str, patches: Patches) -> None:
    """Remove the library's function from a method, for *patches*. The layers of others stay."""
    if name not in vars(owner):
        return
    layers = _wrapt_layers(owner, name)
    inner = _innermost(layers, owner, name)
    if _patches_of(inner) is not None:
        is_held = sys.getrefcount(inner) > OWN_REFERENCES
        _replace_innermost(owner, name, layers, inner.__wrapped__)
        if is_held:
            patches.replaced.append(Replaced(owner, inner, inner.__wrapped__))


def _innermost(layers: list[Any], owner: type, name: str) -> Any:
    return layers[-1].__wrapped__ if layers else vars(owner)[name]


def _patches_of(function: Any) -> Patches | None:
    return _patches_by_function.get(function) if isinstance(function, FunctionType) else None


def _replace_innermost(
    owner: type, name: str, layers: list[Any], function: Callable[..., Any]
) -> None:
    if layers:
        cell = _closure_cell(layers[-1])
        if cell is not None:
            cell.cell_contents = function
        layers[-1].__wrapped__ = function
    else:
        setattr(owner, name, function)


def as_function(original: Any) -> Callable[..., Any]:
    """Return what stands in a class as a function whose first argument is the instance.

    A mock takes no instance. A descriptor is bound to the instance first.
    """
    # By `type`: a wrapper of wrapt passes `isinstance`, but binds.
    if type(original) is FunctionType:
        return original
    bind = getattr(original, "__get__", None)
    if bind is None:
        return lambda _transport, /, *args, **kwargs: original(*args, **kwargs)  # noqa: PLW0108 - not the instance
    return lambda transport, /, *args, **kwargs: bind(transport, type(transport))(*args, **kwargs)


def as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that returns a coroutine as a coroutine function, as the original is."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        # `asyncio.iscoroutinefunction` looks for this marker, and `unittest.mock` calls it.
        vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function


class Patches:
    """A set of targets, which are wrapped when their modules are imported, now or later.

    Attributes:
        patched: The versions of the modules that are wrapped, by name.
        replaced: The functions that others may hold, with those now in their place.
    """

    def __init__(
        self,
        targets: tuple[Target, ...],
        later: Mapping[str, Callable[[], tuple[Target, ...]]] = MappingProxyType({}),
    ) -> None:
        """Remember the targets.

        Args:
            targets: The methods to wrap.
            later: More of them: by module, a function that returns its targets. It is called when
                the module has been imported.
        """
        self._targets = targets
        self._later = later
        self.patched: dict[str, str] = {}
        # Weak references: the app decides how long the classes of an earlier import live.
        self._owners: list[tuple[weakref.ref[type], str]] = []
        self.replaced: list[Replaced] = []
        self._is_applying = False

    def apply(self) -> None:
        """Wrap the modules that are imported, and each other one at its import."""
        self._is_applying = True
        try:
            for module in self.modules():
                imports.watch(module, self)
        finally:
            self._is_applying = False
            self._rebind()

    def modules(self) -> tuple[str, ...]:
        """Return the modules, imported or not, in the order of the targets."""
        return tuple(dict.fromkeys((*(target.module for target in self._targets), *self._later)))

    @fail_safe
    def undo(self) -> None:
        """Restore the very same functions, and wait for no import any more."""
        imports.forget(self)
        owners, self._owners = self._owners, []
        for reference, name in owners:
            owner = reference()
            if owner is not None:
                unwrap(owner, name, self)
        self._rebind()
        self.patched.clear()

    def imported(self, module: ModuleType, name: str) -> None:
        """Wrap the targets in *module*, which has just been imported as *name*."""
        self._apply(module, name)
        if not self._is_applying:
            self._rebind()

    @fail_safe
    def _rebind(self) -> None:
        replaced, self.replaced = self.replaced, []
        rebind(replaced)

    @fail_safe
    def _apply(self, module: ModuleType, name: str) -> None:
        targets = self._later[name]() if name in self._later else self._targets
        self.patched[name] = str(getattr(module, "__version__", "unknown"))
        for target in targets:
            if target.module == name:
                owner, attribute = _owner(module, target.path)
                if target.wherever_defined:
                    definers = (one for one in owner.__mro__ if attribute in vars(one))
                    owner = next(definers, object)
                    if owner is object:
                        continue
                wrap_innermost(owner, attribute, target.wrap, self)
                if not any(known() is owner and of == attribute for known, of in self._owners):
                    self._owners.append((weakref.ref(owner), attribute))


def _owner(module: Any, path: str) -> tuple[Any, str]:
    owner, _, name = path.rpartition(".")
    return (attrgetter(owner)(module) if owner else module), name
