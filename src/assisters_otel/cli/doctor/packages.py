"""Checks the packages that are installed beside the library: clients, rivals, versions."""

from __future__ import annotations

import platform
import re
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, distributions, entry_points, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement

from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

DISTRIBUTION: Final = "assisters-otel"

_INSTRUMENTATIONS: Final = {
    "httpx": "opentelemetry-instrumentation-httpx",
    "httpx2": "opentelemetry-instrumentation-httpx",
    "requests": "opentelemetry-instrumentation-requests",
    "aiohttp": "opentelemetry-instrumentation-aiohttp-client",
}
_NOT_SEEN: Final = ("curl_cffi", "niquests", "pycurl")
"""HTTP clients whose requests the library cannot observe."""

_SDKS: Final = ("openai", "assisters")
_GROUP: Final = "opentelemetry_instrumentor"


def interpreter() -> Finding:
    """Report the interpreter: the other findings are about what it can import."""
    return Finding("python", True, f"{sys.executable} {platform.python_version()}")


def check_packages() -> Iterator[Finding]:
    """Check the clients, other packages that instrument them, and the versions."""
    yield from _clients()
    yield _not_seen()
    yield from _collisions()
    yield from _versions()


def _clients() -> Iterator[Finding]:
    """Check that there is a client of the API, and where the spans of each client come from."""
    is_here = False
    for client in _SDKS:
        if _installed(client):
            is_here = True
            yield Finding(client, True, f"{_installed(client)}, through {_through(client)}")
    for client, distribution in _INSTRUMENTATIONS.items():
        if not _installed(client):
            continue
        if _installed(distribution):
            is_here = True
            what = f"{_installed(client)}, spans by {distribution} {_installed(distribution)}"
            yield Finding(client, True, what)
        elif _is_wanted_by_others(client):
            advice = f"pip install '{DISTRIBUTION}[{client}]' if your service sends with it"
            yield Finding(client, True, f"{_installed(client)}, for other packages; {advice}")
        else:
            is_here = True
            yield Finding(
                client, False, f"{_installed(client)} has no spans: {distribution} is missing",
                f"pip install '{DISTRIBUTION}[{client}]'",
            )  # fmt: skip
    if not is_here:
        yield Finding(
            "clients", False, "no client of the API is installed here",
            f"Run doctor with your app's interpreter: pip install '{DISTRIBUTION}[cli]' in its "
            "environment, and call that environment's bin/assisters-otel.",
        )  # fmt: skip


def _not_seen() -> Finding:
    """Report the clients that the library cannot observe. Whether the app uses one is unknown."""
    here = [f"{name} {_installed(name)}" for name in _NOT_SEEN if _installed(name)]
    what = "whatever is sent by http.client, urllib or urllib3 without requests"
    if here:
        what += f"; and by {', '.join(here)}, which {'is' if len(here) == 1 else 'are'} installed"
    return Finding("not seen", True, what)


def _is_wanted_by_others(client: str) -> bool:
    """Return True if another installed package requires the client.

    The OTLP exporter requires requests. So an app that has requests need not use it.
    """
    return any(
        re.split(r"[^\w.-]", text)[0].lower() == client
        for distribution in distributions()
        for text in distribution.requires or ()
        if "extra ==" not in text
    )


def _through(sdk: str) -> str:
    """Return the HTTP client that the installed version of an SDK requires."""
    wanted = {Requirement(text).name for text in requires(sdk) or () if "extra ==" not in text}
    return " and ".join(sorted(wanted & _INSTRUMENTATIONS.keys())) or "a client of its own"


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
