"""Checks the packages that are installed beside the library: clients, rivals, versions."""

from __future__ import annotations

import platform
import re
import sys
from collections import Counter
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    distributions,
    entry_points,
    requires,
    version,
)
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement

from assisters_otel import config
from assisters_otel.cli.doctor import process
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.clients import http_variables
from assisters_otel.clients.all_clients import HTTP_CLIENTS
from assisters_otel.hosts import environment_hosts
from assisters_otel.records import Record
from assisters_otel.semconv import attributes, environment
from assisters_otel.variables.corrections import corrected
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DISTRIBUTION: Final = "assisters-otel"


class _HttpClient(Record):
    """An HTTP client whose requests the library observes.

    Attributes:
        module: Its module.
        instrumentation: The name of OpenTelemetry's own instrumentation of it, as
            ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` has it.
        distribution: The package of that instrumentation.
    """

    module: str
    instrumentation: str
    distribution: str


_HTTP_CLIENTS: Final = (
    _HttpClient("httpx", "httpx", "opentelemetry-instrumentation-httpx"),
    _HttpClient("httpx2", "httpx2", "opentelemetry-instrumentation-httpx"),
    _HttpClient("requests", "requests", "opentelemetry-instrumentation-requests"),
    _HttpClient("aiohttp", "aiohttp-client", "opentelemetry-instrumentation-aiohttp-client"),
)
_EXPORTER: Final = "opentelemetry-exporter-otlp-proto-http"
_CLIENT_OF_EXPORTER: Final = "requests"
"""The OTLP exporter requires it. So it is installed in every environment of the library's."""

_NOT_SEEN: Final = ("curl_cffi", "niquests", "pycurl")
"""HTTP clients whose requests the library cannot observe."""

_SDKS: Final = ("openai", "assisters")
_GROUP: Final = "opentelemetry_instrumentor"


def interpreter() -> Finding:
    """Report the interpreter: the other findings are about what it can import."""
    return Finding("python", True, f"{sys.executable} {platform.python_version()}")


def check_packages(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the clients, other packages that instrument them, and the versions.

    Args:
        environ: The environment variables.

    Yields:
        The findings.
    """
    yield from _clients(environ)
    yield _not_seen()
    yield from _collisions()
    yield from _versions()


def _clients(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check that there is a client of the API, and what makes the HTTP spans of each client."""
    is_here = False
    for sdk in _SDKS:
        if _installed(sdk):
            is_here = True
            yield Finding(sdk, True, f"{_installed(sdk)}, through {_through(sdk)}")
    for client in _HTTP_CLIENTS:
        if _installed(client.module):
            is_here = is_here or not _is_for_exporter_alone(client.module)
            what = f"{_installed(client.module)}, {_spans(client, environ)}"
            yield Finding(client.module, True, what)
    if not is_here:
        yield _no_client()


def _spans(client: _HttpClient, environ: Mapping[str, str]) -> str:
    """Return what makes the HTTP spans of a client's requests to the API, in words."""
    is_disabled = client.instrumentation in config.disabled_instrumentations(environ)
    if is_disabled and not process.is_zero_code():
        variable = environment.OTEL_DISABLED_INSTRUMENTATIONS
        return f"with init() no HTTP spans: {variable} names {client.instrumentation}"
    left_out = _left_out(client, environ)
    if left_out is not None:
        own = environment.OTEL_EXCLUDED_URLS_OF.format(HTTP_CLIENTS[client.module].variable)
        variable = own if own in environ else environment.OTEL_EXCLUDED_URLS
        return f"no HTTP spans of {left_out}: {variable} leaves them out"
    theirs = _installed(client.distribution)
    if is_disabled or theirs is None:
        return f"spans by {attributes.SCOPE}"
    return f"spans by {attributes.SCOPE}, or by {client.distribution} {theirs} where that is on"


def _left_out(client: _HttpClient, environ: Mapping[str, str]) -> str | None:
    """Return the base URL of a watched host whose requests have no spans by a variable, or None."""
    with corrected():
        excluded = http_variables.read(HTTP_CLIENTS[client.module].variable).excluded_urls
    if excluded is None:
        return None
    hosts = (*config.from_arguments().hosts, *environment_hosts(environ)[0])
    urls = (f"https://{host}{'' if host.prefix else '/v1'}" for host in hosts)
    return next((url for url in urls if excluded.search(f"{url}/chat/completions")), None)


def _no_client() -> Finding:
    """Return the finding of an environment without a client of the API.

    An app may send with the requests that the exporter requires. So this is an error only where
    it is certain that the app has not asked for it.
    """
    what = "no client of the API is installed here"
    advice = (
        f"Run doctor with your app's interpreter: pip install '{DISTRIBUTION}[cli]' in its "
        "environment, and call that environment's bin/assisters-otel."
    )
    if not _installed(_CLIENT_OF_EXPORTER):
        return Finding("clients", False, what, advice)
    what += f" but {_CLIENT_OF_EXPORTER}, which the OTLP exporter needs"
    if not _may_be_asked_for(_CLIENT_OF_EXPORTER):
        return Finding("clients", False, what, advice)
    return Finding("clients", True, f"{what}. Does your service send with another one? {advice}")


def _not_seen() -> Finding:
    """Report the clients that the library cannot observe. Whether the app uses one is unknown."""
    here = [f"{name} {_installed(name)}" for name in _NOT_SEEN if _installed(name)]
    what = "whatever is sent by http.client, urllib or urllib3 without requests"
    if here:
        what += f"; and by {', '.join(here)}, which {'is' if len(here) == 1 else 'are'} installed"
    return Finding("not seen", True, what)


def _is_for_exporter_alone(client: str) -> bool:
    """Return True if no other installed package requires the client than the OTLP exporter."""
    return client == _CLIENT_OF_EXPORTER and _requirers(client) == {_EXPORTER}


def _requirers(client: str) -> set[str]:
    """Return the names of the installed packages that require the client."""
    return {
        (one.name or "").lower()
        for one in distributions()
        for text in one.requires or ()
        if "extra ==" not in text and re.split(r"[^\w.-]", text)[0].lower() == client
    }


def _may_be_asked_for(name: str) -> bool:
    """Return False if an installed package is certainly there for other packages alone.

    pip marks each package that it was asked for. Other installers do not tell: uv marks every
    package.
    """
    found = distribution(name)
    installer = (found.read_text("INSTALLER") or "").strip()
    return installer != "pip" or found.read_text("REQUESTED") is not None


def _through(sdk: str) -> str:
    """Return the HTTP client that the installed version of an SDK requires."""
    wanted = {Requirement(text).name for text in requires(sdk) or () if "extra ==" not in text}
    http = {client.module for client in _HTTP_CLIENTS}
    return " and ".join(sorted(wanted & http)) or "a client of its own"


def _collisions() -> Iterator[Finding]:
    """Check that each name of an instrumentation belongs to one package.

    If two packages register one name, only one of them is switched on.
    """
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
            "versions", True, f"{DISTRIBUTION} {__version__}, "
            f"opentelemetry-sdk {_installed('opentelemetry-sdk')}: as they should be",
        )  # fmt: skip


def _conflicts() -> Iterator[str]:
    """Yield each installed package whose version is outside of what the library requires."""
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # the library runs from its source
        return
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        # Of an extra only OpenTelemetry's packages count: the app need not use the demo's openai
        # (test_a_client_of_the_app_s_is_no_version_to_upgrade).
        is_unconditional = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not (is_unconditional or requirement.name.startswith("opentelemetry-")):
            continue
        found = _installed(requirement.name)
        if found is None or not requirement.specifier:
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found} is installed, {requirement.specifier} is wanted"


def _installed(name: str) -> str | None:
    """Return the version of a package, ``installed`` if it has none, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed" if name.isidentifier() and find_spec(name) else None
