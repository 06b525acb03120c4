"""Makes one file of an app with PyInstaller, and tries it: python tests/compat/bundle.py.

The file is kept in the environment, and built anew when the library, the app or PyInstaller has
changed.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from environments import (
    PROJECT,
    NotMadeError,
    end_all_on_sigterm,
    environment,
    run,
    run_for,
    try_each,
)

if TYPE_CHECKING:
    from pathlib import Path

APP = PROJECT / "tests" / "compat" / "bundled_app.py"
PYINSTALLER = "pyinstaller==6.22.3"
INSTALLED = (
    *("-r", "pyproject.toml", "--extra", "config", "--extra", "grpc", "--extra", "testing"),
    *("httpx>=0.27,<1", PYINSTALLER),
)
FORM = "one-file"


def bundle(inside: Path, built: Path) -> Path:
    """Return the app as one file.

    Args:
        inside: The interpreter of the environment.
        built: The wheel of this project, in a folder that is called by what is in it.
    """
    home = inside.parents[1] / "bundle"
    stamp = hashlib.sha256(f"{built.parent.name} {PYINSTALLER}".encode() + APP.read_bytes())
    written = home / "stamp"
    app = home / APP.stem
    if not written.is_file() or written.read_text() != stamp.hexdigest():
        written.unlink(missing_ok=True)
        run(
            inside, "-m", "PyInstaller", "--onefile", "--noconfirm", "--log-level", "WARN",
            "--distpath", home, "--workpath", home / "work", "--specpath", home, APP,
            PYINSTALLER_ZLIB_COMPRESSION_LEVEL="1",  # the usual 9 takes a third of the build
        )  # fmt: skip
        written.write_text(stamp.hexdigest())
    return app


def attempt(form: str, python: Path, built: Path) -> tuple[bool, str]:
    """Build the app and try it; what went wrong, or what it was built with."""
    tests = PROJECT / "tests"
    try:
        with environment(f"bundle-{form}", python, built, INSTALLED) as inside:
            app = bundle(inside, built)
            done = run_for(
                inside, tests / "compat" / "check_bundle.py", app,
                PYTHONPATH=str(tests), timeout_s=120,
            )  # fmt: skip
    except NotMadeError as error:
        return False, str(error)
    if done.returncode:
        return False, "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    return True, f"{PYINSTALLER}, {app.stat().st_size / 1e6:.0f} MB"


def main() -> int:
    return try_each("bundle", [FORM], attempt)


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
