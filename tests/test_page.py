"""The page in a real browser: films in, outlines out, and nothing leaves its own address."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_utils import Segmenter
from lungseg_utils.evaluation.metrics import dice
from lungseg_utils.phantom.film import render_phantom
from lungseg_utils.segment.network import load_shipped
from tests.test_dicom import BASELINE, LOSSLESS, content_of, deep, encapsulated, film_of, jpeg
from tools import page as tool

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
SEEDS = range(4)
REAL = 20
# Otherwise it looks up its maker's hosts at every start.
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def browser():
    lacking = [] if shutil.which("npm") else ["npm (Debian packages nodejs and npm)"]
    lacking += [] if CHROMIUM else ["chromium (Debian package chromium)"]
    if lacking:
        told = f"the page's tests need {' and '.join(lacking)}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser):
    server = tool.serve(tool.build())
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def page(browser, address):
    """The page, its network loaded; fails for any request to elsewhere, or error in the console."""
    context = browser.new_context(accept_downloads=True)
    page, asked, errors = context.new_page(), [], []
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(address)
    page.locator("#state", has_text="Ready").wait_for(timeout=120_000)
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith((address, f"blob:{address}"))]
    assert elsewhere == [] and errors == []


@pytest.fixture(scope="module")
def unet() -> Segmenter:
    return Segmenter(load_shipped("unet"))


def drawn(seed: int) -> np.ndarray:
    return render_phantom(np.random.default_rng(seed), (420 + 40 * seed, 500))[0]


def choose(page, *files: Path) -> None:
    """Choose files, and wait until each has an outline or an error."""
    before = page.locator("#list li").count()
    page.set_input_files("#choose", [str(file) for file in files])
    for number in range(before, before + len(files)):
        note = page.locator(f"#film-{number} small")
        note.filter(has_not_text="waiting").filter(has_not_text="at work").wait_for(timeout=120_000)


def download(page, number: int, kind: str, folder: Path) -> Path:
    page.locator(f"#film-{number}").click()
    page.locator("#told dl").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name=f"Download {kind}").click()
    path = folder / saved.value.suggested_filename
    saved.value.save_as(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def write_films(folder: Path) -> list[Path]:
    """Phantoms as PNG of 8 and 16 bits, JPEG, and DICOM of several compressions."""
    films = []
    for seed in SEEDS:
        films.append(folder / f"grey_{seed}.png")
        Image.fromarray(drawn(seed)).save(films[-1])
    image = drawn(0)
    Image.fromarray(image.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.stack([image] * 3, axis=2)).save(folder / "colours.jpeg", quality=97)
    datasets = {
        "plain": film_of(deep(12, image), 12),
        "white_is_zero": film_of(
            4095 - deep(12, image), 12, PhotometricInterpretation="MONOCHROME1"
        ),
        "jpeg": encapsulated(jpeg(image), BASELINE, image),
        **{name: film_of(deep(12, image), 12, name) for name in LOSSLESS},
        "turned": film_of(np.ascontiguousarray(image[:, ::-1]), PatientOrientation=["R", "F"]),
    }
    for name, dataset in datasets.items():
        (folder / f"{name}.dcm").write_bytes(content_of(dataset))
    return [*films, folder / "deep.png", folder / "colours.jpeg", *sorted(folder.glob("*.dcm"))]


def test_masks_are_those_of_the_package(page, unet, tmp_path):
    films = write_films(tmp_path)
    choose(page, *films)
    for number, film in enumerate(films):
        mask = read(download(page, number, "mask", tmp_path))
        assert set(np.unique(mask)) == {0, 255}
        result = unet.segment(film)
        assert dice(mask > 127, result.mask) >= 0.999, film.name
        labels = read(download(page, number, "labels", tmp_path))
        assert np.mean(labels != result.labels) < 0.001, film.name


def test_real_films_get_the_masks_of_the_package(page, unet, shared_data, tmp_path):
    films = sorted((shared_data / "nlm512" / "CXR_png").glob("*.png"))[:: 800 // REAL][:REAL]
    films += sorted((shared_data / "dicom").glob("chest_*.dcm"))
    choose(page, *films)
    for number, film in enumerate(films):
        mask = read(download(page, number, "mask", tmp_path)) > 127
        assert dice(mask, unet.segment(film).mask) >= 0.999, film.name


def test_a_broken_file_is_named_and_the_others_go_on(page, tmp_path):
    Image.fromarray(drawn(1)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "lateral.dcm").write_bytes(content_of(film_of(drawn(1), ViewPosition="LL")))
    (tmp_path / "notes.txt").write_text("no film")
    choose(page, *(tmp_path / f"{name}" for name in ("broken.png", "lateral.dcm", "notes.txt")))
    choose(page, tmp_path / "whole.png")
    told = {0: "Export it again", 1: "a lateral view (LL)", 2: "A film is a PNG, a JPEG or a DICOM"}
    for number, words in told.items():
        page.locator(f"#film-{number}").click()
        assert words in page.get_by_role("alert").inner_text()
    assert page.locator("#film-3 small").inner_text() in ("done",)
    with page.expect_download() as saved:
        page.locator("#table").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("file,width,height,lung_fraction,right_pixels")
    assert lines[4].startswith("whole.png,")


def test_a_stroke_changes_the_mask_and_is_undone(page, tmp_path):
    Image.fromarray(drawn(2)).save(tmp_path / "film.png")
    choose(page, tmp_path / "film.png")
    before = read(download(page, 0, "mask", tmp_path)) > 0
    page.get_by_label("Erase").check()
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 200, y)
    page.mouse.down()
    page.mouse.move(x + 200, y, steps=5)
    page.mouse.up()
    page.locator("#told", has_text="corrected by hand").wait_for()
    after = read(download(page, 0, "mask", tmp_path)) > 0
    # Across the middle, through both lungs, and nowhere else.
    changed = np.flatnonzero((before != after).any(axis=1))
    assert not (after & ~before).any() and after.sum() < before.sum()
    assert abs(changed.mean() - before.shape[0] / 2) < 2
    page.keyboard.press("Control+z")
    page.locator("#told", has_text="about").wait_for()
    assert np.array_equal(read(download(page, 0, "mask", tmp_path)) > 0, before)


def test_the_second_visit_needs_no_connection(page, tmp_path):
    page.context.set_offline(True)
    page.reload()
    page.locator("#state", has_text="Ready").wait_for(timeout=60_000)
    assert "threads" in page.locator("#which").inner_text()  # isolated by the service worker
    page.get_by_role("button", name="Try three drawn films").click()
    page.locator("#told dl").wait_for(timeout=60_000)
    page.locator("#film-2 small", has_text="done").wait_for(timeout=60_000)
    page.keyboard.press("ArrowDown")
    assert page.locator("#told h2").inner_text() == "drawn_2.png"
    assert page.locator("[aria-selected=true]").inner_text().startswith("drawn_2.png")


def test_no_script_of_another_origin_could_run(page):
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'" and rules["connect-src"] == "'self'"
