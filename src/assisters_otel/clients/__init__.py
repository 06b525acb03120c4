"""One adapter a client: the methods to wrap, and what the client sends and gets.

A client's folder imports nothing of another client's. These modules are common to them:

* `exchange` runs the steps around a send, and `http_span` creates the library's own span.
* `patching`, `import_hooks` and `rebinding` wrap the methods.
* `classes` and `read_ahead` serve the classes that read bodies.
* `sdk_call` makes a method of an SDK a call.
"""
