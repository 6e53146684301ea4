"""The log: its lines, and what keeps it from stopping the service."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import os
import re
import sys
import time
from typing import Any

import pytest

from service.log import GATHER_S, MAX_KINDS, MAX_WAITING_LINES, JsonFormatter, StandardError, TextFormatter, log_config
from tests.waiting import wait_until


def log_record(message: str, **fields: Any) -> logging.LogRecord:
    """A log record as the service makes it."""
    return logging.makeLogRecord({"name": "service.request", "levelname": "INFO", "msg": message, "fields": fields})


def test_a_json_line_is_one_object() -> None:
    """Machines read time, level, message and every field by name."""
    line = JsonFormatter().format(log_record("request", path='/a"\nb', status=200, images=["1x2"]))
    assert "\n" not in line
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {
        "level": "info",
        "logger": "service.request",
        "message": "request",
        "path": '/a"\nb',
        "status": 200,
        "images": ["1x2"],
    }


def test_a_text_line_cannot_be_broken_by_what_a_caller_sends() -> None:
    """A forged line in a path stays inside its quotes."""
    line = TextFormatter().format(log_record("request", path="/a\n12:00:00 info forged", status=200, images=["1x2", "3x4"]))
    assert line[9:] == 'info    request path="/a\\n12:00:00 info forged" status=200 images=1x2,3x4'


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_trace_is_part_of_its_line(formatter: logging.Formatter) -> None:
    """Whichever form the log has, the trace is in it."""
    record = log_record("broken")
    try:
        int("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: invalid literal" in formatter.format(record)


def test_the_log_configuration_is_one_that_logging_accepts(capfd: pytest.CaptureFixture[str]) -> None:
    """Our lines go to the standard error in the form asked for; those of others only from warnings on."""
    root, ours = logging.getLogger(), logging.getLogger("service")
    before = (root.handlers[:], root.level, ours.level)
    try:
        logging.config.dictConfig(log_config("json", "info"))
        logging.getLogger("service.request").info("hello")
        logging.getLogger("another.library").info("noise")
        root.handlers[-1].flush()
        lines = capfd.readouterr().err.splitlines()
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])
        logging.getLogger("uvicorn").setLevel(logging.NOTSET)
    assert [json.loads(line)["message"] for line in lines] == ["hello"]


def fill(write_end: int) -> int:
    """Fill a pipe and return the number of bytes that it took."""
    os.set_blocking(write_end, False)
    filled = 0
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(write_end, b"." * size)
    os.set_blocking(write_end, True)
    return filled


def written(handler: StandardError, read_end: int) -> list[str]:
    """Return the lines that were written."""
    handler.flush()
    os.set_blocking(read_end, False)
    return os.read(read_end, 1 << 20).decode().splitlines()


def test_a_log_that_is_not_read_does_not_stop_the_service() -> None:
    """Lines beyond what a pipe and a bounded queue hold are dropped, and counted in the first line that is read again."""
    read_end, write_end = os.pipe()
    filled = fill(write_end)
    handler = StandardError(write_end, lines_a_second=10**6)
    handler.handle(log_record("first"))
    wait_until(handler._lines.empty, "the writer to take the line")
    time.sleep(10 * GATHER_S)  # the writer blocks on the full pipe
    lines = 3 * MAX_WAITING_LINES
    begun = time.perf_counter()
    for number in range(lines):
        handler.handle(log_record(f"{number:070}"))
    assert time.perf_counter() - begun < 5
    assert handler.dropped == handler.lost["unread"] == lines - MAX_WAITING_LINES
    read = b""
    while len(read) < filled or read[filled:].count(b"\n") < 1 + MAX_WAITING_LINES:
        read += os.read(read_end, 1 << 20)
    handler.handle(log_record("again"))
    handler.flush()
    rest = os.read(read_end, 1 << 20).decode().splitlines()
    assert rest == [f"{lines - MAX_WAITING_LINES} log lines were dropped: the log is not read", "again"]
    os.close(read_end)


def test_a_flood_of_lines_of_one_kind_is_thinned_out_and_the_others_are_written() -> None:
    """A bounded rate under attack: so many of a kind in a second, the rest counted, and nothing else is lost in between."""
    read_end, write_end = os.pipe()
    handler = StandardError(write_end, lines_a_second=10)
    handler.setFormatter(TextFormatter())
    for number in range(500):
        handler.handle(log_record("request", code="corrupt_image", request_id=str(number)))
        if number % 100 == 0:
            handler.handle(log_record("request", request_id="good"))
    lines = written(handler, read_end)
    assert sum("code=corrupt_image" in line for line in lines) == 10
    assert sum("request_id=good" in line for line in lines) == 5
    assert any(line.endswith("490 more in a second were not written: service.request request corrupt_image") for line in lines)
    assert handler.lost == {"flood": 490}
    os.close(read_end)
    os.close(write_end)


def test_lines_that_are_all_different_are_a_flood_as_well() -> None:
    """At most a fixed number of kinds is counted separately."""
    now = [100.0]
    read_end, write_end = os.pipe()
    handler = StandardError(write_end, lines_a_second=10, clock=lambda: now[0])
    for number in range(1000):
        handler.handle(log_record(f"line {number}"))
    now[0] += 1
    handler.handle(log_record("a second later"))
    lines = written(handler, read_end)
    assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(MAX_KINDS + 10)]
    assert lines[-2:] == [f"{1000 - MAX_KINDS - 10} more in a second were not written: other lines", "a second later"]
    os.close(read_end)
    os.close(write_end)


def test_a_log_that_is_gone_does_not_stop_the_service() -> None:
    """The reader of the log may end before the service does."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    handler = StandardError(write_end)
    handler.handle(log_record("hello"))
    handler.flush()
    assert not handler.dropped
    os.close(write_end)
