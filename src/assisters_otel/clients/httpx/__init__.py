"""httpx and httpx2: where they send, how a request is read, how a body is watched.

`adapter` comes first. `request_reader` reads a request, `streams` has the stream that the caller
reads an answer's body from, and `chunks` watches a successful one's.
"""
