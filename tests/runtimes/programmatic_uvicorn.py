"""uvicorn as an app starts it: by its `Server`, on an inherited socket."""

from __future__ import annotations

import sys
from contextlib import suppress

import uvicorn

if __name__ == "__main__":
    config = uvicorn.Config("site_app:asgi", fd=int(sys.argv[1]), log_level="warning")
    with suppress(KeyboardInterrupt):  # as `uvicorn.run` does
        uvicorn.Server(config).run()
