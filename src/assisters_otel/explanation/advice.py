"""The advice on an error: if a retry helps, the developer's next step, the message for a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel import catalog, causes
from assisters_otel.explanation.exception_classes import TOO_MANY_REDIRECTS
from assisters_otel.outcomes import FIRST_ERROR

if TYPE_CHECKING:
    from assisters_otel.explanation.evidence import Evidence

_OF_URL: Final = frozenset({404, 405})

_DO_NOTHING: Final = "Nothing to do."
_ASK_SUPPORT: Final = "Look at the API's status page; if it stays, give support the request id."
_CHECK_REQUEST: Final = (
    "The request was refused, and sent again it will be: look at it, at the parameter if one is "
    "named, and at what stands between you and the API; then ask support with the request id."
)
_CHECK_URL: Final = "Compare base URL (it ends in /v1), path and ids with the documentation."
_CHECK_NETWORK: Final = (
    "Look at name resolution, proxy, outgoing network and time-outs of your service, "
    "then at the API's status page."
)
_CHECK_UNSENT: Final = "The request did not leave: check the base URL, the headers and the body."
_CHECK_ORIGIN: Final = (
    "This is no exception of the API's clients, and no request is known for it: look at where it "
    "was raised."
)
_CHECK_MEMBERS: Final = "Several requests have failed: explain each of the group's exceptions."
_CHECK_LIMIT: Final = (
    "The app, or the runtime that it runs in, has ended the request: look at its time limits, at "
    "what cancels its tasks, and at what stops it."
)
_CHECK_CLIENT: Final = "The client itself failed: compare its version with what the API answers."
_CHECK_ANSWER: Final = (
    "An answer came: look at its status and at the beginning of its body, compare them with what "
    "the client expects, and read a body once, before it is closed."
)
_CHECK_TLS_FILES: Final = (
    "Look at the path of the CA bundle or certificate: REQUESTS_CA_BUNDLE, SSL_CERT_FILE, or the "
    "client's own option."
)
_CHECK_PROXY: Final = (
    "The request did not reach the API: look at the proxy's URL with its user name and password "
    "(HTTPS_PROXY, or the client's own option), and at whether the proxy lets the API's host pass."
)
_NO_MORE: Final = "Something went wrong."
"""The message for an end user where it is not known whether another request would succeed."""

OF_PROXY: Final = 407
"""The status that only a proxy answers with. Source: RFC 9110, 15.5.8."""

_ADVICE_BY_CAUSE: Final = {
    causes.POOL: (
        "All connections of the client's own pool were in use: close what is streamed and not "
        "read to its end, share one client, or raise its limit of connections or its time-out "
        "for the pool."
    ),
    causes.CERTIFICATE: (
        "A proxy that opens TLS may be in between: add its CA to the bundle that the client reads "
        "(SSL_CERT_FILE; REQUESTS_CA_BUNDLE for requests; or the client's own option), or compare "
        "the host's name."
    ),
    causes.HANDSHAKE: (
        "Compare the client's options for TLS (its own certificate and key, versions, ciphers, the "
        "host's name) with what the gateway or proxy in between asks for."
    ),
}
"""The advice for a cause. All others are a proxy's refusal, or files for TLS that are not there."""


def advise(evidence: Evidence) -> tuple[bool, str, str]:
    """Return whether a retry helps, what the developer does, what a user may be shown."""
    code, type_, status = evidence.envelope.code, evidence.envelope.type, evidence.status
    row = catalog.find(code) if code else None
    if row is not None:
        return row.retryable, row.advice, row.user_message
    if not evidence.has_failed:
        return False, _DO_NOTHING, ""
    if code or type_ or (status is not None and status >= FIRST_ERROR):
        return _advise_on_refusal(evidence)
    is_transient = evidence.is_transient
    if status is not None:  # a status below 400, and then the body or the stream failed
        advice = _ASK_SUPPORT if evidence.is_stream else _CHECK_NETWORK
        advice = advice if is_transient else _CHECK_CLIENT
        user_message = catalog.SORRY if is_transient else catalog.IN_VAIN
    else:
        advice = _CHECK_NETWORK if is_transient else _CHECK_UNSENT
        user_message = catalog.BUSY if is_transient else catalog.IN_VAIN
    if evidence.is_cancelled:
        return False, _CHECK_LIMIT, _NO_MORE
    if evidence.exception == TOO_MANY_REDIRECTS:
        advice = _CHECK_URL
    elif evidence.is_foreign:
        advice = _CHECK_MEMBERS if evidence.is_group else _CHECK_ORIGIN
        user_message = _NO_MORE
    elif evidence.cause is not None:
        other = _CHECK_PROXY if evidence.cause.is_of_proxy else _CHECK_TLS_FILES
        advice = _ADVICE_BY_CAUSE.get(evidence.cause, other)
    elif evidence.is_answered or evidence.is_unusable:
        advice = _CHECK_ANSWER
    return is_transient, advice, user_message


def _advise_on_refusal(evidence: Evidence) -> tuple[bool, str, str]:
    """Return what `advise` returns for an answer whose code is not documented, or without one."""
    type_, status = evidence.envelope.type, evidence.status
    retryable = catalog.retryable(evidence.envelope.code, type_, status or FIRST_ERROR)
    rows = [row for row in catalog.ERRORS if row.type == type_]
    usual = catalog.SORRY if retryable else catalog.IN_VAIN
    if len(rows) == 1:  # the type's only documented code has the advice of the type
        return retryable, rows[0].advice, rows[0].user_message
    if retryable:
        return True, _ASK_SUPPORT, usual
    user_message = rows[0].user_message if rows else usual
    if status == OF_PROXY and type_ is None:
        return False, _CHECK_PROXY, user_message
    return False, _CHECK_URL if status in _OF_URL else _CHECK_REQUEST, user_message
