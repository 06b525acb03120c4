"""The tasks that Celery's workers run: each is one attempt at the API, or as many as it says."""

from __future__ import annotations

import os
import time

import httpx
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from switched_on import TLS

API = os.environ["API"]
app = Celery("jobs", broker=os.environ["REDIS"], backend=os.environ["REDIS"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


def get() -> None:
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)


@app.task
def once() -> int:
    get()
    return os.getpid()


@app.task
def fails() -> None:
    get()
    raise LookupError("as asked for")


@app.task(soft_time_limit=4)
def too_long() -> str:
    get()
    try:
        while True:
            time.sleep(0.05)
    except SoftTimeLimitExceeded:
        return "stopped"


@app.task
def asks(text: str) -> None:
    """Ask for one text; what it gets does not matter."""
    body = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": text}]}
    httpx.post(f"{API}/chat/completions", json=body, trust_env=False, verify=TLS)


@app.task(bind=True, max_retries=2)
def asks_again(self, text: str) -> None:
    """Ask for one text, and have Celery run the task again until that was three times."""
    asks(text)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
