"""Runs other people's test suites with the library switched on: python tests/compat/foreign.py.

Each suite comes from its project's own source distribution, pinned, and is run bare, with
OpenTelemetry's instrumentations, with the library on every host that it names, and with the
library on other hosts. A test that fails with us and passes with OpenTelemetry alone is a fault
of ours, and so is one that fails on hosts that are not watched and passes bare.

What a run without the library told is kept in the cache, under the digest of all that it depends
on, and played again when any of that changes; `--all` plays it anew. Only the library's own run
depends on the library. A difference is tried again with both, so an old baseline makes none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from environments import (
    NotMadeError,
    cache,
    end_all_on_sigterm,
    environment,
    run,
    run_for,
    wheel,
)
from suites import SUITES, WITHOUT_TESTS, Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

MODES = ("bare", "otel", "ours", "unwatched")
FAILED = {"failed", "error"}
_HOST = re.compile(r"(?:https?|all)://(?:[\w.:-]*@)?(\w(?:[\w.-]*\w)?)")
AGAIN = 3
"""How often a difference has to be seen before it is one: other people's tests have races."""
BASES = {"ours": "otel", "unwatched": "bare"}
"""What each mode of the library is compared with: the same tests without it."""
RUNNERS = ("foreign.py", "environments.py", "switch.py")
_KEPT_S = 30 * 86_400
"""How long an unused baseline stays in the cache: nightly uses each that still counts."""
_CLIENTS_READ = re.compile(r"(?i).*_proxy|ssl_.*|requests_.*|curl_.*|netrc|tz|lang|lc_.*")


class Told(NamedTuple):
    """What a run of a suite told."""

    outcomes: dict[str, str]
    spans: int
    attempts: int
    printed: str


def sources(suite: Suite) -> Path:
    """Fetch a suite and lay it out, without the code that it is about."""
    downloads = cache() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    stem = f"{suite.name.replace('-', '_')}-{suite.version}"
    packed = downloads / f"{stem}.tar.gz"
    if not packed.is_file():
        fetch = ("pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps")
        run(sys.executable, "-m", *fetch, "--dest", downloads, f"{suite.name}=={suite.version}")
    home = cache() / "suites" / re.sub(r"\W+", "-", str(suite))
    shutil.rmtree(home, ignore_errors=True)
    with tarfile.open(packed) as file:
        if hasattr(tarfile, "data_filter"):
            file.extractall(home, filter="data")
        else:
            file.extractall(home)  # noqa: S202 - pinned, and before 3.10.12 there is no filter
    root = home / stem
    if suite.source:
        shutil.rmtree(root / suite.source)
    for path in (root / "tests").rglob("*.py") if suite.rename else ():
        text = path.read_text()
        for old, new in suite.rename.items():
            text = re.sub(old, new, text)
        path.write_text(text)
    return root


def hosts(root: Path) -> str:
    """Every host that a suite names, and this machine."""
    found = {"127.0.0.1", "localhost", "[::1]", "testserver", "0.0.0.0"}  # noqa: S104 - a name
    for path in (root / "tests").rglob("*.py"):
        text = path.read_text(errors="replace")
        found.update(_HOST.findall(text))
    return " ".join(sorted(found))


def play(suite: Suite, python: Path, root: Path, mode: str, *tests: str) -> Told:
    """Run a suite, or some of its tests."""
    outcomes = root.parent / f"{mode}.json"
    outcomes.unlink(missing_ok=True)
    options = [one for one in suite.arguments if not tests or not one.startswith("tests")]
    if mode not in BASES:
        options += ["-p", "no:assisters_otel"]  # the library's own plug-in, which pytest loads
    done = run_for(
        python, "-m", "pytest", "-q", "-p", "switch", "-p", "no:cacheprovider", *options, *tests,
        cwd=root,
        PYTHONPATH=f"{Path(__file__).parent}:{root}",
        ASSISTERS_OTEL_FOREIGN=mode,
        ASSISTERS_OTEL_FOREIGN_HOSTS=hosts(root),
        ASSISTERS_OTEL_FOREIGN_OUTCOMES=str(outcomes),
    )  # fmt: skip
    printed = done.stdout + done.stderr
    if not outcomes.is_file():
        end = "\n".join(printed.splitlines()[-30:])
        raise NotMadeError(f"{suite} ({mode}) has not ended:\n{end}")
    told = json.loads(outcomes.read_text())
    return Told(**told, printed=printed)


def depends_on(
    suite: Suite, python: Path, packed: bytes, mode: str, variables: Mapping[str, str] = os.environ
) -> str:
    """Return the digest of all that a run without the library depends on.

    Args:
        suite: The suite, with its arguments.
        python: The interpreter of its environment.
        packed: The suite's source distribution.
        mode: ``bare`` or ``otel``.
        variables: The environment; those that the clients read count.
    """
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    installed = sorted(one.name for one in site.glob("*.dist-info"))
    named = [
        repr(suite), mode, run(python, "-VV"), platform.platform(),
        *(one for one in installed if not one.startswith("assisters_otel-")),
        *(f"{name}={value}" for name, value in sorted(variables.items())
          if _CLIENTS_READ.fullmatch(name)),
        *(Path(__file__).with_name(name).read_text() for name in RUNNERS),
    ]  # fmt: skip
    digest = hashlib.sha256(packed)
    for one in named:
        digest.update(f"{one}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def baseline(suite: Suite, python: Path, root: Path, mode: str, kept: Path) -> Told:
    """Run a suite without the library, and keep what it told.

    A test that fails is given further chances. One that fails by chance would otherwise hide what
    the library does to it for as long as the baseline is kept.
    """
    told = play(suite, python, root, mode)
    for _ in range(AGAIN):
        failed = [test for test, outcome in told.outcomes.items() if outcome in FAILED]
        if not failed:
            break
        better = play(suite, python, root, mode, *failed).outcomes
        told.outcomes.update({one: better[one] for one in failed if one in better})
    kept.parent.mkdir(parents=True, exist_ok=True)
    for old in kept.parent.glob("*"):
        if time.time() - old.stat().st_mtime > _KEPT_S:
            old.unlink(missing_ok=True)
    whole = kept.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps(told._asdict() | {"printed": ""}))
    whole.replace(kept)
    return told


def run_of(suite: Suite, python: Path, root: Path, mode: str, *, anew: bool) -> tuple[Told, bool]:
    """Return what a run told, and True if it is a baseline that was kept."""
    if mode in BASES:
        return play(suite, python, root, mode), False
    packed = (cache() / "downloads" / f"{root.name}.tar.gz").read_bytes()
    kept = cache() / "baselines" / f"{depends_on(suite, python, packed, mode)}.json"
    if anew or not kept.is_file():
        return baseline(suite, python, root, mode, kept), False
    kept.touch()
    return Told(**json.loads(kept.read_text())), True


def worse(mine: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Name the tests that failed, or were not there, in the first and not in the second."""
    return [
        test
        for test, outcome in theirs.items()
        if outcome not in FAILED and mine.get(test, "error") in FAILED
    ] + [test for test, outcome in mine.items() if outcome in FAILED and test not in theirs]


def differences(
    suite: Suite, python: Path, root: Path, seen: dict[str, Told]
) -> dict[str, list[str]]:
    """Name the tests that go wrong with us, and do so each time they are run."""
    found = {}
    for mode, base in BASES.items():
        if mode not in seen:
            continue
        odd = [one for one in worse(seen[mode].outcomes, seen[base].outcomes)
               if one not in suite.differ]  # fmt: skip
        for _ in range(AGAIN):
            if not odd:
                break
            pair = [play(suite, python, root, one, *odd).outcomes for one in (mode, base)]
            odd = [one for one in worse(*pair) if one in odd]
        found[mode] = odd
    return found


def counted(outcomes: dict[str, str]) -> str:
    counts = Counter(outcomes.values())
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())


def try_suite(
    suite: Suite, python: Path, built: Path, modes: tuple[str, ...], *, anew: bool = False
) -> bool:
    """Run a suite in every mode, tell what came out, and say whether all is well."""
    name = f"foreign-{re.sub(r'[^a-z0-9]+', '-', str(suite))}"
    pinned = [f"{suite.name}=={suite.version}", *([suite.subject] if suite.subject else [])]
    needs: list[Any] = [*pinned, *suite.needs, *_INSTRUMENTATIONS]
    with environment(name, python, built, needs) as inside:
        root = sources(suite)
        seen: dict[str, Told] = {}
        for mode in modes:
            begun = time.monotonic()
            told, is_kept = run_of(suite, inside, root, mode, anew=anew)
            seen[mode] = told
            print(f"{suite!s:16} {mode:10} {len(told.outcomes):5} tests: {counted(told.outcomes)}"
                  f" · {told.spans} spans, {told.attempts} attempts"
                  f" · {'kept' if is_kept else f'{time.monotonic() - begun:.0f} s'}",
                  flush=True)  # fmt: skip
        (root.parent / "printed.txt").write_text("\n".join(seen[one].printed for one in modes))
        found = differences(suite, inside, root, seen)
        for mode, tests in found.items():
            for test in tests:
                print(f"  FAILED {mode}: {test}", flush=True)
    if "ours" in seen and not seen["ours"].attempts:
        print("  FAILED: not one attempt was measured, so nothing was tried", flush=True)
        return False
    return not any(found.values())


_INSTRUMENTATIONS = (
    "opentelemetry-sdk", "opentelemetry-instrumentation-httpx>=0.65b0",
    "opentelemetry-exporter-otlp-proto-http", "opentelemetry-instrumentation-requests>=0.65b0",
    "opentelemetry-instrumentation-aiohttp-client>=0.65b0", "wrapt",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("suite", nargs="*", help="some of them, by name")
    parser.add_argument("--all", action="store_true", help="every suite, and whole")
    parser.add_argument("--modes", default=" ".join(MODES), help="some of: %(default)s")
    asked = parser.parse_args(argv)
    modes = tuple(one for one in MODES if one in asked.modes.split())
    chosen = [one for one in SUITES
              if str(one).partition("==")[0] in asked.suite
              or (not asked.suite and (asked.all or one.quick is not None))]  # fmt: skip
    if not chosen:
        parser.error(f"there is none of these; there are {', '.join(map(str, SUITES))}")
    if not (asked.all or asked.suite):
        chosen = [replace(one, arguments=(*one.arguments, *(one.quick or ()))) for one in chosen]
    try:
        built = wheel()
        here = Path(sys.executable)
        good = [try_suite(one, here, built, modes, anew=asked.all) for one in chosen]
    except NotMadeError as error:
        sys.exit(f"[foreign] {error}")
    for name, reason in WITHOUT_TESTS.items() if asked.all else ():
        print(f"{name:16} not run: {reason}")
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
