"""The optional parts of the distribution, and the sentence that names the one that is missing.

``pip install .`` installs the client and the encodings. Everything else is an extra of ``pyproject.toml``.
"""

from __future__ import annotations

EXTRAS: dict[str, frozenset[str]] = {
    "serve": frozenset(
        {
            "cv2",
            "fastapi",
            "httptools",
            "isal",
            "onnxruntime",
            "opentelemetry",
            "orjson",
            "PIL",
            "prometheus_client",
            "pydantic",
            "pydantic_settings",
            "python_multipart",
            "rich",
            "simplejpeg",
            "typer",
            "uvicorn",
            "uvloop",
            "websockets",
        }
    ),
    "video": frozenset({"av"}),
    "bags": frozenset({"google", "lz4", "mcap", "rosbags", "ruamel", "zstandard"}),
    "heif": frozenset({"pillow_heif"}),
    "medical": frozenset({"nibabel", "pydicom"}),
    "foxglove": frozenset({"foxglove"}),
    "ros2": frozenset({"diagnostic_msgs", "rclpy", "rmw_fastrtps_cpp", "sensor_msgs"}),
    "ray": frozenset({"ray"}),
    "grpc": frozenset({"grpc", "grpc_health", "google"}),
}
"""The import names that each extra brings. An extra is listed as soon as a file of ``service`` imports one of its packages."""


def extra_of(module: str | None) -> str | None:
    """Return the extra that brings a module, or None.

    Takes:
        module: a dotted import name, such as ``ModuleNotFoundError.name``
    """
    root = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if root in modules), None)


def needs(what: str, extra: str) -> str:
    """Return the sentence for a capability that is not installed.

    Takes:
        what: the subject with its verb, such as ``videos need``
        extra: a name of ``EXTRAS``
    """
    return f"{what} the extra '{extra}': pip install '.[{extra}]' in a clone, or pip install 'WHEEL[{extra}]'"
