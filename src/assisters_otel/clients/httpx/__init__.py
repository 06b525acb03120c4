"""httpx and httpx2: where they send, how a request is read, how a body is watched."""
