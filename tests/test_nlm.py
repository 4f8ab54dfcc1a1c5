from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundles import read_tree, set_free_space
from misbehaving_server import Answer, MisbehavingServer, Served

from lungseg_utils.acquire import nlm
from lungseg_utils.acquire.nlm import SET_URLS, SHENZHEN_MASKS, download_nlm
from lungseg_utils.bundle import pair_bundle
from lungseg_utils.errors import DownloadError, StorageError
from lungseg_utils.manifest import load_manifest

SIDES = ("ManualMask/leftMask", "ManualMask/rightMask")


# Three of Shenzhen, the last of them without a mask, and two of Montgomery.
IDS = ["CHNCXR_0001_0", "CHNCXR_0002_0", "CHNCXR_0025_0", "MCUCXR_0001_0", "MCUCXR_0002_0"]
CASES = sorted(
    (case for case in load_manifest() if case.image_id in IDS), key=lambda case: case.image_id
)


@pytest.fixture
def server(monkeypatch):
    """NLM's two sets in its own folders; each file's content is its name."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: None)
    with MisbehavingServer() as server:
        for case in CASES:
            names = [f"CXR_png/{case.image_file}", f"ClinicalReadings/{case.image_id}.txt"]
            if case.source == "montgomery":
                names += [f"{side}/{case.image_file}" for side in SIDES]
            for name in names:
                server.files[f"/{case.source}/{name}"] = Served(name.encode())
        yield server


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch) -> list[str]:
    """The mask set as kagglehub's cache holds it; the list of what was asked for."""
    cache, asked = tmp_path / "cache", []
    (cache / "mask" / "mask").mkdir(parents=True)
    for case in CASES:
        if case.source == "shenzhen" and case.mask_file:
            (cache / "mask" / "mask" / case.mask_file).write_text(case.mask_file)

    def dataset_download(handle: str, force_download: bool = False) -> str:
        asked.append(handle)
        return str(cache)

    fake = SimpleNamespace(dataset_download=dataset_download)
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    return asked


def fetch(server: MisbehavingServer, folder: Path, **options) -> list[str]:
    urls = {source: server.url(f"/{source}") for source in SET_URLS}
    return download_nlm(folder, **{"urls": urls, "manifest": CASES} | options)


def test_both_sets_come_in_the_bundle_s_layout(server, kaggle, tmp_path: Path, capsys):
    assert fetch(server, tmp_path / "raw") == []
    files = read_tree(tmp_path / "raw")
    # 5 X-rays and readings, a left and a right mask of 2, and 2 masks from Kaggle.
    assert len(files) == 5 + 5 + 4 + 2
    for name, content in files.items():
        assert content.decode() == (name.removeprefix("masks/"))
    pairing = pair_bundle(tmp_path / "raw", CASES)
    assert [len(pair.masks) for pair in pairing.pairs] == [1, 1, 2, 2]
    assert len(pairing.unlabelled) == 1
    assert kaggle == [SHENZHEN_MASKS]
    assert "14/14" in capsys.readouterr().err


def test_what_is_there_or_had_elsewhere_is_not_asked_for(
    server, kaggle, tmp_path: Path, monkeypatch
):
    fetch(server, tmp_path / "raw")
    server.requests.clear()
    with monkeypatch.context() as patch:
        set_free_space(patch, 0)  # nor does it need room
        assert fetch(server, tmp_path / "raw") == []
    assert server.requests == []
    # Montgomery's merged mask stands for left and right.
    merged = f"masks/{CASES[3].mask_file}"
    had = [merged, f"CXR_png/{CASES[0].image_file}", *(f"masks/{c.mask_file}" for c in CASES[:2])]
    fetch(server, tmp_path / "other", have=had)
    files = read_tree(tmp_path / "other")
    assert len(files) == 16 - 2 - 2 - 1
    assert not any(name in files for name in had)
    assert not any(f"{side}/{CASES[3].image_file}" in files for side in SIDES)
    assert len(kaggle) == 1


def test_missing_files_are_listed_and_the_others_fetched(server, kaggle, tmp_path: Path, capsys):
    lost = [f"ClinicalReadings/{CASES[0].image_id}.txt", f"{SIDES[1]}/{CASES[4].image_file}"]
    del server.files[f"/shenzhen/{lost[0]}"], server.files[f"/montgomery/{lost[1]}"]
    (tmp_path / "cache" / "mask" / "mask" / CASES[1].mask_file).unlink()
    missing = fetch(server, tmp_path / "raw")
    assert missing == [f"masks/{CASES[1].mask_file}", *lost]
    assert len(read_tree(tmp_path / "raw")) == 13
    printed = capsys.readouterr().out
    assert "Not on the server (3)" in printed
    assert CASES[0].image_id in printed


def test_a_server_that_fails_ends_it_and_the_next_run_goes_on(server, kaggle, tmp_path: Path):
    broken = f"/shenzhen/CXR_png/{CASES[0].image_file}"
    server.always[broken] = Answer(break_after=1)
    with pytest.raises(DownloadError, match="sends the whole file"):
        fetch(server, tmp_path / "raw")
    assert not (tmp_path / "raw" / "CXR_png" / CASES[0].image_file).exists()
    del server.always[broken]
    fetch(server, tmp_path / "raw")
    assert len(read_tree(tmp_path / "raw")) == 16
    assert server.asked(broken)[-1].headers["Range"] == "bytes=6-"


def test_a_set_that_has_moved_is_told(server, kaggle, tmp_path: Path):
    urls = {"montgomery": server.url("/montgomery"), "shenzhen": server.url("/elsewhere")}
    with pytest.raises(DownloadError, match="X-rays of shenzhen"):
        fetch(server, tmp_path / "raw", urls=urls)


def test_without_kaggle_nothing_large_is_fetched_but_montgomery_can_be(
    server, tmp_path: Path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DownloadError, match="kagglehub"):
        fetch(server, tmp_path / "raw")
    assert server.requests == []
    fetch(server, tmp_path / "raw", urls={"montgomery": server.url("/montgomery")})
    assert len(read_tree(tmp_path / "raw")) == 2 + 2 + 4


def test_a_disk_that_is_too_small_is_told_first(server, kaggle, tmp_path, monkeypatch):
    set_free_space(monkeypatch, 25_000_000)
    with pytest.raises(StorageError, match=r"NLM needs 26\.0 MB"):
        fetch(server, tmp_path / "raw")
    assert server.requests == []


def test_the_manifest_s_sets_have_the_published_addresses(monkeypatch, tmp_path: Path):
    asked: dict[str, str] = {}
    for name in ("_fetch_kaggle_masks", "require_space"):
        monkeypatch.setattr(nlm, name, lambda *arguments: [])
    monkeypatch.setattr(nlm, "_fetch_all", lambda wanted, folder: asked.update(wanted) or [])
    download_nlm(tmp_path)
    assert len(asked) == 2 * 800 + 2 * 138
    base = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets"
    assert asked["CXR_png/CHNCXR_0001_0.png"] == (
        f"{base}/Shenzhen-Hospital-CXR-Set/CXR_png/CHNCXR_0001_0.png"
    )
    assert asked["ManualMask/leftMask/MCUCXR_0001_0.png"] == (
        f"{base}/Montgomery-County-CXR-Set/MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png"
    )
    assert set(SET_URLS) == {case.source for case in load_manifest()}
