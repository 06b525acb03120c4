"""Starts a script as a process of its own, without its longest part: the import of what is around.

A process that has imported OpenTelemetry, and what the clients are made of, is kept; for each
script it forks. The fork runs the script as its main module, with the arguments, the variables and
the folder that it would have, and ends as the interpreter ends. No client and nothing of this
library is imported before the script does it: when that is, is what many tests are about.

Where a fork would come too late, `run` starts a process: for a variable that is read by the
interpreter, or by what is imported. So it does at full size, which measures those processes, too.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType

MODULES: Final = (
    "asyncio", "concurrent.futures.thread", "email.parser", "http.server", "importlib.metadata",
    "ssl", "unittest.mock", "urllib.request", "uuid",
    "aiohappyeyeballs", "aiosignal", "certifi", "charset_normalizer",
    "h11", "idna", "jiter", "jsonschema", "multidict", "propcache", "pydantic.main", "wrapt",
    "yaml", "yarl",
    "opentelemetry.exporter.otlp.proto.common", "opentelemetry.instrumentation.instrumentor",
    "opentelemetry.instrumentation.utils",
    "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2",
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", "opentelemetry.sdk._configuration",
    "opentelemetry.sdk.metrics.export", "opentelemetry.sdk.trace.export",
)  # fmt: skip
"""What takes long to import. A script that needs none of it would not notice."""

LEFT: Final = {
    "aiohttp", "anyio", "assisters", "assisters_otel", "gevent", "grpc", "httpcore", "httpcore2",
    "httpx", "httpx2", "multiprocessing", "openai", "requests", "trio", "urllib3",
}  # fmt: skip
"""What a script imports itself: the library, the clients, and what the library looks for."""

READ_AGAIN: Final = {"OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"}
"""What the SDK reads at import for a log record's default resource, and then for each provider."""

_AT_IMPORT: Final = dict(os.environ)  # no test has changed anything yet
_PATH: Final = "PYTHONPATH"
_AT_START: Final = ("PYTHON", "LC_", "LANG", "TZ", "LD_")


class _Reads(type(os.environ)):  # type: ignore[misc] # it has no name in public
    """Notes which variables are read."""

    read: Final[set[str]] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return str(super().__getitem__(name))


class _Warm:
    """The process that is kept, seen from the tests."""

    def __init__(self) -> None:
        self._near, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(far.fileno())],
                pass_fds=[far.fileno()],
                env=_AT_IMPORT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # as a fork will have it: a file would be another stream
                stderr=subprocess.PIPE,
            )
        self._answers = self._near.makefile("r")
        self._read = set(json.loads(self._answers.readline())) - READ_AGAIN
        atexit.register(self._end)

    def _end(self) -> None:
        self._answers.close()
        self._near.close()
        self._process.communicate()

    def may_run(self, variables: Mapping[str, str]) -> bool:
        """Return True if no variable is another that has been read already."""
        others = {name for name, _ in variables.items() ^ _AT_IMPORT.items()} - {_PATH}
        return not any(name in self._read or name.startswith(_AT_START) for name in others)

    def run(
        self, arguments: list[str], variables: Mapping[str, str], folder: str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        ends = [os.pipe(), os.pipe()]
        asked = json.dumps([arguments, dict(variables), folder]).encode()
        socket.send_fds(self._near, [b"%16d" % len(asked)], [writing for _, writing in ends])
        self._near.sendall(asked)
        for _, writing in ends:
            os.close(writing)
        pid = int(self._answers.readline())
        late = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
        late.start()
        with ThreadPoolExecutor(len(ends)) as pool:
            out, err = pool.map(_read_all, [reading for reading, _ in ends])
        code = int(self._answers.readline())
        late.cancel()
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(arguments, timeout_s, out, err)
        return subprocess.CompletedProcess(arguments, code, out, err)


def _read_all(end: int) -> str:
    with open(end, encoding="utf-8") as file:
        return file.read()


_alone = threading.Lock()
_kept: list[_Warm] = []


def run(
    *arguments: str | Path, env: Mapping[str, str], timeout_s: float = 180, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script and wait for its end.

    Args:
        arguments: Of the interpreter: ``-c`` and the script, or its path, and what it gets.
        env: Its variables.
        timeout_s: Then it is killed.
        cwd: Its folder, if not this process's.

    Raises:
        TimeoutExpired: It has been killed.
    """
    words = [*map(str, arguments)]
    if SIZE < WHOLE and words[0] != "-m" and hasattr(os, "fork") and _alone.acquire(blocking=False):
        try:
            if not _kept:
                _kept.append(_Warm())
            if _kept[0].may_run(env):
                return _kept[0].run(words, env, str(cwd or Path.cwd()), timeout_s)
        finally:
            _alone.release()
    return subprocess.run(
        [sys.executable, *words],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )


# -- in the process that is kept ---------------------------------------------------------------


def _import_all() -> list[str]:
    """Import what takes long, and return the names of the variables that were read."""
    usual = type(os.environ)
    os.environ.__class__ = _Reads
    for name in MODULES:
        importlib.import_module(name)
    os.environ.__class__ = usual
    del sys.modules["sizes"]  # which reads its variable
    early = LEFT & sys.modules.keys()
    assert not early, early
    # That OpenTelemetry's own schema is one takes longer to check than all else that reads a file.
    validator = sys.modules["jsonschema"].Draft202012Validator
    validator.check_schema = lambda *_args, **_options: None
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it
    return sorted(_Reads.read)


def _serve(tests: socket.socket) -> tuple[list[str], str] | None:
    """Fork for whatever is asked. Return in each fork what it is to run; in the end, None."""
    while True:
        size, (out, err), _, _ = socket.recv_fds(tests, 16, 2)
        if not size:
            return None
        asked = b""
        while len(asked) < int(size):
            asked += tests.recv(int(size) - len(asked))
        pid = os.fork()
        if pid == 0:
            os.dup2(out, 1)
            os.dup2(err, 2)
        os.close(out)
        os.close(err)
        if pid == 0:
            arguments, variables, folder = json.loads(asked)
            before = len(_path())
            os.environ.clear()
            os.environ.update(variables)
            sys.path[1 : 1 + before] = _path()
            return arguments, folder
        tests.sendall(b"%d\n" % pid)
        tests.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _path() -> list[str]:
    return list(filter(None, os.environ.get(_PATH, "").split(os.pathsep)))


def _become(arguments: list[str], folder: str) -> tuple[CodeType, dict[str, Any]]:
    """Be the main module that the interpreter would make of its arguments."""
    os.chdir(folder)
    main = sys.modules["__main__"] = ModuleType("__main__")
    if arguments[0] == "-c":
        script, name, sys.path[0], sys.argv = arguments[1], "<string>", "", ["-c", *arguments[2:]]
    else:
        name, sys.argv = arguments[0], arguments
        sys.path[0], script = str(Path(name).parent), Path(name).read_text(encoding="utf-8")
        main.__file__ = name
    return compile(script, name, "exec", dont_inherit=True), vars(main)


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as tests:
        tests.sendall(json.dumps(_import_all()).encode() + b"\n")
        asked = _serve(tests)
    if asked is not None:
        exec(*_become(*asked))  # noqa: S102 - what the interpreter does


if __name__ == "__main__":
    _main()
