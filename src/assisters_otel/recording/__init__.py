"""Records attempts and calls, and writes each outcome to the sinks, once.

`recorder` comes first. It starts an attempt, ends it, and writes its outcome. Its parts:

* `watched_hosts` decides which requests go to the API.
* `process_sinks` has the sinks of this process: metrics, log and resends.
* `calls` records the calls of SDKs.
* `bodies` and `response_body` record how the body of a successful answer ends.
* `deferred` runs steps that come up inside the garbage collector, outside of it. `collector`
  observes when that runs.

The data of what is in flight stands in `attempts`. This package alone changes it.
"""
