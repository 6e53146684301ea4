"""Bytes that nobody meant well: ``make fuzz``.

- ``targets``   one function a parser: bytes in, nothing but its own errors out
- ``guided``    a target under atheris (libFuzzer), which looks for bytes that reach new lines
- ``traffic``   mutated images and requests for a real server on a real socket

What breaks a target is kept in ``out/fuzz``, as a file that reproduces it.
"""
