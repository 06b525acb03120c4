"""Other people's test suites, as data: what they need, and the differences that are known."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """One project's own tests, from its source distribution.

    Attributes:
        name: Of the distribution.
        version: Pinned, and of what is tested with it.
        needs: What else its tests need.
        arguments: Of pytest.
        source: The project's code beside its tests; the installed one is tried, so it goes.
        rename: The suite is another's, with these names changed.
        subject: What is tested, if it is not what the suite came with.
        skip: Tests that are not run, each with its reason.
        differ: Tests that end otherwise with us, each with its reason.
        quick: Continuous integration runs it, with these further arguments.
    """

    name: str
    version: str
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    source: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    subject: str = ""
    skip: dict[str, str] = field(default_factory=dict)
    differ: dict[str, str] = field(default_factory=dict)
    quick: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.subject or self.name}"


_HTTPX = (
    "anyio[trio]", "brotli", "chardet<6", "click", "cryptography", "h2", "pygments", "pytest<9",
    "rich", "socksio", "trustme", "uvicorn", "zstandard",
)  # fmt: skip

SUITES = (
    Suite("httpx", "0.28.1", _HTTPX, source="httpx", quick=()),
    Suite(
        "httpx",
        "0.28.1",
        (*_HTTPX, "httpx2[zstd]"),
        ("-W", "ignore:`httpx2.main`:DeprecationWarning"),
        source="httpx",
        rename={r"\bhttpx\b": "httpx2", r"\bhttpcore\b": "httpcore2"},
        subject="httpx2==2.16.2",
    ),
    Suite(
        "requests",
        "2.34.2",
        ("pytest<10", "pytest-httpbin==2.1.0", "httpbin~=0.10.0", "pytest-mock", "pysocks",
         "trustme", "setuptools<81"),
        ("tests", "--deselect=tests/test_requests.py::TestTimeout"),
        source="src",
        skip={"TestTimeout": "needs an address that swallows packets"},
        quick=("--ignore=tests/test_lowlevel.py", "--ignore=tests/test_testserver.py"),
    ),
    Suite(
        "pytest-httpx",
        "0.36.2",
        ("pytest>=9", "pytest-asyncio==1.*"),
        source="pytest_httpx",
        quick=(),
    ),
    Suite(
        "openai",
        "3.57.0",
        ("openai[aiohttp]", "pytest>=9.0.3", "pytest-asyncio>=1.4", "pytest-xdist",
         "pillow==12.3.0", "rich", "inline-snapshot>=0.28", "botocore", "trio", "griffe>=1",
         "azure-identity", "httpx", "websockets", "numpy", "dirty-equals", "h2"),
        ("-o", "addopts=", "tests/test_client.py", "tests/test_httpx2.py",
         "tests/test_httpx2_base.py", "tests/test_httpx2_decompression.py",
         "tests/test_httpx2_respx.py", "tests/test_httpx_compat.py", "tests/test_streaming.py",
         "tests/test_response.py", "tests/test_legacy_response.py", "tests/test_sse_framing.py",
         "tests/test_stream_mode.py", "tests/test_retry_after_overflow.py",
         "tests/test_status_error_messages.py", "tests/test_debug_logging.py",
         "tests/test_auth.py", "tests/test_module_client.py", "tests/lib/chat"),
        source="src",
        skip={
            "tests/api_resources": "needs a mock server of its own, written in JavaScript",
            "the rest": "long; these are the files that send",
        },
    ),
    Suite(
        "vcrpy",
        "9.4.2",
        ("pytest>=9", "aiohttp", "boto3", "cryptography", "httpbin>=0.10.3", "httplib2", "httpx",
         "httpx2", "pysocks", "pytest-aiohttp", "pytest-asyncio", "pytest-httpbin", "requests",
         "tornado", "urllib3", "setuptools<81"),
        ("-m", "not online", "tests"),
        source="vcr",
        skip={"online": "marked so by the suite: it asks servers on the internet"},
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        ("pytest>=8.4", "freezegun", "pkgconfig", "proxy.py>=2.4.4rc5", "pytest-cov", "pytest-mock",
         "pytest-timeout", "pytest-xdist", "pytest-codspeed", "blockbuster", "coverage", "isal",
         "trustme", "zlib_ng", "brotli", "aiodns", "uvloop", "python-on-whales",
         "setuptools<81"),
        ("-o", "addopts=", "-m", "not dev_mode and not autobahn and not internal",
         "--timeout=20",
         *(f"tests/test_{name}.py" for name in (
             "client_connection", "client_exceptions", "client_fingerprint", "client_functional",
             "client_middleware", "client_middleware_digest_auth", "client_proto",
             "client_request", "client_response", "client_session", "client_ws",
             "client_ws_functional", "connector", "proxy", "proxy_functional", "tracing",
             "web_functional", "web_websocket_functional"))),
        skip={"the rest": "of the server, the parsers, the helpers; these are the files that send"},
        source="aiohttp",
    ),
)  # fmt: skip

WITHOUT_TESTS = {
    "respx": "0.23.1's source distribution holds none; the suite of openai uses a copy of respx",
}
