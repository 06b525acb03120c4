"""What is hooked into a runtime: by no import of ours, and out again with the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

from assisters_otel.foreign_exceptions import INJECTED

HOOKED = """
import json

def functions():
    import billiard.pool, uvicorn, rq, dramatiq.worker
    import celery.signals as signals
    from awslambdaric import bootstrap

    owners = [uvicorn.Server, *rq.Worker.__mro__[:-1], dramatiq.worker._WorkerThread, bootstrap,
              billiard.pool.Worker]
    found = {f"{owner.__name__}.{name}": held for owner in owners
             for name, held in vars(owner).items() if callable(held)}
    names = ("task_prerun", "task_postrun", "worker_process_shutdown")
    return found, {name: list(getattr(signals, name).receivers) for name in names}
"""


def passed(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOOKED) + textwrap.dedent(script)],
        env={"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("when", ["before", "after"])
def test_shutdown_leaves_the_very_same_functions_and_receivers(when):
    script = """
        import assisters_otel
        before = functions() if WHEN == "after" else None
        handle = assisters_otel.init("jobs")
        hooked, connected = functions()
        handle.shutdown()
        now, receivers = functions()
        assert before is None or (now, receivers) == before
        print(*sorted(name for name in now if now[name] is not hooked[name]))
        print(json.dumps({name: len(connected[name]) - len(receivers[name]) for name in connected}))
    """

    functions, receivers = passed(f"WHEN = {when!r}\n{textwrap.dedent(script)}").splitlines()

    last = ("job_failure", "job_retry", "job_success")
    assert {name.rpartition(".")[2] for name in functions.split()} == {
        *(f"handle_{name}" for name in last),
        "_do_exit",
        "handle_event_request",
        "perform_job",
        "process_message",
        "shutdown",
        "startup",
    }
    assert set(json.loads(receivers).values()) == {1}


def test_no_runtime_is_imported_that_the_app_does_not_use():
    said = passed("""
        import sys
        import assisters_otel
        assisters_otel.init("jobs")
        print([name for name in ("awslambdaric", "billiard", "celery", "dramatiq", "gunicorn",
               "multiprocess", "rq", "uvicorn") if name in sys.modules])
    """)

    assert said == "[]\n"


@pytest.mark.parametrize("name", sorted(INJECTED))
def test_an_injected_exception_is_listed_by_the_name_that_its_class_has(name):
    module, _, attribute = name.rpartition(".")
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip("not installed")

    said = passed(f"""
        from {module} import {attribute} as injected
        print(f"{{injected.__module__}}.{{injected.__qualname__}}")
    """)

    assert said.strip() in INJECTED
