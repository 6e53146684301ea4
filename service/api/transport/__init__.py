"""Connections, below the application.

- ``connection``     uvicorn's protocol classes with bounds: HTTP/1.1 and WebSocket
- ``connections``    the table of open connections: which one waits for too long, and which one gives way
- ``bounds``         the bounds themselves, without sockets
- ``early_refusal``  rejects overload before there is a request
"""
