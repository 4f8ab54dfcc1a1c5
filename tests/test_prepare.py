from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from handmade import AGE_UNKNOWN, CASES, TWELVE_BIT, arrays_of, write_pairing
from PIL import Image

from lungseg_utils.bundle import Pair, Pairing
from lungseg_utils.errors import (
    ImageFileError,
    LungsegError,
    MissingInputError,
    StaleOutputError,
    StorageError,
)
from lungseg_utils.files.records import read_json
from lungseg_utils.preparation import arrays as module
from lungseg_utils.preparation.arrays import data_digest, load_prepared, prepare
from lungseg_utils.workspace import Workspace, open_workspace

UNUSABLE = ["CHNCXR_0001_0", "CHNCXR_0003_0"]
# A mask of a quarter of the film, for the case of 32 × 32.
OTHER_MASK = np.pad(np.full((16, 16), 255, np.uint8), 8)


@pytest.fixture
def pairing(tmp_path) -> Pairing:
    return write_pairing(tmp_path / "bundle")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def prepared_ids(monkeypatch) -> list[str]:
    """The ids that are really prepared, as they are."""
    ids: list[str] = []
    original = module._prepare_pair

    def counted(pair: Pair, size: int):
        result = original(pair, size)
        ids.append(pair.case.image_id)
        return result

    monkeypatch.setattr(module, "_prepare_pair", counted)
    return ids


def interrupt_after(monkeypatch, count: int) -> None:
    original = module._prepare_pair
    left = list(range(count))

    def interrupted(pair: Pair, size: int):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(pair, size)

    monkeypatch.setattr(module, "_prepare_pair", interrupted)


def replace_mask(pairing: Pairing, image_id: str, values: np.ndarray) -> None:
    [pair] = [pair for pair in pairing.pairs if pair.case.image_id == image_id]
    Image.fromarray(values).save(pair.masks[0])


def test_arrays_hold_block_means_and_masks_by_half(pairing, workspace):
    cases = prepare(pairing, workspace, 16)
    assert cases.ids == sorted(CASES)
    assert cases.images.dtype == cases.masks.dtype == np.uint8
    assert cases.images.shape == cases.masks.shape == (7, 16, 16)
    for row, image_id in enumerate(sorted(CASES)):
        image, mask = arrays_of(image_id)
        image = image / 16.0 if image_id == TWELVE_BIT else image
        height, width = image.shape

        def blocks(values, height=height, width=width):
            return values.reshape(16, height // 16, 16, width // 16).mean(axis=(1, 3))

        assert np.abs(cases.images[row] - blocks(image)).max() <= 1
        assert np.array_equal(cases.masks[row], blocks(mask) >= 0.5)
    assert cases.masks.any(axis=(1, 2)).tolist() == cases.index["has_mask"].astype(bool).tolist()


def test_the_index_says_what_the_manifest_says(pairing, workspace):
    index = prepare(pairing, workspace, 16).index.set_index("image_id")
    assert index["split"].to_dict() == {name: case[0] for name, case in CASES.items()}
    assert index["original_width"].to_dict() == {name: case[1] for name, case in CASES.items()}
    assert index["has_mask"].to_dict() == {name: int(name != "CHNCXR_0005_0") for name in CASES}
    assert index["age_years"].isna().to_dict() == {name: name == AGE_UNKNOWN for name in CASES}


def test_the_folder_holds_four_files_and_nothing_else_remains(pairing, workspace):
    cases = prepare(pairing, workspace, 16)
    names = {path.name for path in workspace.prepared(16).iterdir()}
    assert names == {"images.npy", "masks.npy", "index.csv", "record.json"}
    assert [path.name for path in (workspace.root / "prepared").iterdir()] == ["16"]
    assert not list((workspace.scratch / "partial").iterdir())
    loaded = load_prepared(workspace, 16)
    assert isinstance(loaded.images, np.memmap)
    assert np.array_equal(loaded.images, cases.images)
    assert loaded.index.equals(cases.index)
    assert loaded.digest == cases.digest
    with pytest.raises(ValueError, match="read-only"):
        loaded.images[0] = 0


def test_the_same_again_does_nothing(pairing, workspace, prepared_ids):
    first = prepare(pairing, workspace, 16)
    assert sorted(prepared_ids) == sorted(CASES)
    before = (workspace.prepared(16) / "images.npy").stat().st_mtime_ns
    for overwrite in (False, True):
        again = prepare(pairing, workspace, 16, overwrite=overwrite)
        assert again.digest == first.digest
    assert len(prepared_ids) == len(CASES)
    assert (workspace.prepared(16) / "images.npy").stat().st_mtime_ns == before


def test_sizes_lie_side_by_side(pairing, workspace):
    small, large = prepare(pairing, workspace, 16), prepare(pairing, workspace, 48)
    assert (small.size, large.size) == (16, 48)
    assert small.digest != large.digest
    assert load_prepared(workspace, 16).size == 16


def test_files_are_read_for_their_digest_once_whatever_the_number_of_sizes(
    pairing, workspace, monkeypatch
):
    read: list[Path] = []
    original = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path) or original(path))
    for size in (16, 48, 16):
        prepare(pairing, workspace, size)
    pairs = [*pairing.pairs, *pairing.unlabelled]
    files = {path.resolve() for pair in pairs for path in (pair.image, *pair.masks)}
    # Apart from the arrays, each hashed once it is written.
    assert sorted(path for path in read if path.suffix == ".png") == sorted(files)
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)
    read.clear()
    prepare(pairing, workspace, 16, overwrite=True)
    assert [path.stem for path in read if path.suffix == ".png"] == ["CHNCXR_0003_0_mask"]


def test_the_digest_of_the_data_is_the_same_for_every_size_and_not_for_other_files(
    pairing, workspace
):
    for size in (16, 48):
        prepare(pairing, workspace, size)
    assert data_digest(workspace, 16) == data_digest(workspace, 48)
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)
    prepare(pairing, workspace, 16, overwrite=True)
    assert data_digest(workspace, 16) != data_digest(workspace, 48)
    with pytest.raises(MissingInputError, match="SIZE = 24"):
        data_digest(workspace, 24)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(pairing, workspace, tmp_path, workers):
    usual = prepare(pairing, workspace, 16)
    other = prepare(pairing, open_workspace(tmp_path / "other"), 16, workers=workers)
    assert other.digest == usual.digest
    assert np.array_equal(other.images, usual.images)
    assert np.array_equal(other.masks, usual.masks)


def test_a_full_disk_is_told_before_anything_is_written(pairing, workspace, monkeypatch):
    usage = SimpleNamespace(free=100)
    monkeypatch.setattr("lungseg_utils.workspace.shutil.disk_usage", lambda folder: usage)

    with pytest.raises(LungsegError, match=r"(?s)Preparing 16 × 16 needs .*Free some"):
        prepare(pairing, workspace, 16)
    assert not workspace.prepared(16).exists()
    assert not list((workspace.scratch / "partial").iterdir())


@pytest.mark.parametrize("where", ["array", "across disks", "record"])
def test_a_disk_that_fills_up_meanwhile_costs_nothing(pairing, workspace, monkeypatch, where):
    before = prepare(pairing, workspace, 16).images.copy()
    masks = load_prepared(workspace, 16).masks.copy()
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Free some space"):
        if where == "array":
            patch.setattr(os, "posix_fallocate", full)
        elif where == "record":
            patch.setattr(os, "fsync", full)
        else:
            put_on_two_disks(patch, workspace)
            patch.setattr(module.shutil, "copyfile", full)
        prepare(pairing, workspace, 16, overwrite=True)
    assert [path.name for path in (workspace.root / "prepared").iterdir()] == ["16"]
    assert np.array_equal(load_prepared(workspace, 16).images, before)
    assert np.array_equal(load_prepared(workspace, 16).masks, masks)

    assert not np.array_equal(prepare(pairing, workspace, 16, overwrite=True).masks, masks)
    assert not list((workspace.scratch / "partial").iterdir())


def test_two_notebooks_that_prepare_at_once_do_it_once(pairing, workspace, prepared_ids):
    with ThreadPoolExecutor(2) as notebooks:
        both = list(notebooks.map(lambda _: prepare(pairing, workspace, 16), range(2)))
    assert sorted(prepared_ids) == sorted(CASES)
    assert both[0].digest == both[1].digest


def test_an_interrupted_preparation_continues(pairing, workspace, tmp_path, monkeypatch):
    whole = prepare(pairing, open_workspace(tmp_path / "whole"), 16)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            prepare(pairing, workspace, 16, workers=1)
    assert not workspace.prepared(16).exists()
    ids = []
    original = module._prepare_pair
    monkeypatch.setattr(
        module, "_prepare_pair", lambda pair, size: ids.append(pair) or original(pair, size)
    )
    [partial] = (workspace.scratch / "partial").iterdir()
    (partial / ".partial-killed-record.json").touch()
    (partial / "kept-masks.npy").touch()
    resumed = prepare(pairing, workspace, 16, workers=1)
    assert len(ids) == len(CASES) - 4
    assert len(list(workspace.prepared(16).iterdir())) == 4
    assert np.array_equal(resumed.images, whole.images)
    assert np.array_equal(resumed.masks, whole.masks)
    assert resumed.index.equals(whole.index)
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("damage", ["row", "cut", "empty", "absent"])
def test_what_an_interruption_damaged_is_made_again(
    pairing, workspace, tmp_path, monkeypatch, damage
):
    whole = prepare(pairing, open_workspace(tmp_path / "whole"), 16)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            prepare(pairing, workspace, 16, workers=1)
    [partial] = (workspace.scratch / "partial").iterdir()
    content = (partial / "images.npy").read_bytes()
    if damage == "row":
        content = content[:400] + bytes(50) + content[450:]
    damaged = {"row": content, "cut": content[:1000], "empty": b"", "absent": None}[damage]
    (partial / "images.npy").unlink()
    if damaged is not None:
        (partial / "images.npy").write_bytes(damaged)
    assert np.array_equal(prepare(pairing, workspace, 16).images, whole.images)


def test_another_file_is_noticed_and_named(pairing, workspace):
    prepare(pairing, workspace, 16)
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)
    with pytest.raises(StaleOutputError, match=r"prepared/16 (.|\n)*CHNCXR_0003_0") as caught:
        prepare(pairing, workspace, 16)
    assert "OVERWRITE" in str(caught.value)
    assert "CHNCXR_0001_0" not in str(caught.value)
    other = np.pad(np.ones((8, 8), np.uint8), 4)
    assert not np.array_equal(load_prepared(workspace, 16).masks[2], other)
    for overwrite in (True, False):
        cases = prepare(pairing, workspace, 16, overwrite=overwrite)
        assert np.array_equal(cases.masks[2], other)


def test_another_row_of_the_manifest_is_noticed(pairing, workspace):
    prepare(pairing, workspace, 16)
    pair = pairing.pairs[0]
    pairing.pairs[0] = Pair(replace(pair.case, split="val"), pair.image, pair.masks)
    with pytest.raises(StaleOutputError, match=pair.case.image_id):
        prepare(pairing, workspace, 16)
    index = prepare(pairing, workspace, 16, overwrite=True).index.set_index("image_id")
    assert index.loc[pair.case.image_id, "split"] == "val"


def test_more_or_fewer_cases_are_noticed_and_only_some_are_listed(pairing, workspace):
    prepare(pairing, workspace, 16)
    fewer = Pairing(pairs=pairing.pairs[:1])
    with pytest.raises(StaleOutputError) as caught:
        prepare(fewer, workspace, 16)
    assert "number of cases was 7, now 1" in str(caught.value)
    assert "now 'absent'" in str(caught.value)
    assert "1 more cases differ" in str(caught.value)


def test_an_unusable_pair_is_left_out_by_name_and_told_on_every_call(pairing, workspace, capsys):
    whole = prepare(pairing, workspace, 16)
    replace_mask(pairing, "CHNCXR_0001_0", np.zeros((10, 12), np.uint8))
    replace_mask(pairing, "CHNCXR_0003_0", np.zeros((32, 32), np.uint8))
    capsys.readouterr()

    cases = prepare(pairing, workspace, 16, overwrite=True)

    left = [row for row, name in enumerate(sorted(CASES)) if name not in UNUSABLE]
    assert cases.ids == [name for name in sorted(CASES) if name not in UNUSABLE]
    assert np.array_equal(cases.images, whole.images[left])
    assert np.array_equal(cases.masks, whole.masks[left])
    told = "2 cases left out:\n  CHNCXR_0001_0: the mask CHNCXR_0001_0_mask.png holds no lung\n"
    assert told in capsys.readouterr().out
    assert list(read_json(workspace.prepared(16) / "record.json")["left_out"]) == UNUSABLE
    before = (workspace.prepared(16) / "images.npy").stat().st_mtime_ns
    assert prepare(pairing, workspace, 16).digest == cases.digest
    assert (workspace.prepared(16) / "images.npy").stat().st_mtime_ns == before
    assert told in capsys.readouterr().out


def test_a_mask_off_by_few_pixels_is_repaired_and_told_after_an_interruption_too(
    pairing, workspace, monkeypatch, capsys
):
    image_id = "MCUCXR_0001_0"
    values = np.zeros((63, 80), np.uint8)
    values[16:48, 10:70] = 255
    replace_mask(pairing, image_id, values)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            prepare(pairing, workspace, 16, workers=1)

    cases = prepare(pairing, workspace, 16)

    said = (
        f"  {image_id}: the mask {image_id}_mask.png was 80 × 63 for an X-ray of 80 × 64; resized"
    )
    assert f"1 masks repaired:\n{said}\n" in capsys.readouterr().out
    assert cases.masks[cases.ids.index(image_id)].sum() == 8 * 12


def test_a_set_without_a_usable_pair_is_refused(pairing, workspace):
    [pair] = [pair for pair in pairing.pairs if pair.case.image_id == "CHNCXR_0003_0"]
    replace_mask(pairing, "CHNCXR_0003_0", np.zeros((32, 32), np.uint8))
    with pytest.raises(LungsegError, match="at least one usable pair"):
        prepare(Pairing(pairs=[pair]), workspace, 16)
    assert not workspace.prepared(16).exists()


def test_a_damaged_file_is_refused_and_the_repaired_one_taken(pairing, workspace):
    image = pairing.pairs[0].image
    content = image.read_bytes()
    image.write_bytes(content[:100])
    with pytest.raises(ImageFileError, match=image.name):
        prepare(pairing, workspace, 16)
    image.write_bytes(content)
    assert len(prepare(pairing, workspace, 16)) == len(CASES)


def test_a_missing_size_names_the_notebook(workspace):
    with pytest.raises(MissingInputError, match="03_preprocess_and_stitch with SIZE = 24"):
        load_prepared(workspace, 24)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", b"{"),
        ("record.json", b"{}"),
        ("images.npy", b"\x93NUMPY"),
        ("masks.npy", b""),
        ("index.csv", b""),
    ],
)
def test_damage_is_explained_and_the_advice_mends_it(pairing, workspace, name, content):
    prepare(pairing, workspace, 16)
    folder = workspace.prepared(16)
    (folder / name).write_bytes(content)
    with pytest.raises(LungsegError, match="are whole") as caught:
        load_prepared(workspace, 16)
    assert f"Delete the folder {folder} " in caught.value.advice
    with pytest.raises(LungsegError, match="are whole"):
        prepare(pairing, workspace, 16, overwrite=True)
    shutil.rmtree(folder)
    assert len(prepare(pairing, workspace, 16)) == len(CASES)


def test_a_pairing_without_cases_is_refused(workspace):
    with pytest.raises(LungsegError, match="at least one X-ray"):
        prepare(Pairing(), workspace, 16)


def put_on_two_disks(patch, workspace: Workspace) -> None:
    """Scratch and the rest of the workspace, as in Colab."""
    original = os.rename

    def rename(source, target, **options):
        if (
            workspace.scratch in Path(source).parents
            and workspace.scratch not in Path(target).parents
        ):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        original(source, target, **options)

    patch.setattr(os, "rename", rename)


def test_scratch_and_workspace_may_lie_on_two_disks(pairing, workspace, monkeypatch):
    put_on_two_disks(monkeypatch, workspace)
    assert len(prepare(pairing, workspace, 16)) == len(CASES)
    assert not list((workspace.scratch / "partial").iterdir())


def test_the_record_tells_size_and_cases(pairing, workspace):
    cases = prepare(pairing, workspace, 16)
    record = read_json(workspace.prepared(16) / "record.json")
    assert record["size"] == 16
    assert list(record["cases"]) == sorted(CASES)
    assert record["digest"] == cases.digest
