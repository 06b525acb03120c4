"""The plug-in and the package, with and without the extra."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import assisters_otel.testing

WITHOUT_EXTRA = "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None; "


def run(code, *arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_the_fixture_gives_a_started_api_that_nobody_has_asked(assisters_api):
    assert isinstance(assisters_api, assisters_otel.testing.FakeApi)
    assert assisters_api.requests == []
    assert assisters_api.url


def test_the_package_has_its_names_and_no_others():
    assert assisters_otel.testing.Received.__name__ == "Received"
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = assisters_otel.testing.nothing_here


def test_the_plugin_loads_nothing_but_what_it_must():
    done = run(
        "import sys, assisters_otel.testing.plugin; "
        "print([name for name in ('starlette', 'uvicorn') if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_under_opentelemetry_instrument_pytest_has_nothing_to_warn_of(tmp_path):
    """It imports the package before pytest is there, which rewrites all of a plug-in's."""
    (tmp_path / "test_it.py").write_text(
        "import httpx\n\n\ndef test_with(assisters_api):\n"
        "    assert httpx.get(assisters_api.url + '/models').status_code == 200\n",
        "utf-8",
    )
    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run(
        [
            scripts / "opentelemetry-instrument", scripts / "pytest", "-W", "error", "-q",
            "-p", "no:cacheprovider", "-p", "no:asyncio",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
            # Other people's, which import anyio, a plug-in of pytest as well.
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx,httpx2,openai,requests,aiohttp-client",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_without_the_extra_the_import_says_what_to_install():
    done = run(WITHOUT_EXTRA + "from assisters_otel.testing import FakeApi")
    assert done.returncode == 1
    assert "ImportError: assisters_otel.testing.FakeApi needs " in done.stderr
    assert "pip install 'assisters-otel[testing]'" in done.stderr


def test_without_the_extra_only_tests_with_the_fixture_fail(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_other(): pass\ndef test_with(assisters_api): pass\n", "utf-8"
    )
    code = WITHOUT_EXTRA + "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = run(code, "-q", "-p", "no:cacheprovider", str(tmp_path), cwd=tmp_path)
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "pip install 'assisters-otel[testing]'" in done.stdout
