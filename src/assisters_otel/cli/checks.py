"""What `doctor` looks at: each check gives findings, and each finding says what to do."""

from __future__ import annotations

import re
import socket
from collections import Counter
from importlib.metadata import PackageNotFoundError, distributions, entry_points, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk import environment_variables as variables
from opentelemetry.sdk.trace.sampling import Decision
from packaging.requirements import InvalidRequirement, Requirement

from assisters_otel import config, export, exporters, names, registered
from assisters_otel.cli import process
from assisters_otel.cli.finding import Finding
from assisters_otel.exporters import METRICS, TRACES, Arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from assisters_otel.exporters import Route, Signal

DISTRIBUTION: Final = "assisters-otel"
SERVICE: Final = "assisters-otel-doctor"
"""The service's name of what is sent to try the way."""

_INSTRUMENTATIONS: Final = {
    "httpx": "opentelemetry-instrumentation-httpx",
    "httpx2": "opentelemetry-instrumentation-httpx",
    "requests": "opentelemetry-instrumentation-requests",
    "aiohttp": "opentelemetry-instrumentation-aiohttp-client",
}
_SDKS: Final = ("openai", "assisters")
_OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
_MODES: Final = frozenset({"http", "http/dup"})
_BASE_URLS: Final = ("OPENAI_BASE_URL", names.ASSISTERS_BASE_URL)
_GROUP: Final = "opentelemetry_instrumentor"
_TIMEOUT_S: Final = 3.0
_ARRIVES_S: Final = 10.0
# What an HTTP/2 server sends first, unasked: SETTINGS. Source: RFC 9113, section 3.4.
_SETTINGS: Final = 4
_FRAME_TYPE_AT: Final = 3


def every(endpoint: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything, the quick things first.

    Args:
        endpoint: The base URL of an OTLP receiver; None for the variables'.
        environ: The variables.
    """
    yield from _hosts(environ)
    yield from _captures(environ)
    yield from _conventions(environ)
    yield from _clients()
    yield from _collisions()
    yield from _versions()
    yield from process.findings(environ)
    way = [*_disabled(environ), *_sampler()]
    for signal in (TRACES, METRICS):
        way += _ways(signal, endpoint)
    yield from way
    if all(one.fine for one in way):
        yield from _arrival(endpoint)


def _disabled(environ: Mapping[str, str]) -> Iterator[Finding]:
    if config.sdk_disabled(environ):
        yield Finding(
            "SDK", False, f"{names.OTEL_SDK_DISABLED} is true: nothing is patched, nothing sent",
            f"Unset {names.OTEL_SDK_DISABLED}.",
        )  # fmt: skip
    else:
        yield Finding("SDK", True, "not disabled")


def _hosts(environ: Mapping[str, str]) -> Iterator[Finding]:
    found, wrong = config.environment_hosts(environ)
    for text in wrong:
        yield Finding("hosts", False, text, "Correct the variable.")
    watched = (*config.from_arguments().hosts, *found)
    for variable in _BASE_URLS:
        url = environ.get(variable, "").strip()
        if not url:
            continue
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if not parts.hostname:
            yield Finding(variable, False, f"{url!r} is no URL", "Write https://host/v1.")
            continue
        path = parts.path or "/"
        if any(one.name == parts.hostname and one.covers(port, path) for one in watched):
            yield Finding(variable, True, f"{parts.hostname} is watched")
        else:
            yield Finding(
                variable,
                False,
                f"{parts.hostname} is not watched: its requests have no error on their spans",
                f"Set {names.ASSISTERS_OTEL_HOSTS}={parts.netloc.rpartition('@')[2]}, "
                "or init(hosts=[…]), if it is the Assisters API.",
            )
    yield Finding("hosts", True, f"watched: {', '.join(map(str, watched))}")


def _captures(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        if config.environment_capture_message(environ):
            yield Finding("messages", True, "the API's messages are on spans, masked")
    except ValueError as error:
        yield Finding("messages", False, str(error), "Correct the variable.")


def _sampler() -> Iterator[Finding]:
    try:
        made = registered.sampler()
    except ValueError as error:
        yield Finding("sampler", False, str(error), "Correct the variable.")
        return
    # The first of all trace ids is kept by every ratio above 0.
    if made is not None and made.should_sample(Context(), 0, "x").decision is Decision.DROP:
        yield Finding(
            "sampler", False, f"{variables.OTEL_TRACES_SAMPLER} keeps no trace",
            f"Unset {variables.OTEL_TRACES_SAMPLER}, or write parentbased_always_on.",
        )  # fmt: skip
    else:
        kept = "every trace is kept" if made is None else made.get_description()
        yield Finding("sampler", True, f"{kept}; metrics have all of them")


def _conventions(environ: Mapping[str, str]) -> Iterator[Finding]:
    said = {one.strip() for one in environ.get(_OPT_IN, "").split(",")} - {""}
    known = said & _MODES
    if said and not known:
        yield Finding(
            "conventions", False, f"{_OPT_IN}={','.join(sorted(said))} says nothing of HTTP",
            "Write http for the stable names, http/dup for both, or unset it for the old ones.",
        )  # fmt: skip
    else:
        kept = "old names (http.status_code)" if not known else ", ".join(sorted(known))
        yield Finding("conventions", True, f"HTTP spans under the {kept}")


def _clients() -> Iterator[Finding]:
    for client in _SDKS:
        if _installed(client):
            yield Finding(client, True, f"{_installed(client)}, through {_through(client)}")
    for client, distribution in _INSTRUMENTATIONS.items():
        if not _installed(client):
            continue
        if _installed(distribution):
            what = f"{_installed(client)}, spans by {distribution} {_installed(distribution)}"
            yield Finding(client, True, what)
        elif _is_wanted_by_others(client):
            advice = f"pip install '{DISTRIBUTION}[{client}]' if your service sends with it"
            yield Finding(client, True, f"{_installed(client)}, for other packages; {advice}")
        else:
            yield Finding(
                client, False, f"{_installed(client)} has no spans: {distribution} is missing",
                f"pip install '{DISTRIBUTION}[{client}]'",
            )  # fmt: skip


def _is_wanted_by_others(client: str) -> bool:
    """Say whether a client is there because another package needs it, as our exporter requests."""
    return any(
        re.split(r"[^\w.-]", text)[0].lower() == client
        for distribution in distributions()
        for text in distribution.requires or ()
        if "extra ==" not in text
    )


def _through(sdk: str) -> str:
    """Name the HTTP client that an SDK's installed version asks for."""
    wanted = {Requirement(text).name for text in requires(sdk) or () if "extra ==" not in text}
    return " and ".join(sorted(wanted & _INSTRUMENTATIONS.keys())) or "a client of its own"


def _collisions() -> Iterator[Finding]:
    """Two packages that instrument the same client under one name: one of them is lost."""
    found = [point for point in entry_points(group=_GROUP) if point.dist is not None]
    counts = Counter(point.name for point in found)
    for name, count in counts.items():
        if count > 1 and len({point.value for point in found if point.name == name}) > 1:
            owners = sorted({p.dist.name for p in found if p.name == name and p.dist})
            yield Finding(
                "entry points", False, f"{', '.join(owners)} all register {name!r}",
                "Keep one of them: only one is switched on by that name.",
            )  # fmt: skip
    copies = Counter((dist.name or "").lower() for dist in distributions())
    if copies[DISTRIBUTION] > 1:
        yield Finding(
            "entry points", False, f"{DISTRIBUTION} is installed {copies[DISTRIBUTION]} times",
            f"pip uninstall {DISTRIBUTION}, as often as it takes, and install it once.",
        )  # fmt: skip


def _versions() -> Iterator[Finding]:
    wrong = list(_conflicts())
    for text in wrong:
        name = re.split(r"[ <>=]", text)[0]
        yield Finding("versions", False, text, f"pip install --upgrade {name} {DISTRIBUTION}")
    if not wrong:
        yield Finding(
            "versions", True, f"{DISTRIBUTION} {names.__version__}, "
            f"opentelemetry-sdk {_installed('opentelemetry-sdk')}: as they should be",
        )  # fmt: skip


def _conflicts() -> Iterator[str]:
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from its source
        return
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        found = _installed(requirement.name)
        if found is None or not requirement.specifier:
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found} is installed, {requirement.specifier} is wanted"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed" if name.isidentifier() and find_spec(name) else None


# -- the way to the backend ---------------------------------------------------------------------


def _ways(signal: Signal, endpoint: str | None) -> Iterator[Finding]:
    try:
        routes = exporters.routes(signal, Arguments(endpoint))
    except ValueError as error:
        yield Finding(signal.name, False, str(error), "Correct it.")
        return
    if not routes:
        yield Finding(
            signal.name, False, f"{signal.exporter} is none: no {signal.what} leave the process",
            f"Unset {signal.exporter}, or write otlp.",
        )  # fmt: skip
    for route in routes:
        yield _way(signal, route)


def _way(signal: Signal, route: Route) -> Finding:
    url = route.arguments.get("endpoint")
    if not isinstance(url, str):
        return Finding(signal.name, True, f"exported by {route.text}")
    is_grpc = "grpc" in route.text.partition(":")[2].split()[0]
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 4317 if is_grpc else 80)
    except ValueError as error:
        return Finding(signal.name, False, f"{route.place}: {error}", "Correct the endpoint.")
    try:
        speaks = _speaks(parts.hostname or "", port, is_plain=parts.scheme != "https")
    except OSError as error:
        return Finding(
            signal.name, False, f"nobody answers at {route.place}: {error.strerror or error}",
            "Start the collector, or name another with OTEL_EXPORTER_OTLP_ENDPOINT.",
        )  # fmt: skip
    if speaks == "http/2" and not is_grpc:
        return Finding(
            signal.name, False, f"{route.place} speaks gRPC, and is sent OTLP over HTTP",
            "Name the collector's HTTP port (4318), or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
        )  # fmt: skip
    if speaks == "http/1" and is_grpc:
        return Finding(
            signal.name, False, f"{route.place} speaks HTTP, and is sent OTLP over gRPC",
            "Name the collector's gRPC port (4317), or set "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        )  # fmt: skip
    return Finding(signal.name, True, f"exported by {route.text}")


def _speaks(host: str, port: int, *, is_plain: bool) -> str | None:
    """Connect, and tell what answers: ``http/1``, ``http/2``, or None if that is not said.

    Raises:
        OSError: Nobody is there.
    """
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        if not is_plain:
            return None
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n")
            begin = connection.recv(16)
        except OSError:
            return None
    if begin.startswith(b"HTTP/"):
        return "http/1"
    is_frame = len(begin) > _FRAME_TYPE_AT and begin[_FRAME_TYPE_AT] == _SETTINGS
    return "http/2" if is_frame else None


def _arrival(endpoint: str | None) -> Iterator[Finding]:
    """Send one span and one metric, and say whether they were accepted."""
    for signal in (TRACES, METRICS):
        try:
            built = export.build(
                traces=signal is TRACES,
                metrics=signal is METRICS,
                service_name=SERVICE,
                endpoint=endpoint,
                headers=None,
                protocol=None,
            )
        except ValueError as error:
            yield Finding("arrival", False, f"{signal.name}: {error}", "Correct the variable.")
            continue
        if built.tracer_provider is not None:
            built.tracer_provider.get_tracer(names.SCOPE).start_span("doctor").end()
        if built.meter_provider is not None:
            built.meter_provider.get_meter(names.SCOPE).create_counter("doctor").add(1)
        if built.shutdown(_ARRIVES_S):
            yield Finding(
                "arrival",
                True,
                f"a test of the {signal.what} was accepted, service {SERVICE}",
            )
        else:
            yield Finding(
                "arrival", False, f"the {signal.what} were not accepted",
                "Look at the collector's log: it is there, and is it an OTLP receiver?",
            )  # fmt: skip
