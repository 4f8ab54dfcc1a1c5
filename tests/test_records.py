from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungseg_utils.errors import (
    DownloadError,
    InvalidValueError,
    LockedError,
    LungsegError,
    ManifestError,
    MemoryExhaustedError,
    MissingInputError,
    StaleOutputError,
    StorageError,
    UnusableMaskError,
)
from lungseg_utils.files import storage
from lungseg_utils.files.records import (
    check_reusable,
    differing,
    digest_of,
    discard_folder,
    publish_folder,
    read_json,
    remove_partial,
    require_record,
    write_atomically,
    write_json,
)

scalars = st.none() | st.booleans() | st.integers() | st.text('aé"\\ ', max_size=3)
records = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
record_dictionaries = st.dictionaries(st.text("abc", min_size=1, max_size=3), records, max_size=4)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (LungsegError, Exception),
        (InvalidValueError, ValueError),
        (ManifestError, ValueError),
        (StaleOutputError, ValueError),
        (UnusableMaskError, ValueError),
        (MissingInputError, FileNotFoundError),
        (DownloadError, OSError),
        (StorageError, OSError),
        (LockedError, TimeoutError),
        (MemoryExhaustedError, MemoryError),
    ],
)
def test_an_error_says_rule_received_and_advice_and_is_what_python_calls_it(kind, builtin):
    error = kind("Rows are sorted.", "b before a", "Sort them.")
    assert isinstance(error, LungsegError) and isinstance(error, builtin)
    assert isinstance(error, ValueError) == (builtin is ValueError)
    # OSError would count three arguments as number, text and file.
    assert getattr(error, "errno", None) is None
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is kind
        assert (same.rule, same.received, same.advice) == same.args == error.args
        lines = str(same).splitlines()
        assert lines == ["Rows are sorted.", "  Received: b before a", "  What to do: Sort them."]


@pytest.mark.parametrize(
    "error", [StorageError("It is full.", "0 bytes", "Free some."), KeyError()]
)
def test_an_error_while_writing_passes_as_it_is_and_leaves_the_old_file(tmp_path: Path, error):
    """An explained one is explained once."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    calls = []

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        calls.append(temporary)
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(path, fail)
    assert caught.value is error and len(calls) == 1
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_whole_with_its_folder(tmp_path: Path):
    temporary = []

    def write(path: Path) -> None:
        temporary.append(path)
        path.write_text("two")

    path = write_atomically(tmp_path / "new" / "a.tar.gz", write)
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
    assert temporary[0].name.endswith("a.tar.gz") and temporary[0].parent == path.parent
    (tmp_path / "touched").touch()
    assert path.stat().st_mode == (tmp_path / "touched").stat().st_mode


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "empty the bin"),
        (errno.EFBIG, "Free some"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "another .WORKSPACE"),
        (errno.EIO, "01_mount_drive"),
        (errno.ENOTCONN, "01_mount_drive"),
    ],
)
def test_a_full_or_lost_disk_is_explained_at_every_step(
    tmp_path: Path, monkeypatch, step, number, advice
):
    path = tmp_path / "a.txt"
    path.write_text("old")
    calls = _fail_at(monkeypatch, step, number, times=99)

    with pytest.raises(StorageError, match=advice) as caught:
        write_atomically(path, lambda temporary: _write(temporary, "new"))

    assert "a.txt" in caught.value.received and os.strerror(number) in caught.value.received
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert len(calls) == (5 if number in (errno.EIO, errno.ENOTCONN) else 1)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_what_fails_in_passing_is_tried_again(tmp_path: Path, monkeypatch, step):
    calls = _fail_at(monkeypatch, step, errno.ENOTCONN, times=2)

    path = write_atomically(tmp_path / "a.txt", lambda temporary: _write(temporary, "new"))

    assert len(calls) == 3
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_vanished_is_not_made_anew_where_that_is_not_wanted(tmp_path: Path):
    with pytest.raises(StorageError, match="must be there"):
        write_atomically(tmp_path / "gone" / "a", lambda path: None, make_folder=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["rmtree", "rename"])
def test_a_folder_is_whole_or_gone_whenever_its_replacement_is_cut_off(
    tmp_path: Path, monkeypatch, step
):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    owner = {"rmtree": shutil, "rename": Path}[step]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, step, _interrupt)
        publish_folder(tmp_path / "new", tmp_path / "old")
    assert [(tmp_path / name / "a").read_text() for name in ("old", "new")] == ["old", "new"]

    publish_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "a").read_text() == "new"
    discard_folder(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_of_a_file_is_removed_and_nothing_else(tmp_path: Path):
    for name in (".partial-x1-a.npz", ".partial-x2-a.npz", ".partial-x3-b.npz", "a.npz"):
        (tmp_path / name).touch()
    (tmp_path / ".partial-256").mkdir()
    remove_partial(tmp_path / "a.npz")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".partial-x3-b.npz",
        "a.npz",
        ".partial-256",
    }
    remove_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", ".partial-256"}


def test_json_comes_back_as_it_was_and_is_readable(tmp_path: Path):
    data = {"b": [1, 2.5, None], "a": {"name": "Größe"}}
    path = write_json(tmp_path / "a.json", data)
    assert read_json(path) == data
    assert "Größe" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == data and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "JSONDecodeError"), ("[]", "it lacks a, b"), ('{"a": 1}', "it lacks b")],
)
def test_a_damaged_record_is_explained(tmp_path: Path, text: str, said: str):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(LungsegError, match=said) as caught:
        require_record(path, ("a", "b"), "It is whole.", "Delete it.")
    assert (caught.value.rule, caught.value.advice) == ("It is whole.", "Delete it.")
    assert str(path) in caught.value.received


def test_differing_joins_nested_keys():
    old = {"size": 256, "augmentation": {"rotation": 10, "zoom": 0.1}, "gone": 1}
    new = {"size": 256, "augmentation": {"rotation": 5, "zoom": 0.1}, "more": {"x": 2}}
    assert differing(old, new) == {
        "augmentation.rotation": (10, 5),
        "gone": (1, "(absent)"),
        "more.x": ("(absent)", 2),
    }


@given(record_dictionaries)
def test_a_record_does_not_differ_from_itself(record: dict):
    assert differing(record, json.loads(json.dumps(record))) == {}
    check_reusable(record, {**record, "shape": (1, 2)}, "prepared/256", "…", ignore=("shape",))
    check_reusable({"shape": [1, 2]}, {"shape": (1, 2)}, "prepared/256", "Overwrite it.")
    assert digest_of(dict(reversed(record.items()))) == digest_of(record)


def test_stale_output_names_each_differing_value_and_the_way_out():
    record, wanted = {"size": 256, "seed": 1, "epochs": 5}, {"size": 512, "seed": 1, "epochs": 9}
    with pytest.raises(StaleOutputError) as caught:
        check_reusable(record, wanted, "runs/unet", "Choose another RUN_NAME.", ignore={"epochs"})
    assert "size was 256, now 512" in caught.value.received
    assert "epochs" not in caught.value.received and "seed" not in caught.value.received
    assert "runs/unet" in caught.value.rule and caught.value.advice == "Choose another RUN_NAME."


def _interrupt(*_, **__) -> None:
    raise KeyboardInterrupt


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _fail_at(monkeypatch, step: str, number: int, times: int) -> list:
    """Let a step of writing fail so many times; returns the calls of that step."""
    owner, name = {
        "write": (Path, "write_text"),
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
    }[step]
    original, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    return calls
