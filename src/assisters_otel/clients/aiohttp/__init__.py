"""aiohttp: where it sends, how a request is read, how a body is watched."""
