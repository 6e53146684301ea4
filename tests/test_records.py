"""The record of finished results: what counts as finished, and who may write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batch.lines import Lines
from service.batch.records import NAME, Finished, Recipe, Records, State, options_of, size_of, state_of
from service.encodings import Options
from service.errors import BadSetting

RECIPE = Recipe("street@1.0.0", "a" * 64, "png", {"legend": False})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image, in a folder of its own."""
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"picture")
    return path


def finished(source: Path, name: str = "a.mask.png", *, of_many: bool = False) -> Path:
    """Write a result and record it, as a run does."""
    result = source.parent.parent / "out" / name
    records = Records(result.parent)
    result.write_bytes(b"mask")
    line = b"{}" if of_many else None
    records.add(Finished(result, source, RECIPE, state_of(source), size_of(result), line))
    records.close()
    return result


def state(result: Path, source: Path, recipe: Recipe = RECIPE, *, of_many: bool = False) -> State:
    """How a result stands for the next run."""
    records = Records(result.parent)
    try:
        return records.standing(result, source, recipe, of_many=of_many).state
    finally:
        records.close()


def touched(path: Path) -> None:
    """Another time of change."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 1))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda result, source: None, State.FINISHED),
        (lambda result, source: result.unlink(), State.MISSING),
        (lambda result, source: result.write_bytes(b""), State.RESIZED),
        (lambda result, source: result.write_bytes(b"mas"), State.RESIZED),
        (lambda result, source: result.write_bytes(b"mask and more"), State.RESIZED),
        (lambda result, source: (result.unlink(), result.mkdir()), State.RESIZED),
        (lambda result, source: (result.unlink(), result.symlink_to("gone")), State.MISSING),
        (lambda result, source: source.write_bytes(b"another picture"), State.CHANGED),
        (lambda result, source: touched(source), State.CHANGED),
        (lambda result, source: (result.parent / NAME).unlink(), State.UNKNOWN),
        (lambda result, source: (result.parent / NAME).write_text("dear reader\n[]\n{}\n"), State.UNKNOWN),
    ],
    ids=[
        "nothing",
        "removed",
        "emptied",
        "cut",
        "longer",
        "a folder",
        "a link to nothing",
        "content",
        "older",
        "no record",
        "no lines",
    ],
)
def test_a_result_is_finished_for_the_source_as_it_is(
    source: Path, change: Callable[[Path, Path], object], wanted: State
) -> None:
    """Whatever changes, older times included, makes the result unfinished."""
    result = finished(source)
    change(result, source)
    assert state(result, source) is wanted


@pytest.mark.parametrize(
    ("recipe", "wanted", "words"),
    [
        (replace(RECIPE, sha256="b" * 64), State.MODEL, "another artifact called street@1.0.0"),
        (replace(RECIPE, sha256="b" * 64, model="night@2"), State.MODEL, "made by street@1.0.0"),
        (replace(RECIPE, options={"legend": True}), State.OPTIONS, "other options"),
        (replace(RECIPE, format="gray"), State.OPTIONS, "other options"),
    ],
)
def test_another_model_or_other_options_are_told_apart(source: Path, recipe: Recipe, wanted: State, words: str) -> None:
    """An artifact of the same name with other bytes is another model."""
    result = finished(source)
    records = Records(result.parent)
    finding = records.standing(result, source, recipe)
    records.close()
    assert finding.state is wanted
    assert words in finding.reason


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda folder: None, State.FINISHED),
        (lambda folder: (folder / "0.png").write_bytes(b""), State.RESIZED),
        (lambda folder: (folder / "0.png").unlink(), State.RESIZED),
        (lambda folder: (folder / "0.png").rename(folder / "2.png"), State.RESIZED),
    ],
    ids=["nothing", "emptied", "removed", "renamed"],
)
def test_every_file_of_a_folder_counts_for_its_size(source: Path, change: Callable[[Path], object], wanted: State) -> None:
    """A folder of masks is finished only while each of its files has its name and its size."""
    result = source.parent.parent / "out" / "a.masks"
    result.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (result / name).write_bytes(b"mask")
    records = Records(result.parent)
    records.add(Finished(result, source, RECIPE, state_of(source), size_of(result)))
    records.close()
    change(result)
    assert state(result, source) is wanted


def test_a_record_without_sizes_still_counts(source: Path) -> None:
    """Results that an earlier version recorded are not all done again."""
    result = finished(source)
    record = result.parent / NAME
    rows = [json.loads(line) for line in record.read_bytes().splitlines()]
    for row in rows:
        del row["size"]
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert state(result, source) is State.FINISHED


def test_a_result_of_another_source_is_not_this_one_s(source: Path) -> None:
    """A file of the same name from another folder."""
    result = finished(source)
    other = source.parent.parent / "elsewhere" / "a.png"
    other.parent.mkdir()
    other.write_bytes(source.read_bytes())
    os.utime(other, ns=(0, source.stat().st_mtime_ns))
    assert state(result, other) is State.OTHERS


def test_results_move_together_with_their_sources(source: Path) -> None:
    """Paths are kept from the results' folder on."""
    result = finished(source)
    moved = source.parent.parent / "moved"
    moved.mkdir()
    source.parent.rename(moved / "in")
    result.parent.rename(moved / "out")
    assert state(moved / "out" / result.name, moved / "in" / source.name) is State.FINISHED


def test_a_file_of_many_has_a_line_for_each_source(source: Path) -> None:
    """Lines of other images say nothing of this one."""
    other = source.with_name("b.png")
    other.write_bytes(b"other")
    result = finished(source, "masks.jsonl", of_many=True)
    assert state(result, source, of_many=True) is State.FINISHED
    assert state(result, other, of_many=True) is State.MISSING


def test_the_last_line_counts_and_a_torn_one_does_not(source: Path) -> None:
    """As a power cut leaves it; closing keeps one line a result."""
    result = finished(source)
    finished(source)
    record = result.parent / NAME
    assert len(record.read_bytes().splitlines()) == 1
    with record.open("ab") as lines:
        lines.write(b'{"result": "a.mask.png", "sou')
    assert state(result, source) is State.FINISHED
    assert json.loads(record.read_bytes())["result"] == "a.mask.png"


def test_records_of_a_run_end_in_the_order_of_their_ranks(source: Path) -> None:
    """Workers finish in any order; those of earlier runs keep their places, and equal ranks their order."""
    out = source.parent.parent / "out"
    finished(source, "earlier.mask.png")
    records = Records(out)
    for name, rank in (("c", 2), ("a", 0), ("earlier", 9), ("b", 1), ("a2", 0)):
        result = out / f"{name}.mask.png"
        result.write_bytes(b"mask")
        records.add(Finished(result, source, RECIPE, state_of(source), size_of(result)), rank)
    records.close()
    rows = [json.loads(line) for line in (out / NAME).read_bytes().splitlines()]
    assert [row["result"].partition(".")[0] for row in rows] == ["earlier", "a", "a2", "b", "c"]
    assert state(out / "c.mask.png", source) is State.FINISHED


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=12), st.integers(0, 12))
def test_lines_of_a_run_end_in_the_order_of_their_ranks(added: list[tuple[int, int]], earlier: int) -> None:
    """The last line of an image counts; lines of earlier runs come first, whatever is superseded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.jsonl"
        expected: dict[str, tuple[int, int, int]] = {}
        for run, part in enumerate((added[:earlier], added[earlier:])):
            lines = Lines(path)
            for number, (image, rank) in enumerate(part):
                lines.add(json.dumps({"file": str(image), "n": [run, rank, number]}).encode(), rank)
                expected[str(image)] = (run, rank, number)
            lines.close()
        documents = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        assert [tuple(document["n"]) for document in documents] == sorted(expected.values())
        assert {document["file"] for document in documents} == set(expected)


FULL_DISK = """
    import json, resource, sys
    from pathlib import Path
    from service.batch.lines import Lines
    from service.batch.records import NAME, Finished, Recipe, Records

    folder = Path(sys.argv[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fails(add, size):  # a write beyond the limit is cut, then refused, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            add()
        except OSError:
            return
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        raise AssertionError("written")

    def line(name):
        return json.dumps({"file": name, "counts": "x" * 100}).encode()

    path = folder / "masks.jsonl"
    lines = Lines(path)
    lines.add(line("c"), 3)
    size = path.stat().st_size
    fails(lambda: lines.add(line("b"), 2), size)
    assert path.stat().st_size == size and not lines.has(Path("b"))
    lines.add(line("a"), 1)
    lines.add(line("b"), 2)
    lines.close()
    assert path.read_bytes().splitlines() == [line("a"), line("b"), line("c")]

    def row(name):
        result = folder / name
        return Finished(result, folder / "source.png", Recipe("m@1", "s", "png", {}), "state", 4)

    records = Records(folder)
    records.add(row("a"))
    size = (folder / NAME).stat().st_size
    fails(lambda: records.add(row("b")), size)
    assert (folder / NAME).stat().st_size == size
    records.add(row("c"))
    records.close()
    assert [json.loads(each)["result"] for each in (folder / NAME).read_bytes().splitlines()] == ["a", "c"]
"""


def test_a_disk_that_was_full_for_a_moment_costs_one_line(tmp_path: Path) -> None:
    """Nothing is left of a line that could not be written, and those behind it are whole."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_utf_8_is_recorded(tmp_path: Path) -> None:
    """Bytes as the file system has them."""
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    source.write_bytes(b"picture")
    result = finished_beside(source)
    assert state(result, source) is State.FINISHED


def finished_beside(source: Path) -> Path:
    """A result beside its source."""
    result = source.with_name(f"{source.stem}.mask.png")
    records = Records(result.parent)
    result.write_bytes(b"mask")
    records.add(Finished(result, source, RECIPE, state_of(source), size_of(result)))
    records.close()
    return result


def test_two_runs_never_write_into_one_folder(tmp_path: Path) -> None:
    """The second is told so; when the first has ended, or was killed, the next may."""
    code = (
        "import sys; from pathlib import Path; from service.batch.records import Records\n"
        "held = Records(Path(sys.argv[1]), hold=True); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BadSetting, match="another run writes into"):
            Records(tmp_path / "out")
        with pytest.raises(BadSetting, match="another run writes into"):
            Records(tmp_path / "out" / "below" / "it", hold=True)
        Records(tmp_path / "elsewhere", hold=True).close()
        process.kill()
    Records(tmp_path / "out", hold=True).close()


def test_a_run_above_another_is_told_when_it_comes_there(tmp_path: Path) -> None:
    """Of two runs that would meet, the second to come is refused, in whichever folder it began."""
    below = Records(tmp_path / "photos" / "night", hold=True)
    above = Records(tmp_path / "photos", hold=True)
    with pytest.raises(BadSetting, match="night: wait"):
        Records(tmp_path / "photos" / "night")
    below.close()
    above.close()


def test_nothing_is_left_where_nothing_was_made(tmp_path: Path) -> None:
    """Neither an empty record nor the folders that were made for it."""
    Records(tmp_path / "a" / "b").close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    Records(tmp_path / "there").close()
    assert list((tmp_path / "there").iterdir()) == []


def test_every_option_changes_the_recipe() -> None:
    """What is asked of a format, in whatever field, makes another result."""
    plain = Recipe("m", "s", "png", options_of(Options())).digest
    changes: list[dict[str, object]] = [
        {"min_confidence": 0.5},
        {"keep": frozenset({1})},
        {"statistics": True},
        {"legend": True},
        {"instances": True},
        {"min_area": 9},
        {"tolerance": 1.5},
    ]
    digests = [Recipe("m", "s", "png", options_of(replace(Options(), **change))).digest for change in changes]  # type: ignore[arg-type]
    assert len({plain, *digests}) == len(changes) + 1


def test_a_database_that_was_not_closed_changes_with_what_lies_beside_it(tmp_path: Path) -> None:
    """The messages in its ``-wal`` are part of it."""
    bag = tmp_path / "drive.db3"
    bag.write_bytes(b"database")
    before = state_of(bag)
    (tmp_path / "drive.db3-wal").write_bytes(b"messages")
    assert state_of(bag) != before
