"""The process that rclpy needs: its libraries, its middleware, and transports that carry pictures."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from service.errors import BadSetting
from service.extras import needs

log = logging.getLogger(__name__)

TRANSPORTS, LARGE_DATA = "FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"
"""With Fast DDS' default transports most raw frames of 720p are lost between two processes; with LARGE_DATA none."""
_CHOSEN = (TRANSPORTS, "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""One of them is set where the user has chosen the transports."""
_RESTARTED = "_FCN_SERVE_LIBRARIES"
"""Set in the process that was started again with the path of the libraries."""


def ready() -> Any:
    """Prepare the process and return the module ``rclpy``. Call before anything is opened: the process may start again.

    A ROS installation that was sourced (``AMENT_PREFIX_PATH``) is used as it is; else the wheels of the extra ``ros2``.

    Raises:
        BadSetting: if rclpy is not installed or cannot be loaded
    """
    if not any(name in os.environ for name in _CHOSEN):
        os.environ[TRANSPORTS] = LARGE_DATA
    if "AMENT_PREFIX_PATH" not in os.environ:
        os.environ.setdefault("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    try:
        return importlib.import_module("rclpy")
    except ModuleNotFoundError as error:
        if error.name == "rclpy":
            hint = "; or source a ROS 2 installation whose Python is that of this environment"
            raise BadSetting(needs("topics of ROS 2 need", "ros2") + hint) from error
        raise BadSetting(_unloadable(error)) from error
    except ImportError as error:
        _start_again_with_libraries()
        raise BadSetting(_unloadable(error)) from error


def remedy() -> str:
    """Say what helps where raw pictures are lost between two processes."""
    if os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST":
        return f"ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST puts {TRANSPORTS} out of effect: unset it, or publish CompressedImage"
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        return f"ROS_LOCALHOST_ONLY=1 puts {TRANSPORTS} out of effect: unset it, or publish CompressedImage"
    return f"raw pictures need {TRANSPORTS}=LARGE_DATA at the publisher too; or publish CompressedImage"


def _unloadable(error: ImportError) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    why = " ".join(str(error).split())
    remedy = "use the Python of the ROS installation, or the extra 'ros2' alone"
    return f"rclpy cannot be loaded by Python {version}: {why[:200]}; {remedy}"


def _start_again_with_libraries() -> None:
    """Start the process once more where the wheels' libraries were not found: the loader reads its path only at the start."""
    places = [Path(sys.prefix) / "lib", *Path(sysconfig.get_path("purelib")).glob("ros_*libs")]
    found = [str(place) for place in places if any(place.glob("lib*.so*"))]
    if not found or _RESTARTED in os.environ:
        return
    before = os.environ.get("LD_LIBRARY_PATH")
    path = os.pathsep.join([*found, *([before] if before else [])])
    environment = {**os.environ, "LD_LIBRARY_PATH": path, _RESTARTED: "1"}
    log.info("starting again with the libraries of ROS 2")
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - the same command line
