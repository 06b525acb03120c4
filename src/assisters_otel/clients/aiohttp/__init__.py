"""aiohttp: where it sends, how a request is read, how a body is watched.

`adapter` comes first. `session_request` holds its record, and `pending_call` a call that is
not yet made. `request_reader` reads a request. `stream_reader` waits for the beginning of a
failed answer's body, and watches a successful one's. `hidden_failure` hides how the former broke
off, and `exceptions` classifies what aiohttp raises.

One request of the app's, in the order of the wrapped methods:

1. `ClientSession._request` sends one request of the app's, with its redirects and what the session
   sends again by itself. A `SessionRequest` is set in a context variable meanwhile.
2. `BaseConnector.connect` is called for each attempt. The attempt starts here, in an exchange.
3. `ClientRequest.send` writes the request. The propagator's headers are added for that moment.
4. `ClientResponse.start` reads the response's headers, which answer the attempt. The beginning of a
   failed answer's body is waited for here, in the client's own reader.
5. `ClientResponse.raise_for_status` raises for a failed answer, and `explain` learns of it.

An exception of steps 2 to 4 does not yet end the attempt: a pooled connection may have gone stale,
and then the session sends again. So the exception is kept in `SessionRequest.error`, until the next
`connect` reports it, or the end of `_request` does. After that end the record refers to nothing:
asyncio has copied the context into its handles of a pooled connection.
"""
