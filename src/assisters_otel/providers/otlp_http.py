"""OTLP over HTTP: whether the receiver has taken what was exported.

The exporter takes every status below 400 for a success. What counts is the last answer to the
POST. So the exporter is given a session whose adapters look at the answers: they follow 307 and
308, and raise `NotTaken` for what is no success and looks like one.

Source: the specification of OTLP, "OTLP/HTTP Response"; RFC 9110, section 15.4.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import BaseAdapter

from assisters_otel.api import redaction
from assisters_otel.providers import tls_files
from assisters_otel.providers.entry_points import load_entry_point
from assisters_otel.providers.exporter_logs import NotTaken, failure_of, raise_rejected

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

_MAX_REDIRECTS: Final = 5
_MAX_ANSWER_BYTES: Final = 65_536
"""Of an answer, which is some hundred bytes long; one that is longer is not looked at."""

_PERMANENT, _TEMPORARY = 308, 307
_KEEPS_METHOD: Final = frozenset({_TEMPORARY, _PERMANENT})

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

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_RETRIED: Final = frozenset({408, 429})
"""The statuses below 500 after which the exporter may send again. It has to see them."""

_ANSWERS: Final = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse}


def session(signal: str, endpoint: str) -> Session:
    """Return a session for one exporter, which tells it what has not been taken.

    Args:
        signal: ``traces`` or ``metrics``.
        endpoint: The URL that the exporter sends to. What a session of a credential provider
            sends elsewhere is not looked at: it may be the app's.

    Raises:
        ValueError: A variable asks for a credential provider that there is not.
    """
    made = _with_credentials(signal) or requests.Session()
    with suppress(requests.RequestException, ValueError):  # what is no URL cannot be sent to
        prefix = str(requests.Request("POST", endpoint).prepare().url)
        made.mount(prefix, _Watching(made, made.get_adapter(prefix), signal))
    return made


def _with_credentials(signal: str) -> Session | None:
    # The exporter asks for this itself only if it is given no session.
    common = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"
    own = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal.upper()}_CREDENTIAL_PROVIDER"
    variable = common if os.environ.get(common) else own
    name = os.environ.get(variable)
    if not name:
        return None
    provider: Any = load_entry_point("opentelemetry_otlp_credential_provider", name, variable)
    made = provider()
    if not isinstance(made, requests.Session):
        raise ValueError(f"{variable}: {name!r} gives no session of requests")
    return made


class _Watching(BaseAdapter):
    """Sends by another adapter, and looks at what is answered.

    It takes the place of an adapter and not that of the session, because a credential provider
    brings a session of its own.
    """

    def __init__(self, owner: Session, adapter: BaseAdapter, signal: str) -> None:
        super().__init__()
        self._owner = owner
        self.adapter = adapter
        self._signal = signal

    def send(  # noqa: PLR0913, PLR0917 - the signature of requests
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send *request*, and follow where it is redirected to.

        Raises:
            NotTaken: The answer is no success, and the exporter would take it for one.
            requests.RequestException: There is no answer.
        """
        settings = {"stream": stream, "verify": verify, "cert": cert}
        until_s = time.monotonic() + timeout if isinstance(timeout, (int, float)) else None
        response = self._once(self.adapter, request, timeout, proxies, settings)
        followed: list[str] = []
        try:
            while response.status_code in _KEEPS_METHOD:
                request = self._hop(request, response, len(followed))
                followed.append(str(request.url))
                response.close()
                left = timeout if until_s is None else _left(until_s)
                response = self._again(request, response.status_code, left, proxies, settings)
            self._judge(response, followed)
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close the connections."""
        self.adapter.close()

    def _once(
        self,
        adapter: BaseAdapter,
        request: PreparedRequest,
        timeout: Any,
        proxies: Any,
        settings: dict[str, Any],
    ) -> Response:
        try:
            return adapter.send(request, timeout=timeout, proxies=proxies, **settings)
        except OSError as error:
            is_tls = str(request.url).lower().startswith("https:")
            verify = settings["verify"]
            fault = tls_files.explain(
                error,
                self._signal,
                bundle=verify if is_tls and isinstance(verify, str) else None,
                client=settings["cert"],
            )
            if fault is None:
                raise
            raise NotTaken(fault.text, answered=not fault.is_shared) from error

    def _again(
        self,
        request: PreparedRequest,
        status: int,
        timeout: Any,
        proxies: Any,
        settings: dict[str, Any],
    ) -> Response:
        """Send to where an answer with *status* has led."""
        found = self._owner.get_adapter(str(request.url))
        adapter = found.adapter if isinstance(found, _Watching) else found
        try:
            by = self._owner.rebuild_proxies(request, proxies)
            return self._once(adapter, request, timeout, by, settings)
        except requests.RequestException as error:
            hint = failure_of(error)
            told = NotTaken(
                f"HTTP {status} to {shown(str(request.url))}: {hint.reason}", answered=hint.answered
            )
            told.__cause__ = error
            # Of the same class, so that the exporter sends again where that may help.
            raise type(error)(hint.reason, request=request) from told

    def _hop(self, request: PreparedRequest, response: Response, number: int) -> PreparedRequest:
        if number == _MAX_REDIRECTS:
            raise NotTaken(f"HTTP {response.status_code} more than {_MAX_REDIRECTS} times")
        target = _target(response)
        if target is None or urlsplit(target).scheme not in {"http", "https"}:
            raise NotTaken(_redirect(response))
        hop = request.copy()
        try:
            hop.prepare_url(target, None)
        except (requests.RequestException, ValueError) as error:
            raise NotTaken(f"{_redirect(response)}, which is no URL") from error
        if self._owner.should_strip_auth(str(request.url), str(hop.url)):
            for name in set(hop.headers):
                if name.lower() not in _HARMLESS:
                    del hop.headers[name]
        return hop

    def _judge(self, response: Response, followed: list[str]) -> None:
        status = response.status_code
        at = f" from {shown(followed[-1])}, after a redirect" if followed else ""
        if status >= 500 or status in _RETRIED:  # noqa: PLR2004 - the exporter may send again
            return
        if status >= 400:  # noqa: PLR2004 - a refusal, which the exporter sees as well
            if followed:
                raise NotTaken(f"HTTP {status}{at}")
            return
        if not 200 <= status < 300:  # noqa: PLR2004 - what is no success
            raise NotTaken(f"{_redirect(response)}{at}")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        body = response.content if len(response.content) <= _MAX_ANSWER_BYTES else b""
        if kind in _PAGES or (not kind and response.content[:64].lstrip().startswith(b"<")):
            raise NotTaken(f"HTTP {status} with an HTML page{at}")
        raise_rejected(_read(self._signal, kind, body))


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    place = parts.netloc.rpartition("@")[2]
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    return redaction.clean(f"{scheme}//{place}{parts.path}" if place else f"{scheme}{parts.path}")


def _redirect(response: Response) -> str:
    target = _target(response)
    return f"HTTP {response.status_code}{f' to {shown(target)}' if target else ''}"


def _target(response: Response) -> str | None:
    # Of any 3xx: requests' own reading leaves out 300 and the like.
    location = response.headers.get("Location")
    if not location or response.status_code < 300:  # noqa: PLR2004 - 201 has one, too
        return None
    try:
        return urljoin(str(response.url), location.encode("latin-1").decode("utf-8"))
    except ValueError:
        return None


def _read(signal: str, kind: str, body: bytes) -> object:
    """Read what the receiver says of a request that it has taken, in parts perhaps."""
    answer: Any = _ANSWERS[signal]()
    try:
        if kind == "application/json":
            json_format.Parse(body, answer, ignore_unknown_fields=True)
        else:
            answer.ParseFromString(body)
    except (DecodeError, json_format.ParseError, RecursionError):
        return None  # a 2xx has taken it, whatever else is answered
    return answer


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise requests.Timeout("no time is left to follow a redirect")
    return left_s
