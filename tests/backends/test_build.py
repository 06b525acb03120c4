"""What the script that builds the servers says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import build
import pytest

SCRIPT = Path(build.__file__)


def run(**environment):
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def imitate(folder, name, version):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {name}, version {version}\n")
    path.chmod(0o755)


def test_a_folder_of_one_s_own_is_used_and_nothing_is_built(tmp_path):
    for server in build.SERVERS:
        for name in server.binaries:
            imitate(tmp_path, name, server.version)

    code, told = run(ASSISTERS_OTEL_SERVERS=str(tmp_path))

    assert code == 0
    assert told == f"[servers] all there: {tmp_path}\n"


def test_another_version_than_the_pinned_one_is_refused(tmp_path):
    for server in build.SERVERS:
        for name in server.binaries:
            imitate(tmp_path, name, "2.42.0" if name == "promtool" else server.version)

    code, told = run(ASSISTERS_OTEL_SERVERS=str(tmp_path))

    assert code == 1
    assert f"{tmp_path / 'promtool'} is version 2.42.0, and 3.16.0 is wanted" in told


def test_a_missing_binary_is_named(tmp_path):
    code, told = run(ASSISTERS_OTEL_SERVERS=str(tmp_path))

    assert code == 1
    assert "alertmanager is not in" in told
    assert "unset ASSISTERS_OTEL_SERVERS" in told


def test_without_go_it_says_what_to_install(tmp_path):
    code, told = run(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), ASSISTERS_OTEL_SERVERS="")

    assert code == 1
    assert "install Go" in told
    assert "ASSISTERS_OTEL_SERVERS" in told
    assert "Traceback" not in told


def test_a_build_that_fails_shows_the_end_of_its_log_and_leaves_nothing(tmp_path):
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho no space left on device >&2\nexit 1\n")
    go.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    code, told = run(PATH=path, XDG_CACHE_HOME=str(tmp_path), ASSISTERS_OTEL_SERVERS="")

    assert code == 1
    assert "no space left on device" in told
    assert "the whole log is" in told
    left = {one.name for one in (tmp_path / "assisters-otel" / "servers").iterdir()}
    assert left == {"lock", "alertmanager-0.28.1.log"}


def test_a_machine_may_be_without_what_is_optional(tmp_path):
    """Debian's promtool is not everywhere; the tests that ask it are skipped then."""
    for server in build.SERVERS:
        recipe = f"-{server.recipe}" if server.recipe > 1 else ""
        if not server.optional:
            name = f"{server.name}-{server.version}{recipe}"
            (tmp_path / "assisters-otel" / "servers" / name).mkdir(parents=True)

    code, told = run(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), ASSISTERS_OTEL_SERVERS="")

    assert code == 0
    assert "goes on without prometheus-debian 2.42.0" in told
    assert "all there" in told


def test_a_server_that_is_not_built_is_no_failure_of_a_user_s_test_run(tmp_path):
    """They are skipped, with the command that builds them."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "tests/backends/test_configs.py"],
        cwd=SCRIPT.parents[2],
        env={**environment, "XDG_CACHE_HOME": str(tmp_path), "ASSISTERS_OTEL_SERVERS": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "run python tests/backends/build.py" in done.stdout


@pytest.mark.parametrize("name", ["otelcol", "jaeger", "prometheus", "amtool"])
def test_what_was_built_is_what_is_pinned(name):
    server = next(one for one in build.SERVERS if name in one.binaries)

    build._check(server, name, build.binary(name))
