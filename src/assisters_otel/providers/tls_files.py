"""The files that TLS to an OTLP receiver needs: the variable that names one, and its fault.

The files are a CA bundle, the client's certificate, and its private key. An exception of OpenSSL or
requests does not name the variable. So the files are read once more here: by `faults` before they
are used, by `fault_of_request` after a request has failed.

Source: OpenTelemetry's variables for OTLP exporters, and those of requests, by which the HTTP
exporter sends. From exporter 1.45 on requests' variables win over OpenTelemetry's
(test_the_bundle_that_is_used_is_the_one_that_is_named).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assisters_otel.api import redaction
from assisters_otel.api.patterns import pattern
from assisters_otel.providers.failures import MAX_CAUSES
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUESTS_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The variables that name a CA bundle for requests. The first that is set counts."""

_MAX_PATH: Final = 200
"""How many characters of a path a warning shows. It shows the start."""

_HASHED: Final = pattern(r"[0-9a-f]{8}\.\d+")
"""The file name of a certificate in a directory that OpenSSL can use, ``2e5ac55d.0``."""

_WRONG_NAME: Final = frozenset({62, 64})
_EXPIRED: Final = 10
"""OpenSSL's codes of why a certificate is not trusted. Source: X509_V_ERR_* in x509_vfy.h."""


class Fault(Record):
    """Why a TLS connection cannot be made.

    Attributes:
        text: For people. It names the variable and what to write. It holds no key.
        is_shared: True if the other signal has the same trouble.
    """

    text: str
    is_shared: bool


def variables(signal: str, what: str) -> tuple[str, str]:
    """Return the two variables of a setting: the signal's own, and the one for all signals.

    Args:
        signal: ``traces``.
        what: ``CERTIFICATE``.
    """
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"


def faults(signal: str, *, by_grpc: bool) -> Iterator[Fault]:
    """Return what is wrong with the files that the variables name for a signal.

    Args:
        signal: ``traces``.
        by_grpc: True for the gRPC exporter. It takes no directory, reads no variable of requests,
            and reads client files only beside a CA file.
    """
    bundle = _first_set(variables(signal, "CERTIFICATE"))
    if by_grpc and bundle is None:
        return
    for variable in (bundle, None if by_grpc else _first_set(REQUESTS_BUNDLES)):
        if variable is not None:
            yield from _ca_faults(variable, os.environ[variable], may_be_directory=not by_grpc)
    certificate = _first_set(variables(signal, "CLIENT_CERTIFICATE"))
    key = _first_set(variables(signal, "CLIENT_KEY"))
    if certificate is not None:
        yield from _client_faults(
            certificate, os.environ[certificate], key, os.environ[key] if key else None
        )


def competing_bundles(signal: str) -> tuple[str, str] | None:
    """Return the two variables that name different CA bundles for a signal by HTTP, or None.

    The first is one of requests, the second one of OpenTelemetry.
    """
    of_requests, of_otlp = (
        _first_set(REQUESTS_BUNDLES),
        _first_set(variables(signal, "CERTIFICATE")),
    )
    if of_requests is None or of_otlp is None or os.environ[of_requests] == os.environ[of_otlp]:
        return None
    return of_requests, of_otlp


def fault_of_request(
    error: BaseException,
    signal: str,
    *,
    bundle: str | None,
    client: str | tuple[str, str] | None,
) -> Fault | None:
    """Return the fault of a file for which a request could not be sent.

    Args:
        error: The exception of requests.
        signal: ``traces``.
        bundle: The path of the CA bundle that was used, or None for requests' own.
        client: The path of the client's certificate, or the paths of it and of its key.

    Returns:
        The fault, or None if *error* has another cause.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, (ConnectionError, TimeoutError)) for cause in causes):
        return None
    names = (*variables(signal, "CERTIFICATE"), *REQUESTS_BUNDLES)
    source = next((name for name in names if bundle and os.environ.get(name) == bundle), None)
    if bundle:
        found = next(_ca_faults(source or "verify", bundle, may_be_directory=True), None)
        if found is not None:
            return found
    if client:
        certificate, key = (client, None) if isinstance(client, str) else client
        found = next(
            _client_faults(
                _first_set(variables(signal, "CLIENT_CERTIFICATE")) or "cert",
                certificate,
                _first_set(variables(signal, "CLIENT_KEY")) or "cert",
                key,
            ),
            None,
        )
        if found is not None:
            return found
    untrusted = next((one for one in causes if isinstance(one, ssl.SSLCertVerificationError)), None)
    return None if untrusted is None else _untrusted(untrusted, signal, source, bundle)


def _untrusted(
    error: ssl.SSLCertVerificationError, signal: str, source: str | None, bundle: str | None
) -> Fault:
    own, common = variables(signal, "CERTIFICATE")
    why = redaction.clean(error.verify_message.rstrip("."))
    text = f"the receiver's certificate is not trusted: {why}. "
    if error.verify_code in _WRONG_NAME:
        text += "Name the receiver in the endpoint as its certificate does"
    elif error.verify_code == _EXPIRED:
        text += "The receiver needs a new one"
    elif source is None:
        text += f"Write the path of its CA's PEM file into {common}"
    else:
        text += f"The CA bundle is the one that {source} names, {_shown(bundle or '')}"
        other = _first_set((own, common)) if source in REQUESTS_BUNDLES else None
        if other is not None:
            text += f": requests takes it in place of the one that {other} names"
    return Fault(text, is_shared=source != own)


def _ca_faults(variable: str, path: str, *, may_be_directory: bool) -> Iterator[Fault]:
    def load() -> None:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)

    if not (may_be_directory and _is_hashed(path)):
        yield from _faults(variable, path, load, "CA certificates")


def _client_faults(
    variable: str, path: str, key_variable: str | None, key_path: str | None
) -> Iterator[Fault]:
    def load() -> None:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)

    def load_key() -> None:
        # With a password given, OpenSSL does not ask for one on the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(path, key_path, password="")

    what = "a private key without a password, the certificate's"
    found = list(_faults(variable, path, load, "the client's certificate"))
    yield from found
    if not found:
        yield from _faults(key_variable or variable, key_path or path, load_key, what)


def _faults(variable: str, path: str, load: Callable[[], None], what: str) -> Iterator[Fault]:
    to_do = f"Write the path of a PEM file of {what}, which this process may read"
    problem = _problem(path, load, what)
    if problem is not None:
        is_shared = "_TRACES_" not in variable and "_METRICS_" not in variable
        yield Fault(f"{variable} {problem}. {to_do}", is_shared)


def _problem(path: str, load: Callable[[], None], what: str) -> str | None:
    if "-----BEGIN" in path:
        return "holds a PEM text, and not a path"
    try:
        if Path(path).is_dir():
            return f"names a directory, {_shown(path)}"
        with Path(path).open("rb"):
            load()
    except FileNotFoundError:
        return f"names a file that is not there, {_shown(path)}"
    except ssl.SSLError:
        return f"names a file that holds no PEM of {what}, {_shown(path)}"
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        why = error.strerror if isinstance(error, OSError) else "no path"
        return f"names a file that cannot be read ({why}), {_shown(path)}"
    return None


def _shown(path: str) -> str:
    return repr(redaction.clean(path, _MAX_PATH))


def _is_hashed(path: str) -> bool:
    try:
        return any(_HASHED.fullmatch(file.name) for file in Path(path).iterdir())
    except (OSError, ValueError):  # no directory
        return False


def _first_set(names: tuple[str, ...]) -> str | None:
    return next((name for name in names if os.environ.get(name)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__
