"""A bundle's pairs to arrays: exact, resumed where interrupted, never stale, damage explained."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import AGE_UNKNOWN, CASES, TWELVE_BIT, arrays_of, write_pairing
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lungseg_utils.bundle import Pair, Pairing
from lungseg_utils.errors import (
    LungsegError,
    MissingInputError,
    StaleOutputError,
    StorageError,
)
from lungseg_utils.files.records import read_json
from lungseg_utils.manifest import to_row
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

    def counted(pair: Pair, *rest):
        result = original(pair, *rest)
        ids.append(pair.case.image_id)
        return result

    monkeypatch.setattr(module, "_prepare_pair", counted)
    return ids


def interrupt(monkeypatch, pairing: Pairing, workspace: Workspace, after: int) -> Path:
    """Interrupt a preparation after so many cases; the folder with what it did."""
    original, left = module._prepare_pair, list(range(after))

    def interrupted(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_prepare_pair", interrupted)
        prepare(pairing, workspace, 16, workers=1)
    assert not workspace.prepared(16).exists()
    [partial] = (workspace.scratch / "partial").iterdir()
    return partial


def replace_mask(pairing: Pairing, image_id: str, values: np.ndarray) -> None:
    [pair] = [pair for pair in pairing.pairs if pair.case.image_id == image_id]
    Image.fromarray(values).save(pair.masks[0])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    index = cases.index.set_index("image_id")
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


def test_the_record_holds_the_digests_of_inputs_and_outputs(pairing, workspace):
    """Worked out here: whoever prepared with an earlier version need not do so again."""
    prepare(pairing, workspace, 16)

    def digest(values: object) -> str:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    pairs = sorted([*pairing.pairs, *pairing.unlabelled], key=lambda pair: pair.case.image_id)
    cases = {
        pair.case.image_id: digest(
            {"row": to_row(pair.case), "files": list(map(sha256, (pair.image, *pair.masks)))}
        )
        for pair in pairs
    }
    made_from = {"version": 1, "size": 16, "cases": cases}
    folder = workspace.prepared(16)
    hashes = {name: sha256(folder / name) for name in ("images.npy", "masks.npy", "index.csv")}
    expected = made_from | {"digest": digest(made_from), "sha256": hashes}
    assert (folder / "record.json").read_text() == json.dumps(expected, indent=2) + "\n"


def test_each_file_is_read_and_decoded_once(pairing, workspace, monkeypatch):
    opened, decoded = [], []

    def counted(path: Path, *rest, open_path=Path.open, **options):
        opened.append(path.name)
        return open_path(path, *rest, **options)

    def counted_load(image: Image.Image, load=PngImageFile.load):
        if image.tile:  # asked for again, it has nothing left to decode
            decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(PngImageFile, "load", counted_load)
    prepare(pairing, workspace, 16)
    pairs = [*pairing.pairs, *pairing.unlabelled]
    files = sorted(path.name for pair in pairs for path in (pair.image, *pair.masks))
    assert sorted(name for name in opened if name.endswith(".png")) == files
    assert len(decoded) == len(files)


def test_the_same_again_does_nothing_unless_it_is_to_be_made_anew(pairing, workspace, prepared_ids):
    first = prepare(pairing, workspace, 16)
    assert sorted(prepared_ids) == sorted(CASES)
    before = contents(workspace.prepared(16))
    assert prepare(pairing, workspace, 16).digest == first.digest
    assert len(prepared_ids) == len(CASES)
    prepare(pairing, workspace, 16, workers=1, overwrite=True)
    assert len(prepared_ids) == 2 * len(CASES)
    assert contents(workspace.prepared(16)) == before


def test_the_digest_of_the_data_is_the_same_for_every_size_and_not_for_other_files(
    pairing, workspace
):
    small, large = prepare(pairing, workspace, 16), prepare(pairing, workspace, 48)
    assert (small.size, large.size) == (16, 48)
    assert small.digest != large.digest
    assert data_digest(workspace, 16) == data_digest(workspace, 48)
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)
    prepare(pairing, workspace, 16, overwrite=True)
    assert data_digest(workspace, 16) != data_digest(workspace, 48)
    for ask in (data_digest, load_prepared):
        with pytest.raises(MissingInputError, match="03_preprocess_and_stitch with SIZE = 24"):
            ask(workspace, 24)


@pytest.mark.parametrize("where", ["array", "final folder", "record"])
def test_a_disk_that_fills_up_meanwhile_costs_nothing(pairing, workspace, monkeypatch, where):
    prepare(pairing, workspace, 16)
    before = contents(workspace.prepared(16))
    replace_mask(pairing, "CHNCXR_0003_0", OTHER_MASK)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="Free some space"):
        if where == "array":
            patch.setattr(os, "posix_fallocate", full)
        elif where == "record":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(module, "_write", full)
        prepare(pairing, workspace, 16, overwrite=True)
    assert [path.name for path in (workspace.root / "prepared").iterdir()] == ["16"]
    assert contents(workspace.prepared(16)) == before

    prepare(pairing, workspace, 16, overwrite=True)
    assert contents(workspace.prepared(16))["masks.npy"] != before["masks.npy"]
    assert not list((workspace.scratch / "partial").iterdir())


@pytest.mark.parametrize("damage", [None, "row", "cut", "empty", "absent"])
def test_an_interrupted_preparation_continues_and_makes_anew_what_was_damaged(
    pairing, workspace, tmp_path, monkeypatch, damage
):
    whole = open_workspace(tmp_path / "whole")
    prepare(pairing, whole, 16)
    partial = interrupt(monkeypatch, pairing, workspace, after=5)
    content = (partial / "images.npy").read_bytes()
    damaged = {
        None: content,
        "row": content[:400] + bytes(50) + content[450:],
        "cut": content[:1000],
        "empty": b"",
    }
    (partial / "images.npy").unlink()
    if damage in damaged:
        (partial / "images.npy").write_bytes(damaged[damage])
    ids, original = [], module._prepare_pair
    monkeypatch.setattr(module, "_prepare_pair", lambda *rest: ids.append(rest) or original(*rest))

    prepare(pairing, workspace, 16)

    assert len(ids) == len(CASES) - {None: 5, "row": 4, "cut": 3}.get(damage, 0)
    assert contents(workspace.prepared(16)) == contents(whole.prepared(16))


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


def test_other_cases_and_other_rows_of_the_manifest_are_noticed(pairing, workspace):
    prepare(pairing, workspace, 16)
    with pytest.raises(StaleOutputError) as caught:
        prepare(Pairing(pairs=pairing.pairs[:1]), workspace, 16)
    assert "number of cases was 7, now 1" in str(caught.value)
    assert "now '(absent)'" in str(caught.value)
    pair = pairing.pairs[0]
    pairing.pairs[0] = Pair(replace(pair.case, split="val"), pair.image, pair.masks)
    with pytest.raises(StaleOutputError, match=pair.case.image_id):
        prepare(pairing, workspace, 16)
    index = prepare(pairing, workspace, 16, overwrite=True).index.set_index("image_id")
    assert index.loc[pair.case.image_id, "split"] == "val"


def test_an_unusable_pair_is_left_out_by_name_and_told_on_every_call(pairing, workspace, capsys):
    whole = prepare(pairing, workspace, 16)
    images, masks = np.array(whole.images), np.array(whole.masks)
    replace_mask(pairing, "CHNCXR_0001_0", np.zeros((10, 12), np.uint8))
    replace_mask(pairing, "CHNCXR_0003_0", np.zeros((32, 32), np.uint8))
    capsys.readouterr()

    cases = prepare(pairing, workspace, 16, overwrite=True)

    left = [row for row, name in enumerate(sorted(CASES)) if name not in UNUSABLE]
    assert cases.ids == [name for name in sorted(CASES) if name not in UNUSABLE]
    assert np.array_equal(cases.images, images[left])
    assert np.array_equal(cases.masks, masks[left])
    told = "2 cases left out:\n  CHNCXR_0001_0: the mask CHNCXR_0001_0_mask.png holds no lung\n"
    assert told in capsys.readouterr().out
    assert list(read_json(workspace.prepared(16) / "record.json")["left_out"]) == UNUSABLE
    before = contents(workspace.prepared(16))
    assert prepare(pairing, workspace, 16).digest == cases.digest
    assert contents(workspace.prepared(16)) == before
    assert told in capsys.readouterr().out


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
def test_damage_is_explained_and_overwritten(pairing, workspace, name, content):
    prepare(pairing, workspace, 16)
    folder = workspace.prepared(16)
    whole = contents(folder)
    (folder / name).write_bytes(content)
    for read in (load_prepared, lambda *place: prepare(pairing, *place)):
        with pytest.raises(LungsegError, match="are whole") as caught:
            read(workspace, 16)
        assert f"Delete the folder {folder} " in caught.value.advice
    prepare(pairing, workspace, 16, overwrite=True)
    assert contents(folder) == whole
