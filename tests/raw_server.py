"""A server that sends the very bytes that it is given."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class RawServer:
    """Answers ``/v1/asked`` as it is told to, and all else as usual, which is well.

    Attributes:
        port: Where it listens.
        url: Of it.
        connections: How many were made.
        received: The heads of the requests, as sent.
        answer: What it sends, and whether the connection then ends.
        usual: The same, for all else.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        named = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{named}:{self.port}/v1"
        self._tls = tls
        self.connections = 0
        self.received: list[bytes] = []
        self.answer = self.usual = FINE, False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):  # who is content with what it has, ends it
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while part := connection.recv(65536):
                data += part
                if data.endswith(b"\r\n\r\n"):
                    answer, closes = self.answer if b"/v1/asked" in data else self.usual
                    self.received.append(data)
                    data = b""
                    connection.sendall(answer)
                    if closes:
                        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
