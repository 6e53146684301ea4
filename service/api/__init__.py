"""HTTP in, HTTP out. No arithmetic on pixels here; the only package that knows status codes.

- ``app``          ``create_app(settings)``: the application from start to shutdown
- ``transport``    uvicorn's protocol with our bounds, and the early refusal
- ``services``     what the routes work with; ``keys``: the check of a caller's key
- ``segment``      ``POST /segment``
- ``stream``       ``WS /stream``: frames in, masks out, the newest frame wins
- ``v2``           the Open Inference Protocol: ``rest``, its ``schemas`` and its ``tensors``, ``memory`` and ``grpc``
- ``peers``        the workers of one service, and their metrics as one set
- ``models``       ``GET /models`` and the probes; ``admin``: what operators call
- ``pages``        the web page and the documentation, static files in ``page/``
- ``parameters``   queries and headers, parsed; ``negotiation``: the format of a reply
- ``upload``       the body of a request as images, rejected while it streams if it is too large; ``form``, ``compression``
- ``schemas``      the query, the replies, and their OpenAPI
- ``problems``     errors as RFC 9457 problem documents: one table from error to status; ``unmatched``: paths without a route
- ``telemetry``    every request: ids, ``Server-Timing``, a count, a log line; ``record``, ``metrics``, ``in_flight``,
  ``readiness``
"""
