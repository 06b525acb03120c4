"""httpx and httpx2: where they send, how a request is read, how a body is watched.

`adapter` comes first. `request_reader` reads a request, `streams` reads the beginning of a failed
answer's body, and `watched_streams` watches a successful one's.
"""
