"""Finds the proxy between the app and a receiver, as the exporter over HTTP does: by `requests`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from assisters_otel.records import Record

_DEFAULT_PORTS: Final = {"https": 443, "socks5": 1080, "socks5h": 1080}


class Proxy(Record):
    """A proxy that the environment names for a URL.

    Attributes:
        scheme: The scheme of its URL.
        host: Its host.
        port: Its port.
        target: The host that it is to connect to.
    """

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:  # without the user's name and password
        return f"the proxy {self.scheme}://{self.host}:{self.port}"

    @property
    def advice(self) -> str:
        """The text that says what to write where the proxy is the trouble."""
        return f"Correct HTTP_PROXY or HTTPS_PROXY, or go without it: NO_PROXY={self.target}."

    @property
    def leads_astray(self) -> bool:
        """True if it is on another machine, and the receiver is on this one."""
        return _is_loopback(self.target) and not _is_loopback(self.host)


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy through which the exporter sends to *url*, or None.

    Raises:
        ValueError: The proxy's URL cannot be read.
    """
    named = select_proxy(url, get_environ_proxies(url))
    if not named:
        return None
    parts = urlsplit(named if "://" in named else f"http://{named}")
    try:
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
    except ValueError as error:
        raise ValueError(
            f"HTTP_PROXY or HTTPS_PROXY has a wrong port: {error}. Write http://proxy.example:3128"
        ) from error
    return Proxy(parts.scheme, parts.hostname or "", port, urlsplit(url).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
