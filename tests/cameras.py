"""Cameras on real sockets: Motion JPEG over HTTP, and H.264 over RTSP. Each can be cut, started again on its port, or stalled.

Each frame is :func:`tests.conftest.make_image`, three stripes of red, green and blue.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av

from tests.conftest import encode_image, make_image

RATE = 50
"""Frames a second."""
GROUP = 10
"""Frames from one key frame to the next."""
HEIGHT, WIDTH = 96, 128


def h264_stream(container: Any, *, rate: int = RATE, group: int = GROUP, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Any:
    """Add a stream of H.264 without frames out of order, as cameras send it."""
    stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency"})
    stream.height, stream.width = size
    stream.pix_fmt = "yuv444p"  # the borders of the stripes stay where they are
    stream.codec_context.gop_size = group
    stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
    return stream


def picture(number: int, rate: int = RATE) -> av.VideoFrame:
    """Frame ``number``, with its time."""
    frame = av.VideoFrame.from_ndarray(make_image(HEIGHT, WIDTH), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, rate)
    return frame


def write_video(path: Path, frames: int, *, rate: int = RATE) -> Path:
    """Write a video file.

    Gives:
        ``path``
    """
    with av.open(str(path), "w") as container:
        stream = h264_stream(container, rate=rate)
        for number in range(frames):
            container.mux(stream.encode(picture(number, rate)))
        container.mux(stream.encode(None))
    return path


class Camera(socketserver.ThreadingTCPServer):
    """A camera of some protocol, on a port of this machine.

    Takes:
        port: 0 takes a free one
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    protocol: ClassVar[str]
    handler: ClassVar[type[socketserver.StreamRequestHandler]]

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), self.handler)
        self.port = self.server_address[1]
        self.url = f"{self.protocol}://127.0.0.1:{self.port}/cam"
        self.stalled = threading.Event()
        """While it is set, connections stay open and nothing is sent."""
        self.ended = threading.Event()
        self.sent = 0
        """Frames that were handed to the sockets."""
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, name=f"camera {self.port}")

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a listener that goes is what the tests are about."""

    def start(self) -> None:
        """Accept connections."""
        self._thread.start()

    def cut(self) -> None:
        """Be gone, in the middle of whatever is sent."""
        self.ended.set()
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def frames(self) -> Iterator[int]:
        """Numbers of the frames, each when it is due."""
        number = 0
        while not self.ended.wait(1 / RATE):
            if not self.stalled.is_set():
                yield number
                number += 1
                self.sent += 1


class _Mjpeg(socketserver.StreamRequestHandler):
    """Answers a GET by a stream of JPEGs, or by what the path says."""

    server: Camera

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        if path.startswith("/page"):
            body = b"<html><body>Live view</body></html>" * 20
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        if path.startswith("/strange"):
            self.wfile.write(b"220 ready\r\n\r\n")
            return
        if not path.startswith("/cam"):
            status = {"/secret": b"401 Unauthorized"}.get(path, b"404 Not Found")
            self.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in self.server.frames():
            jpeg = encode_image(make_image(HEIGHT, WIDTH), "JPEG", quality=95, subsampling=0, comment=str(number))
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            self.wfile.write(head + jpeg + b"\r\n")


class MjpegCamera(Camera):
    """``http://.../cam``; ``/page`` is a web page, ``/secret`` wants a password, ``/strange`` speaks no HTTP."""

    protocol = "http"
    handler = _Mjpeg


class _RtpPackets:
    """A file for FFmpeg's RTP muxer: each write is one packet."""

    name = "camera.rtp"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def write(self, packet: bytes) -> int:
        """Send it over the RTSP connection (RFC 2326, section 10.12): RTCP on channel 1."""
        channel = 1 if 200 <= packet[1] <= 204 else 0
        self._connection.write(b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet)
        return len(packet)


class _Rtsp(socketserver.StreamRequestHandler):
    """Enough of RTSP 1.0 for one listener over one connection (RFC 2326)."""

    server: Camera

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, url, _ = line.decode().split()
            headers = {}
            while header := self.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            if "/cam" not in url:
                self._reply(headers["cseq"], status="404 Not Found")
            elif method == "OPTIONS":
                self._reply(headers["cseq"], "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
                )
                self._reply(headers["cseq"], f"Content-Base: {url}/", "Content-Type: application/sdp", body=body)
            elif method == "SETUP":
                self._reply(headers["cseq"], "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
            elif method == "PLAY":
                self._reply(headers["cseq"], "Session: 1")
                self._play()
            else:
                self._reply(headers["cseq"])
                return

    def _reply(self, cseq: str, *headers: str, status: str = "200 OK", body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {cseq}", *headers, f"Content-Length: {len(body)}", "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self) -> None:
        packets: Any = _RtpPackets(self.wfile)
        with av.open(packets, "w", format="rtp", options={"packetsize": "1200", "payload_type": "96"}) as container:
            stream = h264_stream(container)
            for number in self.server.frames():
                container.mux(stream.encode(picture(number)))


class RtspCamera(Camera):
    """``rtsp://.../cam``: H.264 over the RTSP connection; any other path is unknown."""

    protocol = "rtsp"
    handler = _Rtsp
