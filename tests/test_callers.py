"""The benchmarks' callers: every answer is counted."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.callers import WAITING, Callers, Tally
from benchmarks.harness import Watch, watch
from service.settings import Settings
from tests.live import live_server

pytestmark = pytest.mark.skipif(shutil.which(shlex.split(os.environ.get("CC", "cc"))[0]) is None, reason="no C compiler")


def test_every_caller_has_an_answer_and_is_counted(artifact_dir: Path, png: bytes) -> None:
    """As many as were to ask; in the flooded window more; rejected beyond the capacity."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        callers = Callers(urlsplit(url).port or 0, png)
        evenly, waiting, others = Tally(), Tally(), Tally()
        callers.open_loop(evenly, 1.0, 20.0, 10.0)
        assert (evenly.statuses, evenly.late, len(evenly.good_ms)) == ({200: 20}, 0, 20)
        windows = callers.waves(waiting, others, 0.5, count=1, factor=0.5, deadline_s=10.0)
        assert waiting.statuses.keys() == {200}
        assert waiting.statuses[200] > WAITING
        assert [round(end - begin, 6) for begin, end in windows] == [0.5] * 3
        calm, flooded, _ = windows
        asked = 0.5 * (waiting.rate(*calm) + others.rate(*calm)) * 0.5
        assert abs(others.statuses.total() - asked) <= 2
        assert others.rate(*calm) == 0
        assert others.rate(*flooded) > 0
    with live_server(Settings(models_dir=artifact_dir, queue_megapixels=1e-3)) as url:
        crowd = Tally()
        Callers(urlsplit(url).port or 0, png).closed_loop(crowd, 0.3)
        assert crowd.statuses.keys() == {200, 429}
        assert len(crowd.refused_ms) == crowd.statuses[429]
        hurried = Tally()
        Callers(urlsplit(url).port or 0, png).open_loop(hurried, 0.1, 10.0, 1e-3)
        assert len(hurried.expired_s) == hurried.statuses[504] > 0


def test_callers_say_what_went_wrong(png: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that is not there is no figure."""
    with pytest.raises(SystemExit):
        Callers(1, png).closed_loop(Tally(), 0.1)
    assert "callers: connect" in capfd.readouterr().err


def test_a_machine_that_stands_still_is_noticed() -> None:
    """The longest pause and what others took, within a time; one that reaches beyond it counts as far as it is inside."""
    watched = Watch([(0.0, 5.0), (0.02, 5.0), (0.5, 5.3), (0.52, 5.3), (0.54, 5.3)])
    assert watched.longest_pause_s(0.0, 0.6) == pytest.approx(0.48)
    assert watched.longest_pause_s(0.4, 0.6) == pytest.approx(0.1)
    assert watched.taken_s(0.0, 0.6) == pytest.approx(0.3)
    assert watched.taken_s(0.53, 0.6) == 0
    with watch() as looked:
        time.sleep(0.3)
    assert len(looked.moments) >= 2
    assert looked.moments == sorted(looked.moments)
