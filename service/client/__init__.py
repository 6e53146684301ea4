"""The other end of the wire: ``Client``, and ``AsyncClient`` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment("street.jpg")
    mask.labels      # H x W uint8, the class id of every pixel
    mask.classes     # the classes present: id, name, pixels, share
    mask.timing      # milliseconds by stage, as the server measured them

    mask = client.segment("street.jpg", instances=True)
    for thing in mask.instances:
        print(thing.name, thing.number, thing.score, thing.bbox, thing.mask.sum())

    client.segment_volume("scan.nii.gz").save("labels.nii.gz")

    free = client.freespace("street.jpg", fx=900, camera_height=1.4)
    free.scan.ranges # metres, the values of a sensor_msgs/LaserScan

    overlay = client.segment_as("street.jpg", "overlay", legend=True).body

    for mask in client.stream(camera):  # frames as they come: the newest wins

An error of the server is raised here as the same class, found by its ``code`` (``service.errors``). The problem's facts,
``status`` and ``request_id`` are its attributes. A code that this version does not know is a plain ``ServiceError``. Two more
classes are the wire's own: ``ConnectionFailed`` and ``TimedOut``.

Segmentation is pure: the same image gives the same mask and leaves nothing behind. A POST is therefore safe to repeat, and is
repeated when the server sheds it or is not ready (429 and 503 with ``Retry-After``) and when the connection cannot be made or
breaks, for as long as the call's time allows.

``clients`` holds both, the other files what they share: ``images`` what may be sent, ``calls`` requests before they are
sent, ``budget`` the time that a call has, ``replies`` what answers say, ``results`` what the caller gets, ``stream`` the frames
on a WebSocket. The names of this package are public, its files are not.
"""

from service.client.budget import ConnectionFailed, TimedOut, Timeouts
from service.client.clients import DEFAULT_URL, AsyncClient, Client
from service.client.results import (
    Catalogue,
    ClassEntry,
    ClassPresent,
    FrameWithoutMask,
    Instance,
    LabelVolume,
    Mask,
    ModelIdentity,
    ServedModel,
)
from service.encodings import Encoded
from service.encodings.freespace import Freespace

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "Catalogue",
    "ClassEntry",
    "ClassPresent",
    "Client",
    "ConnectionFailed",
    "Encoded",
    "FrameWithoutMask",
    "Freespace",
    "Instance",
    "LabelVolume",
    "Mask",
    "ModelIdentity",
    "ServedModel",
    "TimedOut",
    "Timeouts",
]
