from __future__ import annotations

import errno
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from handmade import CASES, write_pairing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from lungseg_utils.errors import (
    LungsegError,
    MissingInputError,
    StaleOutputError,
    StorageError,
)
from lungseg_utils.preparation import stitching
from lungseg_utils.preparation.arrays import prepare
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.stitching import load_stitched, stitch, unstitch, write_stitched
from lungseg_utils.workspace import Workspace, open_workspace


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def cases(tmp_path, workspace) -> Cases:
    return prepare(write_pairing(tmp_path / "bundle"), workspace, 16)


@settings(deadline=None)
@given(shape=arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), data=st.data())
def test_apart_again_without_loss(shape, data):
    image = data.draw(arrays.arrays(np.uint8, shape))
    mask = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    stitched = stitch(image, mask)
    assert stitched.shape == (shape[0], 2 * shape[1])
    parts = unstitch(stitched)
    assert np.array_equal(parts[0], image)
    assert np.array_equal(parts[1], mask)
    assert np.array_equal(np.hstack([image, mask * 255]), stitched)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)),
        (np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8)),
    ],
)
def test_what_cannot_be_stitched(image, mask):
    with pytest.raises(LungsegError, match="stitched"):
        stitch(image, mask)


def test_the_archive_holds_a_folder_a_split(cases, workspace):
    path = write_stitched(cases, workspace)
    assert path == workspace.stitched(16)
    expected = {
        f"{split}/{name}.png"
        for name, (split, *_) in CASES.items()
        if split in ("train", "val", "test")
    }
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == expected | {"index.csv", "record.json"}
        assert archive.testzip() is None
        index = pd.read_csv(io.BytesIO(archive.read("index.csv")))
        for row, (name, split) in enumerate(zip(cases.ids, cases.index["split"], strict=True)):
            if f"{split}/{name}.png" in expected:
                picture = Image.open(io.BytesIO(archive.read(f"{split}/{name}.png")))
                assert (picture.mode, picture.size) == ("L", (32, 16))
                left, right = np.hsplit(np.asarray(picture), 2)
                assert np.array_equal(left, cases.images[row])
                assert np.array_equal(right, cases.masks[row] * 255)
    assert set(index["image_id"]) == {name.split("/")[1][:-4] for name in expected}


@pytest.mark.parametrize("split", ["train", "val", "test", ["train", "test"]])
def test_read_back_as_prepared(cases, workspace, split):
    write_stitched(cases, workspace)
    loaded, prepared = load_stitched(workspace, 16, split), cases.select(split)
    assert loaded.ids == prepared.ids
    assert np.array_equal(loaded.images, prepared.images)
    assert np.array_equal(loaded.masks, prepared.masks)
    pd.testing.assert_frame_equal(loaded.index, prepared.index)


def test_unpacked_once_to_the_local_disk(cases, workspace, monkeypatch):
    write_stitched(cases, workspace)
    first = load_stitched(workspace, 16, "train")
    assert (workspace.scratch / "stitched" / "16" / "train").is_dir()
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    assert load_stitched(workspace, 16, "val").digest == first.digest


def test_other_cases_are_refused_without_overwrite(cases, workspace):
    write_stitched(cases, workspace)
    with pytest.raises(StaleOutputError, match=r"stitched/16\.zip(.|\n)*cases was 5, now 3"):
        write_stitched(cases.select("train"), workspace)
    other = Cases(cases.images, cases.masks, cases.index, "another digest")
    with pytest.raises(StaleOutputError, match="now 'another digest'"):
        write_stitched(other, workspace)
    write_stitched(other, workspace, overwrite=True)
    write_stitched(other, workspace)


def test_what_is_not_there_is_refused(cases, workspace):
    with pytest.raises(LungsegError, match="2 cases, none of them such"):
        write_stitched(cases.select(["unlabelled", "excluded"]), workspace)
    with pytest.raises(MissingInputError, match="03_preprocess_and_stitch with STITCH_SIZE = 16"):
        load_stitched(workspace, 16, "train")
    with pytest.raises(LungsegError, match="'unlabelled'"):
        load_stitched(workspace, 16, ["train", "unlabelled"])


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_damaged_archive_is_refused_and_can_be_replaced(cases, workspace, keep):
    path = write_stitched(cases, workspace)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(LungsegError, match=r"16\.zip: (.|\n)*Delete it"):
        load_stitched(workspace, 16, "train")
    with pytest.raises(LungsegError, match="whole zip archive"):
        write_stitched(cases, workspace)
    assert write_stitched(cases, workspace, overwrite=True).read_bytes() == content


def test_on_a_full_disk_the_archive_of_before_stays(cases, workspace, monkeypatch):
    path = write_stitched(cases, workspace)
    content = path.read_bytes()
    (path.parent / f".partial-killed-{path.name}").touch()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stitching, "_add", full)
    with pytest.raises(StorageError, match=r"16\.zip \(No space left(.|\n)*Free some space"):
        write_stitched(cases.select("train"), workspace, overwrite=True)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == content
