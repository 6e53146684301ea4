"""A camera of this machine: ``/dev/video0`` (Video4Linux2), as the driver is set, or ``/dev/video0?video_size=1280x720``.

Behind the question mark: ``video_size``, ``framerate`` and ``input_format`` (``mjpeg``, ``yuyv422``, ...), joined by ``&``.
The stamps are the driver's: it notes when it had each frame.
"""

from __future__ import annotations

import errno
from pathlib import Path
from urllib.parse import parse_qsl

import av

from service.errors import BadSetting
from service.live.capture import Capture, Feed, Loss, sentence
from service.live.options import LiveOptions
from service.live.stream_clock import DriverClock

SETTINGS = ("video_size", "framerate", "input_format")


def open_source(address: str, options: LiveOptions) -> Capture:  # noqa: ARG001 - every kind is made alike
    """Make the source of a device.

    Raises:
        BadSetting: if there is no such device, or an unknown setting
    """
    path, _, query = address.partition("?")
    settings = dict(parse_qsl(query))
    unknown = next((name for name in settings if name not in SETTINGS), None)
    if unknown is not None:
        raise BadSetting(f"--from {address}: there is no setting {unknown!r}; there are {', '.join(SETTINGS)}")
    if not Path(path).exists():
        raise BadSetting(f"--from {address}: there is no such device; {_cameras()}")

    def explain(error: OSError | ValueError | av.FFmpegError) -> Loss:
        number = getattr(error, "errno", None)
        if number == errno.EACCES:
            who = "the user of this process may not read it"
            return Loss(
                f"permission denied: {who}; add it to the group of the device (ls -l {path}), often video", lasting=True
            )
        if number == errno.EBUSY:
            return Loss("another program uses it (fuser -v names it)")
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return Loss(f"it was unplugged; {_cameras()}")
        if number in (errno.ENOTTY, errno.EISDIR):
            return Loss(f"it is not a camera; {_cameras()}", lasting=True)
        if number == errno.EINVAL:
            return Loss(f"the driver has no such mode; v4l2-ctl -d {path} --list-formats-ext lists them", lasting=True)
        return Loss(sentence(error))

    feed = Feed(path, explain, format="v4l2", options={"timestamps": "abs", **settings}, clock=DriverClock)
    return Capture(address, feed)


def _cameras() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"this machine has {', '.join(found)}" if found else "this machine has no /dev/video*"
