"""A program whose children send: how they are started, by what, and how each ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import httpx
from switched_on import TLS

how, by, ending = sys.argv[1:] if __name__ == "__main__" else ("", "", "")


def once(ending: str) -> None:
    httpx.get(f"{os.environ['API']}/models", trust_env=False, verify=TLS)
    if ending == "exception":
        raise LookupError("as asked for")
    if ending == "sys.exit":
        sys.exit(3)


if __name__ == "__main__":
    context = multiprocessing.get_context(how)
    if by == "Process":
        children = [context.Process(target=once, args=(ending,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    elif by == "Pool":
        with context.Pool(2) as pool:
            results = [pool.apply_async(once, (ending,)) for _ in range(4)]
            for result in results:
                with suppress(LookupError):
                    result.get()
            pool.close()
            pool.join()
    elif by == "ProcessPoolExecutor":
        with ProcessPoolExecutor(2, context) as pool:
            for future in [pool.submit(once, ending) for _ in range(4)]:
                with suppress(LookupError):
                    future.result()
    else:
        once(ending)
