"""``python -m assisters_otel``: the command line where its script is not on the PATH."""

from __future__ import annotations

from assisters_otel.cli import main

if __name__ == "__main__":
    main()
