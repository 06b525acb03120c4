"""A worker of RQ, by the URL of its Redis server and its class; ``burst`` ends it with the jobs."""

from __future__ import annotations

import sys

import rq
from redis import Redis
from rq.worker import SpawnWorker

url, kind, *more = sys.argv[1:]
KINDS = {"Worker": rq.Worker, "SpawnWorker": SpawnWorker, "SimpleWorker": rq.SimpleWorker}

if __name__ == "__main__":
    KINDS[kind](["default"], connection=Redis.from_url(url)).work(burst="burst" in more)
