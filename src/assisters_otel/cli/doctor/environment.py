"""All checks of `doctor` in their order, and those of the library's own variables."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from assisters_otel import baggage_names, config
from assisters_otel.api.redaction import clean, shown
from assisters_otel.cli.doctor import collector, packages, process, variables
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.hosts import environment_hosts, may_hold_password
from assisters_otel.providers import config_file
from assisters_otel.semconv import environment
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

_OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
_NAMES_BY_MODE: Final = {"http/dup": "old and stable names", "http": "stable names"}
"""The names that OpenTelemetry's HTTP instrumentations write. If both modes are asked for, the
first holds. Source: ``opentelemetry.instrumentation._semconv``."""

_OLD_NAMES: Final = "old names (http.status_code)"
_PREFIX: Final = "ASSISTERS_OTEL_"
_OWN: Final = (
    environment.ASSISTERS_OTEL_HOSTS,
    environment.ASSISTERS_OTEL_CAPTURE_MESSAGE,
    environment.ASSISTERS_OTEL_KEY_FINGERPRINT,
    environment.ASSISTERS_OTEL_BAGGAGE,
)
"""Every variable under the prefix."""

_BASE_URLS: Final = ("OPENAI_BASE_URL", environment.ASSISTERS_BASE_URL)


def run_checks(endpoint: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Run all checks, the quick ones first.

    Args:
        endpoint: The base URL of an OTLP receiver; None for the one in the variables.
        environ: The environment variables.

    Yields:
        The findings.
    """
    yield packages.interpreter()
    yield from _unknown(environ)
    yield from _hosts(environ)
    yield from _captures(environ)
    yield from _callers(environ)
    yield from _conventions(environ)
    yield from packages.check_packages(environ)
    yield from process.check_process(environ)
    has_file = yield from _config_file(environ)
    yield from variables.check_variables(environ, has_file=has_file)
    if endpoint or not has_file:
        with corrected():  # as `init` reads the variables, after it has warned of the wrong ones
            findings = list(collector.check_collector(endpoint, environ))
        yield from findings


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check that each variable under the library's prefix is one that it reads."""
    own = [name.removeprefix(_PREFIX) for name in _OWN]
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in _OWN:
            near = get_close_matches(name.removeprefix(_PREFIX), own, n=1)
            advice = f"There are {', '.join(_OWN)}."
            if near:
                advice = f"Did you mean {_PREFIX}{near[0]}?"
            yield Finding(clean(name), False, "the library reads no such variable", advice)


def _config_file(environ: Mapping[str, str]) -> Generator[Finding, None, bool]:
    """Check the configuration file.

    Returns:
        True if there is a file that can be used: then the variables of the exporters are not read.
    """
    variable = environment.OTEL_CONFIG_FILE
    path = config.config_file(environ)
    if path is None:
        return False
    try:
        file = config_file.ConfigFile(path)
    except ValueError as error:
        text = f"{error}. The OTEL_* variables are taken instead"
        yield Finding(variable, False, text, "Correct the file, or unset the variable.")
        return False
    if file.is_disabled:
        text = f"{shown(path)} is disabled: nothing is watched"
        yield Finding(variable, False, text, "Take 'disabled: true' out of the file.")
    else:
        text = f"{shown(path)} describes the providers. A receiver is tried by --endpoint"
        yield Finding(variable, True, text)
    return True


def _hosts(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check which hosts are watched, and that the base URLs of the SDKs are among them."""
    found, wrong = environment_hosts(environ)
    for text in wrong:
        yield Finding("hosts", False, text, "Correct the variable.")
    watched = (*config.from_arguments().hosts, *found)
    by_name = config.Config(hosts=watched).hosts_by_name()
    for variable in _BASE_URLS:
        url = environ.get(variable, "").strip()
        if not url:
            continue
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if not parts.hostname or may_hold_password(parts):
            yield Finding(variable, False, f"{shown(url)} is no URL", "Write https://host/v1.")
            continue
        path = parts.path or "/"
        if any(one.covers(port, path) for one in by_name.get(parts.hostname, ())):
            yield Finding(variable, True, f"{parts.hostname} is watched")
        else:
            yield Finding(
                variable,
                False,
                f"{parts.hostname} is not watched: its requests have no error on their spans",
                f"Set {environment.ASSISTERS_OTEL_HOSTS}={parts.netloc.rpartition('@')[2]}, "
                "or init(hosts=[…]), if it is the Assisters API.",
            )
    yield Finding("hosts", True, f"watched: {', '.join(map(str, watched))}")


def _captures(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report whether the API's messages are recorded; they may quote what a user typed."""
    try:
        if config.environment_capture_message(environ):
            yield Finding("messages", True, "the API's messages are on spans, masked")
    except ValueError as error:
        yield Finding("messages", False, str(error), "Correct the variable.")


def _callers(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report what is recorded of whose request it was."""
    try:
        if not config.environment_key_fingerprint(environ):
            yield Finding("key", True, "failures have no fingerprint of the API key")
    except ValueError as error:
        yield Finding("key", False, str(error), "Correct the variable.")
    names, wrong = baggage_names.environment_names(environ)
    if wrong is not None:
        yield Finding("baggage", False, wrong, "Correct the variable.")
    elif names:
        yield Finding("baggage", True, f"on spans and metrics: {', '.join(names)}")


def _conventions(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report which semantic conventions the HTTP spans follow."""
    modes = {mode.strip() for mode in environ.get(_OPT_IN, "").split(",")}
    theirs = next((told for mode, told in _NAMES_BY_MODE.items() if mode in modes), _OLD_NAMES)
    yield Finding(
        "conventions", True,
        f"stable names on HTTP spans of this library's; {theirs} on those of OpenTelemetry's own "
        "instrumentations, where they are on",
    )  # fmt: skip
