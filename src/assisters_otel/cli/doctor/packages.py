"""What `doctor` sees of the packages that are installed beside us."""

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
"""HTTP clients of which nobody sees a request."""

_SDKS: Final = ("openai", "assisters")
_GROUP: Final = "opentelemetry_instrumentor"


def interpreter() -> Finding:
    """Name the interpreter: what is installed is installed for this one."""
    return Finding("python", True, f"{sys.executable} {platform.python_version()}")


def check_packages() -> Iterator[Finding]:
    """Look at the clients, at who else instruments them, and at the versions."""
    yield from _clients()
    yield _not_seen()
    yield from _collisions()
    yield from _versions()


def _clients() -> Iterator[Finding]:
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
    """Name the clients of which nothing is seen; whether the app sends by them, nobody can know."""
    here = [f"{name} {_installed(name)}" for name in _NOT_SEEN if _installed(name)]
    what = "whatever is sent by http.client, urllib or urllib3 without requests"
    if here:
        what += f"; and by {', '.join(here)}, which {'is' if len(here) == 1 else 'are'} installed"
    return Finding("not seen", True, what)


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
            "versions", True, f"{DISTRIBUTION} {__version__}, "
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
        # Of what an extra brings, OpenTelemetry's alone: the demo's openai is not the app's.
        is_ours = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not (is_ours or requirement.name.startswith("opentelemetry-")):
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
