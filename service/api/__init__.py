"""The rim: HTTP in, HTTP out. No arithmetic on pixels here, and the only place that knows status codes.

- ``app``          ``create_app(settings)``: puts everything together, and owns its life
- ``routes``       what can be called: parse, await the segmenter, reply
- ``inference_v2`` the same in the Open Inference Protocol, with its ``schemas_v2`` and its ``tensors``
- ``stream``       ``WS /stream``: frames in, masks out, the newest frame wins
- ``keys``         who may call
- ``shedding``     saying no at the door, by an image's first bytes
- ``parameters``   queries and headers, parsed
- ``negotiation``  which format a reply has
- ``connection``   bounds on what comes before a request
- ``compression``  compressed bodies, inflated piece by piece
- ``upload``       the body of a request as images, refused while it streams where it is too large
- ``schemas``      what travels: the query, the replies, and their OpenAPI
- ``problems``     errors as RFC 9457 problem documents: one table from error to status
- ``telemetry``    around every request: ids, ``Server-Timing``, a count, a line in the log
- ``record``       what is known of one request, and its stages as spans of a trace
- ``metrics``      what Prometheus reads
- ``readiness``    whether requests are welcome
- ``pages``        the web page and the documentation, static files in ``page/``
"""
