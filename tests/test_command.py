"""The command `lungseg`: what it takes, what it says, and how it goes on after it was killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_utils.__main__ import lungseg
from lungseg_utils.errors import ImageFileError, MissingInputError
from lungseg_utils.phantom.sets import render_phantom
from lungseg_utils.segment import inputs
from lungseg_utils.segment.inputs import find_films, read_file
from lungseg_utils.segment.segmenter import Segmenter

HEAVY = ("tensorflow", "keras", "matplotlib", "pandas", "scipy", "pydicom", "highdicom", "onnx")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Eight small phantoms, half of them in a folder of the folder."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    for seed in range(8):
        image, _ = render_phantom(np.random.default_rng(seed), (96, 128))
        name = f"more/{seed}.jpg" if seed % 2 else f"{seed}.png"
        Image.fromarray(image).save(folder / name, quality=95)
    return folder


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lungseg_utils", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "lungs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# In


def test_files_folders_patterns_and_archives_are_found_by_their_names(tmp_path):
    names = ("a/IM0001", "a/b/IM0002", "c.dcm")
    for name in (*names, "a/DICOMDIR", "a/Thumbs.db", ".hidden/x", "a/._c.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for name in (*names, "DICOMDIR", "__MACOSX/._c.dcm", "../../out.dcm"):
            archive.writestr(name, name)

    def found(*given: str) -> list[str]:
        films = find_films([str(tmp_path / one) for one in given])
        for name, read in films.items():
            assert read().decode().endswith(Path(name).name)
        return list(films)

    archived = ["a/IM0001", "a/b/IM0002", "c.dcm", "out.dcm"]
    assert found("a") == ["IM0001", "b/IM0002"]
    assert found("a/IM0001") == ["IM0001"]
    assert found("a/**/IM*") == ["IM0001", "b/IM0002"]
    assert found("films.zip") == archived
    assert found("a/b", "c.dcm") == ["a/b/IM0002", "c.dcm"]
    assert found("films.zip", "c.dcm") == ["c.dcm", *(f"films.zip/{name}" for name in archived)]
    left = find_films(tmp_path / "a", leave_out=[tmp_path / "a" / "b"])
    assert list(left) == ["IM0001"]
    for nothing in ("a/*.png", "absent", "a/.."):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(MissingInputError):
            find_films(tmp_path / ("empty" if nothing == "a/.." else nothing))


def test_an_archive_that_would_hurt_is_refused_file_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_SMALL", 1000)
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound", b"film")
        archive.writestr("bomb", bytes(10_000_000))
        archive.writestr("damaged", bytes(range(256)))
    content = bytearray(path.read_bytes())
    content[content.index(b"damaged") + 40] ^= 255
    path.write_bytes(content)
    films = find_films(path)
    assert films["sound"]() == b"film"
    for name, reason in {"bomb": "would unpack to 10,000,000", "damaged": "it is damaged"}.items():
        with pytest.raises(ImageFileError, match=reason):
            films[name]()
    encrypted = bytearray(path.read_bytes())
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(ImageFileError, match="encrypted"):
        find_films(path)["sound"]()


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "film"
    path.write_bytes(b"one")

    def growing(self):
        path.write_text("longer")
        return b"one"

    with monkeypatch.context() as patch, pytest.raises(ImageFileError, match="changed while"):
        patch.setattr(Path, "read_bytes", growing)
        read_file(path)
    monkeypatch.setattr(inputs, "_LARGEST_FILE", 5)
    with pytest.raises(ImageFileError, match="6 bytes"):
        read_file(path)


# Out


def test_one_command_writes_what_is_asked_for_and_loads_nothing_heavy(films, tmp_path):
    code = "import sys; from lungseg_utils.__main__ import lungseg; code = lungseg(sys.argv[1:]);"
    code += f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    (tmp_path / "films").mkdir()
    shutil.copytree(films, tmp_path / "films", dirs_exist_ok=True)
    (tmp_path / "films" / "notes.txt").write_text("not <b>one</b>")
    out = tmp_path / "out"
    command = [tmp_path / "films", out, "--save", "mask,labels,overlay,gallery"]

    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)

    assert done.returncode == 1, done.stderr
    assert "8 of 9 films segmented" in done.stdout and "notes.txt: " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    rows = {row["file"]: row for row in table_of(out)}
    assert len(rows) == 9 and "it is text" in rows["notes.txt"]["error"]
    for name in ("0.png", "more/1.jpg"):
        place = Path(name).with_suffix("")
        labels = np.asarray(Image.open(out / "labels" / f"{place}_labels.png"))
        mask = np.asarray(Image.open(out / "masks" / f"{place}_mask.png"))
        assert set(np.unique(labels)) == {0, 1, 2} and set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(labels > 0, mask > 0)
        assert int(rows[name]["right_pixels"]) == (labels == 1).sum()
        assert int(rows[name]["left_pixels"]) == (labels == 2).sum()
        # The right lung is on the image's left.
        assert float(rows[name]["right_centroid_x"]) < float(rows[name]["left_centroid_x"])
    report = json.loads((out / "run.json").read_text())
    assert report["counts"] == {"films": 9, "segmented": 8, "failed": 1}
    assert report["command"].startswith("lungseg ") and report["versions"]["onnxruntime"]
    assert report["parameters"]["weights_sha256"] == Segmenter.load("unet").run.record["sha256"]
    page = (out / "gallery.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 8 and page.count("<figure") == 9
    assert "http" not in page and "<b>one" not in page


def test_more_results_are_added_and_the_former_ones_stay(films, tmp_path, capsys):
    out, film = tmp_path / "out", str(films / "0.png")
    assert lungseg([film, str(out), "--save", "mask"]) == 0
    made = (out / "masks" / "0_mask.png").stat().st_mtime_ns
    assert lungseg([film, str(out), "--save", "gallery,dicom-seg"]) == 0
    assert (out / "masks" / "0_mask.png").stat().st_mtime_ns == made
    assert (out / "gallery.html").is_file() and not (out / "dicom-seg").exists()
    (row,) = table_of(out)
    assert row["note"] == "no dicom-seg: the film is no DICOM file"
    # What could not be made is not tried again.
    table = (out / "lungs.csv").read_bytes()
    assert lungseg([film, str(out), "--save", "gallery,dicom-seg"]) == 0
    assert (out / "lungs.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.png"], "no such file or folder"),
        ([".", "--save", "masks"], "A result to save is one of mask, labels"),
        ([".", "--network", "resnet"], "Correct the name"),
        ([".", "--network", "mine.onnx"], "no mine.onnx"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, *more = arguments
    assert lungseg([first, "out", *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "lungs.csv").exists()


@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/out"])
def test_results_do_not_go_where_a_file_is(place, films, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("of mine")
    assert lungseg([str(films), str(tmp_path / place)]) == 2
    assert "notes.txt is a file" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(films, tmp_path, capsys):
    record = tmp_path / "run.json"
    record.write_text('{"config": {}}')
    assert lungseg([str(films), str(tmp_path)]) == 2
    assert "Choose another folder" in capsys.readouterr().err
    assert record.read_text() == '{"config": {}}' and len(list(tmp_path.iterdir())) == 1


def test_a_film_with_nothing_to_find_does_not_pass_silently(tmp_path):
    checks = np.kron(np.indices((8, 8)).sum(0) % 2 * 255, np.ones((16, 16))).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "checks.png")
    assert lungseg([str(tmp_path / "checks.png"), str(tmp_path / "out")]) == 0
    (row,) = table_of(tmp_path / "out")
    assert row["look"] == "True" and row["reason"]


# Goes on

KILLS = 30


def without_seconds(out: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in table_of(out)]


def test_killed_at_random_points_it_goes_on_and_ends_as_if_undisturbed(films, tmp_path):
    arguments = ["--save", "mask,labels,overlay,nifti,gallery"]
    begun = time.perf_counter()
    assert run(films, tmp_path / "wanted", *arguments).returncode == 0
    taken = time.perf_counter() - begun
    rng, out, kills = np.random.default_rng(0), tmp_path / "out", 0
    command = [sys.executable, "-m", "lungseg_utils", films, out, *arguments]
    while kills < KILLS:
        # Anew after each end, so that every part of a run is hit.
        with subprocess.Popen(command, stdout=-3, stderr=-3, env=os.environ) as process:
            try:
                assert process.wait(rng.uniform(0.3, 1) * taken) == 0
                shutil.rmtree(out)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    assert run(films, out, *arguments).returncode == 0
    assert without_seconds(out) == without_seconds(tmp_path / "wanted")

    def written(place: Path) -> dict[str, bytes]:
        ends = (".png", ".jpg")
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in place.rglob("*")
            if path.suffix in ends or path.name.startswith(".")
        }

    assert written(out) == written(tmp_path / "wanted")
    assert len(list((out / "nifti").rglob("*.nii.gz"))) == 8
