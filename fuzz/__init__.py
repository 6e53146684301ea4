"""Hostile bytes for every parser and for the server: ``make fuzz``.

- ``targets``   one function a parser: it raises no other errors than its own
- ``guided``    a target under atheris (libFuzzer), which searches for bytes that reach new lines
- ``traffic``   mutated images and requests for a real server on a real socket

Input that breaks a target is kept in ``out/fuzz`` as a file that reproduces the failure.
"""
