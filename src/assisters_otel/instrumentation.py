"""The adapters of all clients with one recorder, switched on and off together.

`startup`, `instrumentor` and a recording of `testing` create an `Instrumentation`, and turn it on
by `SWITCH`. It knows the clients by their adapters, and of providers only the two it records in.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics, trace

from assisters_otel import config as configs
from assisters_otel import process, runtimes
from assisters_otel.clients import http_variables, retries
from assisters_otel.clients.all_clients import HTTP_CLIENTS, SDKS
from assisters_otel.clients.patching import Patches, Target
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.providers import workers
from assisters_otel.recording.recorder import Recorder
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from assisters_otel.clients.adapter import ClientAdapter


class Instrumentation:
    """The patches of all clients, and the recorder that they report to.

    Attributes:
        config: The settings, with those of the environment.
        recorder: The recorder of attempts and calls.
    """

    def __init__(
        self,
        config: configs.Config,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Create the recorder and the adapters. Nothing is patched yet."""
        self.config = config
        self.recorder = Recorder(
            config,
            tracer_provider,
            metrics.get_meter_provider() if meter_provider is None else meter_provider,
        )
        self._tracer_provider, self._meter_provider = tracer_provider, meter_provider
        self._without_spans: frozenset[str] = frozenset()
        # Read now, while wrong ones are corrected, and not when a client is imported.
        self._variables = {
            module: http_variables.read(client.variable) for module, client in HTTP_CLIENTS.items()
        }
        self._adapters: dict[str, ClientAdapter] = {}
        self._patches = Patches(
            (), {name: partial(self._targets, name) for name in (*HTTP_CLIENTS, *SDKS)}
        )
        self._retries = Patches(retries.TARGETS)
        self._runtimes = runtimes.RuntimeHooks()
        self._flushes_at_exit = False
        self._at_exit = workers.DaemonWorkers(0)

    def make_no_spans(self, names: frozenset[str]) -> tuple[str, ...]:
        """Switch off the library's HTTP spans of some clients. Metrics and call spans stay.

        Args:
            names: The names in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``.

        Returns:
            Those of the names that are a client's.
        """
        named = {one: client.instrumentation for one, client in HTTP_CLIENTS.items()}
        off = {one: name for one, name in named.items() if name in names}
        self._without_spans = frozenset(off)
        return tuple(off.values())

    def _adapter(self, module: str) -> ClientAdapter:
        adapter = self._adapters.get(module)
        if adapter is None:
            adapter = HTTP_CLIENTS[module].adapter(
                self.recorder, self._tracer_provider, self._variables[module]
            )
            if module in self._without_spans:
                adapter.make_no_spans()
            adapter = self._adapters.setdefault(module, adapter)
        return adapter

    def _targets(self, module: str) -> tuple[Target, ...]:
        of_sdk = SDKS.get(module)
        return (self._adapter(module) if of_sdk is None else of_sdk(self.recorder)).targets()

    def start(self) -> None:
        """Patch the imported clients, and each other one at its import. It may follow a `stop`."""
        self.recorder.watched.watch(self.config)
        self._patches.apply()
        self._retries.apply()
        self._runtimes.apply()
        self._start_workers()
        process.PROCESS.start(self)

    def watch(self, config: configs.Config) -> None:
        """Watch the hosts of *config* from now on."""
        self.config = config
        self.recorder.watched.watch(config)

    def stop(self) -> None:
        """Restore the very same functions, and end what is open."""
        process.PROCESS.stop(self)
        self._runtimes.undo()
        self._patches.undo()
        self._retries.undo()
        self._at_exit.stop()
        self.recorder.stop()

    def flush(self, timeout_s: float, *, at_exit: bool = False) -> bool:
        """Run the deferred steps, and flush the app's providers.

        Args:
            timeout_s: The longest time to wait, in seconds.
            at_exit: True if the providers with an exit hook of their own are left out.

        Returns:
            True if all was flushed in time.
        """
        return bool(self._flush(timeout_s, at_exit=at_exit))

    @fail_safe
    def _flush(self, timeout_s: float, *, at_exit: bool) -> bool:
        until_s = time.monotonic() + workers.limited(timeout_s)
        self.recorder.settle(timeout_s)
        flushes = self._flushes(at_exit=at_exit)
        flushers = self._at_exit if at_exit else workers.DaemonWorkers(len(flushes))
        done = workers.run_all(flushers.submit(flushes), max(until_s - time.monotonic(), 0))
        flushers.stop()
        return done

    def _flushes(self, *, at_exit: bool) -> list[Callable[[], object]]:
        # Read now: an app may set the global providers after it is instrumented.
        tracers, meters = self._tracer_provider, self._meter_provider
        tracers = trace.get_tracer_provider() if tracers is None else tracers
        meters = metrics.get_meter_provider() if meters is None else meters
        given: tuple[object, ...] = (tracers, meters)
        return providers.flushes(providers.without_exit_hook(given) if at_exit else given)

    def expect_exit(self) -> None:
        """Keep threads for the flush of the providers at the exit, as no `Telemetry` does it.

        CPython 3.12 refuses new threads at exit. They are started by each `start`, for the
        providers that are there by then.
        """
        self._flushes_at_exit = True

    @fail_safe
    def _start_workers(self) -> None:
        if self._flushes_at_exit:
            self._at_exit = workers.DaemonWorkers(len(self._flushes(at_exit=True)))

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Start anew in a forked child, where other threads' locks stay held for ever.

        Args:
            before_next: A function that is called once before the child's first attempt, or None.
        """
        self.recorder.forked(before_next)

    def use_meter_provider(self, meter_provider: MeterProvider) -> None:
        """Record in another provider from now on, in a forked child."""
        self._meter_provider = meter_provider
        self.recorder.sinks.use_meter_provider(meter_provider)

    def records_in_global_providers(self) -> bool:
        """Return True if the global providers have all that the library records."""
        pairs = (
            (self._tracer_provider, trace.get_tracer_provider()),
            (self._meter_provider, metrics.get_meter_provider()),
        )
        return all(given is None or given is used for given, used in pairs)

    def clients(self) -> tuple[Client, ...]:
        """Return the clients that are patched, and those that will be at their import."""
        patched = self._patches.patched
        found = ((name, patched.get(name) or _installed(name)) for name in self._patches.modules())
        return tuple(
            Client(name, version, self._http_spans_by(name), imported=name in patched)
            for name, version in found
            if version is not None
        )

    def _http_spans_by(self, module: str) -> str | None:
        if module in SDKS:
            return None
        adapter = self._adapter(module)
        if adapter.app_instrumentation_is_on():
            return "the application"
        return names.SCOPE if adapter.makes_spans() else None


def _installed(module: str) -> str | None:
    """Return the version of a client that is not imported, or None if it is not installed."""
    if not _is_there(module):
        return None
    # Without it an app starts faster (tests/bench/import_cost.py), and few ask for the versions.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - see above

    try:
        return version(module)
    except PackageNotFoundError:
        return "unknown"


def _is_there(module: str) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 - as above

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # the app has put a stand-in into `sys.modules`
        return False


class Client(Record):
    """One client that is watched.

    Attributes:
        name: The client's top module.
        version: Its version.
        http_spans_by: The maker of its HTTP spans: ``the application``, whose own HTTP
            instrumentation is on, or ``assisters_otel``. None for an SDK, which sends through
            another client, and for a client whose spans the environment switches off.
        imported: True if it is imported and patched. Otherwise it will be patched at its import.
    """

    name: str
    version: str
    http_spans_by: str | None
    imported: bool = True


class Switch:
    """Turns an instrumentation on and off. One at most is on.

    `AssistersInstrumentor` shows this state, and has none of its own. So `init` needs no
    `BaseInstrumentor`, whose import takes as long as the library's (tests/bench/import_cost.py).

    Attributes:
        active: The instrumentation that is on, or None.
        is_on: True if it is on. Also true where `AssistersInstrumentor` had nothing to turn on,
            with a disabled SDK.
    """

    def __init__(self) -> None:
        """Create a switch that is off."""
        self.active: Instrumentation | None = None
        self.is_on = False

    def on(self, instrumentation: Instrumentation) -> None:
        """Patch the clients for *instrumentation*."""
        self.active = instrumentation
        self.is_on = True
        try:
            instrumentation.start()
        except BaseException:  # an interrupt, such as Ctrl-C in a notebook
            self.off()
            raise

    def off(self) -> None:
        """Remove the patches of the instrumentation that is on, if one is."""
        active, self.active = self.active, None
        self.is_on = False
        if active is not None:
            active.stop()


SWITCH: Final = Switch()
"""The switch of this process."""
