"""Folders that are segmented or cleaned: names, what is kept, and how the next call goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lungseg_utils.errors import LockedError, LungsegError, MissingInputError, StorageError
from lungseg_utils.files import storage
from lungseg_utils.segment import cleaning, folders, segmenter
from lungseg_utils.segment.cleaning import clean_folder
from lungseg_utils.segment.folders import name_outputs
from lungseg_utils.segment.inputs import list_images
from lungseg_utils.segment.segmenter import Segmenter
from tests.tiny import Darkness

# Names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg", "more/a.png"], ["a", "b", "more/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a.png", "a.png.png"], ["a.jpg", "a.png-2", "a.png"]),
        (["A.png", "a.png", "a.png-2.jpg"], ["A.png", "a.png-3", "a.png-2"]),
        (["A.PNG", "A.png", "a.png"], ["A.PNG", "A.png-2", "a.png-3"]),
    ],
)
def test_outputs_are_called_as_their_files_and_told_apart(files, names):
    assert name_outputs([PurePosixPath(file) for file in files]) == names


parts = st.text("aA", min_size=1, max_size=2)
file_names = st.builds(".".join, st.lists(parts | st.just("png-2"), min_size=2, max_size=4))


@given(st.lists(file_names, unique=True, max_size=12))
def test_no_two_outputs_share_a_name_whatever_the_case(files):
    names = name_outputs([PurePosixPath(file) for file in files])
    assert len({name.casefold() for name in names}) == len(files)


# Going on

STOPPED = SimpleNamespace(perf_counter=lambda: 0.0)  # for the column `seconds`


class Work:
    """Segmenting or cleaning; tells which images were read, and may be disturbed before one."""

    def __init__(self, call, module, reader, monkeypatch) -> None:
        self.call, self.done, self.disturb = call, [], {}
        read = getattr(module, reader)

        def told(file, content):
            self.done.append(Path(file).name)
            self.disturb.get(Path(file).name, bool)()
            return read(file, content)

        monkeypatch.setattr(module, reader, told)
        # One after the other, so that what is done before a disturbance is known.
        monkeypatch.setattr(folders, "_MOST_WORKERS", 1)
        monkeypatch.setattr(segmenter, "time", STOPPED)

    def __call__(self, folder, out):
        self.done.clear()
        return self.call(folder, out)


def segment_folder(folder, out):
    return Segmenter(Darkness()).segment_folder(folder, out)


@pytest.fixture(
    params=[(segment_folder, segmenter, "read_film"), (clean_folder, cleaning, "decode_image")],
    ids=["segment", "clean"],
)
def work(request, monkeypatch):
    return Work(*request.param, monkeypatch)


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((48, 40), 200, np.uint8)
    image[10:40, 8:20] = np.random.default_rng(seed).integers(5, 60)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def films(tmp_path):
    for seed, name in enumerate("abcd"):
        draw(tmp_path / "films" / f"{name}.png", seed)
    return tmp_path / "films"


def contents(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), StorageError)],
)
def test_an_interrupted_or_failed_call_is_gone_on_with(work, films, tmp_path, failure, raised):
    wanted = work(films, tmp_path / "wanted")

    def fail():
        raise failure

    work.disturb = {"c.png": fail}
    with pytest.raises(raised):
        work(films, tmp_path / "out")
    # One more may have begun meanwhile, and ends.
    assert len(list((tmp_path / "out" / "masks").iterdir())) in (2, 3)
    assert not list((tmp_path / "out").glob("*.csv"))
    work.disturb = {}

    table = work(films, tmp_path / "out")

    assert work.done in (["c.png"], ["c.png", "d.png"])
    assert table.equals(wanted)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted")


def test_a_second_call_does_only_what_changed_and_removes_what_is_gone(work, films, tmp_path):
    (films / "broken.png").write_bytes(b"half")
    first = work(films, tmp_path / "out")
    assert work(films, tmp_path / "out").equals(first)
    # Nothing is kept of a file that could not be read: a drive may have failed in passing.
    assert work.done == ["broken.png"]

    draw(films / "b.png", seed=7)
    (films / "c.png").unlink()
    draw(films / "d.jpg")  # so that d.png gets another name
    draw(films / "broken.png")
    next((tmp_path / "out" / "masks").glob("a*")).unlink()
    table = work(films, tmp_path / "out")

    assert work.done == ["a.png", "b.png", "broken.png", "d.jpg", "d.png"]
    assert table.equals(work(films, tmp_path / "wanted"))
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted")
    draw(tmp_path / "other" / "e.png")
    work(tmp_path / "other", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


def test_files_that_cannot_be_read_are_named_and_the_rest_goes_on(work, films, tmp_path):
    (films / "b.png").write_bytes((films / "b.png").read_bytes()[:60])
    work.disturb = {"a.png": (films / "c.png").unlink}

    table = work(films, tmp_path / "out").set_index("file")

    assert [bool(error) for error in table["error"]] == [False, True, True, False]
    assert "No such file" in table.loc["c.png", "error"]
    assert str(films) not in table.loc["b.png", "error"]
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    lines = next((tmp_path / "out").glob("*.csv")).read_text().splitlines()
    assert lines[0] == ",".join(["file", *table.columns])
    assert lines[2].startswith("b.png,,,,") and lines[4].startswith("d.png,40,48,")
    assert lines[0].split(",")[1:3] == ["width", "height"]


def test_a_folder_that_another_process_fills_is_left_alone(work, films, tmp_path, monkeypatch):
    work(films, tmp_path / "out")
    before = contents(tmp_path / "out")
    (table,) = (tmp_path / "out").glob("*.csv")
    draw(films / "e.png")
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    with storage.hold(table, "the other notebook"), pytest.raises(LockedError):
        work(films, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_damaged_record_is_explained_and_the_advice_works(work, films, tmp_path):
    work(films, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "record.json").write_text("{")
    with pytest.raises(LungsegError, match=r"record\.json(.|\n)*delete this file"):
        work(films, tmp_path / "out")
    (tmp_path / "out" / "record.json").unlink()
    work(films, tmp_path / "out")
    assert len(work.done) == 4
    assert contents(tmp_path / "out") == before


def test_results_are_not_taken_for_images_and_the_users_files_stay(work, films, tmp_path):
    own = draw(films / "masks" / "of_mine.png")
    first = work(films, films)
    assert work(films, films).equals(first) and work.done == []
    assert own.is_file()


def test_another_network_starts_anew_also_where_no_record_tells(films, tmp_path):
    out = tmp_path / "out"
    segment_folder(films, out)
    (out / "record.json").unlink()
    (out / "run.json").unlink()
    draw(out / "masks" / "gone_mask.png")
    made = 0
    for weight, anew in ((0, True), (0, False), (1, True)):
        Segmenter(Darkness(weight)).segment_folder(films, out)
        times = [path.stat().st_mtime_ns for path in out.rglob("*.png")]
        assert len(times) == 8
        assert (min(times) > made) == anew
        made = max(times)


def test_pix2pix_is_known_again_although_its_discriminator_is_not_shipped():
    first, second = (Segmenter.load("pix2pix")._parameters() for _ in range(2))
    assert first == second


def test_empty_folder_and_wrong_path_are_named(work, tmp_path):
    (tmp_path / "._film.png").write_text("of a Mac")
    for call in (list_images, lambda folder: work(folder, tmp_path / "out")):
        with pytest.raises(MissingInputError, match=r"no (image|file) in it"):
            call(tmp_path)
        with pytest.raises(MissingInputError, match="no such file or folder"):
            call(tmp_path / "absent")


# Killed

KILLED = """
import os, shutil, signal, sys
from types import SimpleNamespace
from pathlib import Path
from soak.stages import count_operations
from tests.tiny import Darkness
from lungseg_utils.segment import folders, segmenter
from lungseg_utils.segment.segmenter import Segmenter

class Told(Segmenter):
    def _segment(self, film):
        with log.open("a") as file:
            print(film.name, file=file)
        return super()._segment(film)

folders._MOST_WORKERS = 1
segmenter.time = SimpleNamespace(perf_counter=lambda: 0.0)

def kill(number, event):
    if number == last:
        os.kill(os.getpid(), signal.SIGKILL)

def status_of_call(before):
    if not (child := os.fork()):
        count_operations(out, before)
        Told(Darkness()).segment_folder(films, out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

films, place, last, status = Path(sys.argv[1]), Path(sys.argv[2]), 0, -signal.SIGKILL
Segmenter(Darkness()).segment_folder(films, place / "wanted")  # imports all that children need
while status == -signal.SIGKILL:
    last += 1
    out, log = place / str(last), place / f"{last}.txt"
    shutil.copytree(place / "before", out)
    status = status_of_call(kill)
    assert not status_of_call(lambda number, event: None)
"""


def test_a_call_killed_at_any_change_of_a_file_is_gone_on_with(
    films, tmp_path, repository, monkeypatch
):
    place = tmp_path / "killed"
    monkeypatch.setattr(segmenter, "time", STOPPED)
    # Of an earlier call: what stays, what has changed and what is gone.
    draw(films / "gone.png")
    segment_folder(films, place / "before")
    (films / "gone.png").unlink()
    for name in "cd":
        draw(films / f"{name}.png", seed=9)
    paths = os.pathsep.join([str(repository), str(repository / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths}

    subprocess.run([sys.executable, "-c", KILLED, films, place], env=environment, check=True)

    shutil.rmtree(place / "before")
    wanted = contents(place / "wanted")
    shutil.rmtree(place / "wanted")
    ends = [path for path in place.iterdir() if path.is_dir()]
    assert len(ends) > 40
    for out in ends:
        done = out.with_suffix(".txt").read_text().split()
        assert set(done) == {"c.png", "d.png"} and len(done) <= 3, out
        assert contents(out) == wanted, out
