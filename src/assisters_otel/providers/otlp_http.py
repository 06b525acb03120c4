"""OTLP over HTTP: a session for the exporter, which reports how each request ends.

The exporter counts every status below 400 as a success, and tells of a failure in its log records
only. What counts is the last answer to the POST. So the exporter is given a session of requests,
whose adapter for the endpoint does four things with each request:

* It follows 307 and 308, which keep the method and the body. It follows no other redirect: 301, 302
  and 303 make a GET of the POST. To another host no header follows that may be a credential.
* It bounds the response's body, in size and in time.
* It reports the outcome to the delivery: taken, or why not. The exporter may send again, and then
  the next outcome counts.
* It raises `NotTakenError` where the exporter would see a success. That is for such a redirect, for
  an HTML page (a login, a wrong port), and for a partial success that rejects something.

A response hook of the session would see the answers alone, not a connection that fails. A session
of a credential provider may be the app's own: so its class stays, one adapter is mounted in it, and
the app's own requests pass that adapter unchanged.

Source: the specification of OTLP, "OTLP/HTTP Response"; RFC 9110, section 15.4.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from assisters_otel.api import redaction
from assisters_otel.own_export import log_listener
from assisters_otel.providers import tls_files
from assisters_otel.providers.bounded_body import bound, left_s
from assisters_otel.providers.entry_points import load_entry_point
from assisters_otel.providers.failures import ExportFailure, NotTakenError, failure_of
from assisters_otel.providers.otlp_responses import (
    Hop,
    failure_in,
    redirect_text,
    shown_url,
    target,
)
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response, Session

_MAX_REDIRECTS: Final = 5
"""A collector behind two proxies answers with two. RFC 9110, 15.4, warns of circles."""

_KEEPS_METHOD: Final = frozenset({307, 308})

_HARMLESS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "user-agent",
    }
)
"""The headers that follow to another host: any other may be a credential."""


def session(
    signal: str, endpoint: str, report: Callable[[ExportFailure | None], object]
) -> Session:
    """Return a session for one exporter.

    Args:
        signal: ``traces`` or ``metrics``.
        endpoint: The URL that the exporter sends to. What is sent elsewhere by the session of a
            credential provider is not watched: it may be the app's.
        report: Gets why a request was not taken, or None if it was.

    Raises:
        ValueError: A variable asks for a credential provider that does not exist, that raises, or
            that gives something else.
    """
    made = _with_credentials(signal) or requests.Session()
    with suppress(requests.RequestException, ValueError):  # what is no URL cannot be sent to
        prefix = str(requests.Request("POST", endpoint).prepare().url)
        # A credential provider may give one session to each exporter that is made.
        adapter = _unwatched(made.get_adapter(prefix))
        made.mount(prefix, _WatchedAdapter(made, adapter, signal, report))
    return made


def _with_credentials(signal: str) -> Session | None:
    # The exporter reads these variables itself only if it is given no session.
    common = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"
    own = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal.upper()}_CREDENTIAL_PROVIDER"
    variable = common if os.environ.get(common) else own
    name = os.environ.get(variable)
    if not name:
        return None
    provider: Any = load_entry_point("opentelemetry_otlp_credential_provider", name, variable)
    try:
        made = provider()
    except Exception as error:
        raise ValueError(
            f"{variable}: {redaction.shown(name)} cannot be made ({type(error).__name__}). "
            f"Unset {variable}, or correct the provider"
        ) from error
    if not isinstance(made, requests.Session):
        raise ValueError(f"{variable}: {redaction.shown(name)} gives no session of requests")
    return made


class _Settings(Record):
    """The arguments of `BaseAdapter.send` that are the same for each request of a redirect."""

    stream: bool
    verify: Any
    cert: Any


class _WatchedAdapter(BaseAdapter):
    """Sends by another adapter, follows redirects, and reports how each request ended."""

    def __init__(
        self,
        owner: Session,
        adapter: BaseAdapter,
        signal: str,
        report: Callable[[ExportFailure | None], object],
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self._owner = owner
        self._signal = signal
        self._report = report

    def send(  # noqa: PLR0913, PLR0917 - the signature of requests
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send *request*, follow where it is redirected to, and report how it ended.

        Raises:
            NotTakenError: Nothing was taken, or only a part, and the exporter would see a success.
            requests.RequestException: There is no response.
        """
        settings = _Settings(stream, verify, cert)
        if log_listener.get() is None:  # the app sends, by its credential provider's session
            return self.adapter.send(
                request, timeout=timeout, proxies=proxies, **settings._asdict()
            )
        hops: list[Hop] = []
        try:
            response = self._follow(request, timeout, proxies, settings, hops)
            failure = self._failure(response, hops)
        except NotTakenError as error:
            self._report(error.failure)
            raise
        except requests.RequestException as error:
            self._report(_without_response(error, hops))
            raise
        self._report(failure)
        return response

    def close(self) -> None:
        """Close the connections. urllib3 leaves that to finalizers, of which none runs at exit."""
        if isinstance(one := self.adapter, HTTPAdapter):
            for manager in (one.poolmanager, *one.proxy_manager.values()):
                for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                    manager.pools[key].close()
        self.adapter.close()

    def _follow(
        self,
        request: PreparedRequest,
        timeout: Any,
        proxies: Any,
        settings: _Settings,
        hops: list[Hop],
    ) -> Response:
        """Send a request, and again to where 307 and 308 lead; add what is followed to *hops*."""
        until_s = time.monotonic() + timeout if isinstance(timeout, (int, float)) else None
        response = self._send(self.adapter, request, timeout, proxies, settings)
        while response.status_code in _KEEPS_METHOD:
            try:
                request = self._redirected(request, response, len(hops))
            finally:
                response.close()
            hops.append(Hop(response.status_code, str(request.url)))
            response = self._send(
                _unwatched(self._owner.get_adapter(str(request.url))),
                request,
                left_s(until_s) or timeout,
                self._owner.rebuild_proxies(request, proxies),
                settings,
            )
        return bound(response, until_s)

    def _send(
        self,
        adapter: BaseAdapter,
        request: PreparedRequest,
        timeout: Any,
        proxies: Any,
        settings: _Settings,
    ) -> Response:
        """Send one request.

        Raises:
            NotTakenError: A file for TLS cannot be used, or the certificate is not trusted.
            requests.RequestException: There is no response, for another reason.
        """
        try:
            return adapter.send(request, timeout=timeout, proxies=proxies, **settings._asdict())
        except OSError as error:
            is_tls = str(request.url).lower().startswith("https:")
            fault = tls_files.fault_of_request(
                error,
                self._signal,
                bundle=settings.verify if is_tls and isinstance(settings.verify, str) else None,
                client=settings.cert,
            )
            if fault is None:
                raise
            raise NotTakenError(
                ExportFailure(fault.text, was_answered=not fault.is_shared)
            ) from error

    def _redirected(
        self, request: PreparedRequest, response: Response, number: int
    ) -> PreparedRequest:
        """Return the request to where *response* redirects it.

        Raises:
            NotTakenError: It leads nowhere, or in a circle.
        """
        if number == _MAX_REDIRECTS:
            raise _not_taken(f"HTTP {response.status_code} more than {_MAX_REDIRECTS} times")
        url = target(response)
        if url is None or urlsplit(url).scheme not in {"http", "https"}:
            raise _not_taken(redirect_text(response))
        hop = request.copy()
        try:
            hop.prepare_url(url, None)
        except (requests.RequestException, ValueError) as error:
            raise _not_taken(f"{redirect_text(response)}, which is no URL") from error
        if self._owner.should_strip_auth(str(request.url), str(hop.url)):
            for name in set(hop.headers):
                if name.lower() not in _HARMLESS:
                    del hop.headers[name]
        return hop

    def _failure(self, response: Response, hops: list[Hop]) -> ExportFailure | None:
        """Return why *response* means that something was not taken, or None.

        Raises:
            NotTakenError: The same, where the exporter would see a success.
        """
        try:
            failure = failure_in(response, self._signal, hops)
        except BaseException:
            response.close()
            raise
        if failure is not None and response.ok:
            response.close()
            raise NotTakenError(failure)
        return failure


def _unwatched(adapter: BaseAdapter) -> BaseAdapter:
    return adapter.adapter if isinstance(adapter, _WatchedAdapter) else adapter


def _without_response(error: requests.RequestException, hops: list[Hop]) -> ExportFailure:
    failure = failure_of(error)
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        # Also where something answered that is no HTTP: no signal reaches an OTLP receiver there.
        failure = failure._replace(was_answered=False)
    if hops:
        redirect = f"HTTP {hops[-1].status} to {shown_url(hops[-1].url)}"
        failure = failure._replace(reason=f"{redirect}: {failure.reason}")
    return failure


def _not_taken(reason: str) -> NotTakenError:
    return NotTakenError(ExportFailure(reason, was_answered=True))
