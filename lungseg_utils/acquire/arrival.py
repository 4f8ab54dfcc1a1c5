"""What arrived: every file hashed and decoded once, its size compared with the manifest's."""

from __future__ import annotations

import datetime
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from lungseg_utils.acquire.web_pages import looks_like_web_page, web_page_error
from lungseg_utils.bundle import (
    IMAGE_FOLDER,
    LEFT_MASK_FOLDER,
    MASK_FOLDER,
    READINGS_FOLDER,
    RIGHT_MASK_FOLDER,
    SUFFIXES,
    find_bundle,
    list_images,
)
from lungseg_utils.errors import DownloadError, LungsegError, shortened
from lungseg_utils.files.records import digest_of, file_sha256, read_json, write_json
from lungseg_utils.manifest import MANIFEST_NAME, Case, load_manifest

# The largest X-rays here have 20 MB; what is far above is not read into memory.
_LARGEST_FILE = 500 * 10**6
_LUNG_MASK_FOLDERS = (LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)
_FETCH_AGAIN = (
    "Fetch the bundle again with OVERWRITE, replace these files, or add a source that has them, "
    "such as SOURCE='kaggle+nlm'."
)
_CHANGED_REASON = "not the file that arrived first (SHA-256)"
_CHANGED = "Fetch it from another SOURCE; or set OVERWRITE to take the files as they are now."


@dataclass(frozen=True)
class ArrivedFile:
    """A file of a bundle, read once.

    Args:
        sha256: Of its bytes, 64 hexadecimal digits.
        size: Width and height in pixels; None for a text, or where the image is damaged.
        damage: Why it cannot be used; empty where it can.
        advice: What to do about the damage, where more is known than to fetch it again.
    """

    sha256: str
    size: tuple[int, int] | None = None
    damage: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Arrival:
    """What a bundle holds.

    Args:
        folder: The bundle.
        files: X-rays, masks, readings and the bundle's own manifest, by their names relative to
            the bundle.
        resized: How the whole bundle was resized, such as `512 × 512`; empty for originals.
        odd_sizes: Files that have another size than the rest lets expect: an X-ray another than
            the manifest's (or than that of the resized copy), a mask another than its X-ray's.
    """

    folder: Path
    files: dict[str, ArrivedFile]
    resized: str = ""
    odd_sizes: dict[str, str] = field(default_factory=dict)

    @property
    def damaged(self) -> dict[str, str]:
        """Files that cannot be used, and why."""
        return {name: file.damage for name, file in self.files.items() if file.damage}

    def count(self, *folders: str) -> int:
        """Number of files in some of the bundle's folders."""
        return sum(name.rpartition("/")[0] in folders for name in self.files)

    def summary(self) -> str:
        """Counts and sizes in one line, and one more for the files of an odd size."""
        single = self.count(*_LUNG_MASK_FOLDERS)
        counts = f"{self.count(IMAGE_FOLDER)} X-rays, {self.count(MASK_FOLDER)} lung masks"
        counts += f", {single} masks of single lungs" if single else ""
        decoded = (
            f"{len(self.damaged)} files are damaged" if self.damaged else "every image decodes"
        )
        lines = [f"{counts} and {self.count(READINGS_FOLDER)} readings; {decoded}."]
        if self.resized:
            lines[0] += f" Not the originals: a copy resized to {self.resized}."
        if self.odd_sizes:
            listed = [f"{name} is {text}" for name, text in self.odd_sizes.items()]
            lines.append(f"Of another size ({len(listed)}): {'; '.join(shortened(listed))}.")
        return "\n".join(lines)


def check_bundle(folder: Path | str, manifest: Sequence[Case] | None = None) -> Arrival:
    """Read every file of a bundle once: hash it, decode it, compare its size.

    Args:
        folder: The bundle, or a folder that holds it. A second copy of the bundle further
            down, such as `data/` and `test/` of Kaggle's, is not looked at.
        manifest: The cases; None for the bundle's own `data_manifest.csv` where it has one,
            else the project's.

    Raises:
        MissingInputError: The folder holds no bundle.
        DownloadError: There is no X-ray.
        ManifestError: The bundle's own manifest breaks a rule.
    """
    bundle = find_bundle(folder)
    names = list_files(bundle)
    if not any(name.startswith(f"{IMAGE_FOLDER}/") for name in names):
        raise DownloadError(
            "A bundle holds X-rays.",
            f"no image file in {bundle / IMAGE_FOLDER}",
            "Fetch it again, or choose another SOURCE.",
        )
    read = thread_map(
        lambda name: _read_once(bundle, name), names, desc="Checking files", unit="file"
    )
    files = dict(zip(names, read, strict=True))
    own = bundle / MANIFEST_NAME
    cases = load_manifest(own if own.is_file() else None) if manifest is None else manifest
    resized, odd_sizes = _compare_sizes(files, cases)
    return Arrival(bundle, files, resized, odd_sizes)


def list_files(bundle: Path) -> list[str]:
    """Names of a bundle's X-rays, masks, readings and own manifest, relative to it."""
    folders = (IMAGE_FOLDER, MASK_FOLDER, *_LUNG_MASK_FOLDERS)
    paths = [path for folder in folders for path in list_images(bundle / folder)]
    paths += sorted((bundle / READINGS_FOLDER).glob("[!.]*.txt"))
    paths += [path for path in [bundle / MANIFEST_NAME] if path.is_file()]
    return [path.relative_to(bundle).as_posix() for path in paths]


def stamp_of_bundle(bundle: Path) -> str:
    """Digest of names, sizes and times: tells without reading them whether files changed."""
    states = [(name, (bundle / name).stat()) for name in list_files(bundle)]
    return digest_of([[name, state.st_size, state.st_mtime_ns] for name, state in states])


def require_whole(arrival: Arrival) -> None:
    """Refuse a bundle with damaged files.

    Raises:
        DownloadError: Names them; explains a web page in a file's place.
    """
    if not arrival.damaged:
        return
    listed = [f"{name}: {reason}" for name, reason in arrival.damaged.items()]
    advice = next((file.advice for file in arrival.files.values() if file.advice), _FETCH_AGAIN)
    raise DownloadError(
        "Every X-ray and every mask of a bundle can be decoded, and is what it was at first.",
        f"{len(listed)} damaged in {arrival.folder}\n    " + "\n    ".join(shortened(listed)),
        advice,
    )


def record_path(downloads: Path, request: Mapping[str, object]) -> Path:
    """Where the SHA-256 of a request's files lie: one record a source and location."""
    return downloads / f"arrival-{request['source']}-{digest_of(request)[:8]}.json"


def recorded_hashes(record: Path) -> dict[str, str]:
    """SHA-256 by file name as recorded at first arrival; empty where nothing was recorded.

    Raises:
        LungsegError: The record is damaged.
    """
    if not record.is_file():
        return {}
    try:
        return dict(read_json(record)["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise LungsegError(
            "The record of first arrival must be readable.",
            f"{record} ({type(error).__name__}: {error})",
            "Delete it: the files that are there will be recorded anew.",
        ) from error


def record_arrival(
    record: Path,
    request: Mapping[str, object],
    hashes: dict[str, str],
    origins: Mapping[str, object] | None = None,
) -> None:
    """Record the SHA-256 of whole files; nothing is written where it is recorded already.

    Args:
        record: The file, as named by `record_path`.
        request: What was fetched.
        hashes: By file name.
        origins: Of several sources, which gave what.
    """
    if origins is None and recorded_hashes(record) == hashes:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {"request": dict(request), "recorded": now, "sha256": hashes}
    write_json(record, content | ({"origins": dict(origins)} if origins else {}))


def whole_hashes(arrival: Arrival) -> dict[str, str]:
    """SHA-256 of the files that can be used, by name."""
    return {name: file.sha256 for name, file in arrival.files.items() if not file.damage}


def changed_files(arrival: Arrival, hashes: Mapping[str, str]) -> list[str]:
    """Files whose bytes are others than recorded."""
    found = arrival.files
    return [name for name in hashes if name in found and found[name].sha256 != hashes[name]]


def mark_changed(arrival: Arrival, names: Sequence[str]) -> Arrival:
    """Count files as damaged that are not what they were when they first arrived."""
    changed = {
        name: replace(arrival.files[name], damage=_CHANGED_REASON, advice=_CHANGED)
        for name in names
        if not arrival.files[name].damage
    }
    return replace(arrival, files={**arrival.files, **changed})


def _read_once(bundle: Path, name: str) -> ArrivedFile:
    path = bundle / name
    try:
        if path.stat().st_size > _LARGEST_FILE:
            damage = f"{path.stat().st_size:,} bytes, more than any X-ray has"
            return ArrivedFile(file_sha256(path), damage=damage)
        content = path.read_bytes()
    except OSError as error:
        return ArrivedFile("", damage=f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(content).hexdigest()
    if looks_like_web_page(content):
        error = web_page_error(content, "the file")
        return ArrivedFile(sha256, damage=error.received, advice=error.advice)
    if path.suffix.lower() not in SUFFIXES:
        return ArrivedFile(sha256)
    size, damage = _decode(content)
    return ArrivedFile(sha256, size, damage)


def _decode(content: bytes) -> tuple[tuple[int, int] | None, str]:
    """Width and height of an image, or why it cannot be decoded."""
    from PIL import Image

    from lungseg_utils.files.images import FORMATS, PIXEL_LIMIT

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                return None, f"{image.width} × {image.height} pixels, more than any X-ray has"
            # Checksums first: the decoder is content with a PNG whose end is cut off.
            image.verify()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            return image.size, ""
    # A damaged file makes the decoders fail in any way.
    except Exception as error:
        reason = "no image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        return None, f"{type(error).__name__}: {reason}" if content else "an empty file"


def _compare_sizes(
    files: Mapping[str, ArrivedFile], cases: Sequence[Case]
) -> tuple[str, dict[str, str]]:
    """How the bundle was resized, and what has another size than the rest lets expect."""
    originals = {case.image_id: (case.original_width, case.original_height) for case in cases}
    x_rays = {Path(n).stem: (n, f.size) for n, f in files.items() if f.size and _is_image(n)}
    known = {image_id: size for image_id, (_, size) in x_rays.items() if image_id in originals}
    resized, fits = _recognise_resizing({key: (known[key], originals[key]) for key in known})
    odd = {
        x_rays[image_id][0]: f"{_text(known[image_id])}, as published {_text(originals[image_id])}"
        for image_id in known
        if image_id not in fits
    }
    for name, file in files.items():
        image_id = Path(name).stem.removesuffix("_mask")
        size = x_rays[image_id][1] if image_id in x_rays else file.size
        if file.size and not _is_image(name) and file.size != size:
            odd[name] = f"{_text(file.size)}, its X-ray {_text(size)}"
    return resized, odd


def _recognise_resizing(
    sizes: Mapping[str, tuple[tuple[int, int], tuple[int, int]]],
) -> tuple[str, set[str]]:
    """What was done to most of the images, given their sizes and those of the originals.

    Returns:
        The resizing in words, empty where most have the originals' sizes; and the ids that fit.
    """
    same = {image_id for image_id, (size, original) in sizes.items() if size == original}
    if 2 * len(same) > len(sizes):
        return "", same
    ways = []
    for describe in (_as_fixed_size, _by_longer_side, _by_shorter_side, _by_factor):
        labels = {image_id: describe(*pair) for image_id, pair in sizes.items()}
        counts = Counter(label for label in labels.values() if label is not None)
        ways += [(count, label, labels) for label, count in counts.most_common(1)]
    # Of two that hold for as many, the first, which says more.
    count, label, labels = max(ways, key=lambda way: way[0], default=(0, "", {}))
    if 2 * count > len(sizes):
        return label, {image_id for image_id in labels if labels[image_id] == label}
    return "", same


def _as_fixed_size(size: tuple[int, int], original: tuple[int, int]) -> str | None:
    return _text(size)


def _in_proportion(
    label: Callable[[tuple[int, int], tuple[int, int]], str],
) -> Callable[[tuple[int, int], tuple[int, int]], str | None]:
    def describe(size: tuple[int, int], original: tuple[int, int]) -> str | None:
        # Each side may be rounded by up to a pixel.
        difference = abs(size[0] * original[1] - size[1] * original[0])
        return label(size, original) if difference <= max(original) else None

    return describe


_by_longer_side = _in_proportion(lambda size, _: f"{max(size)} pixels along the longer side")
_by_shorter_side = _in_proportion(lambda size, _: f"{min(size)} pixels along the shorter side")
_by_factor = _in_proportion(
    lambda size, original: f"{round(100 * max(size) / max(original))} % of their size"
)


def _is_image(name: str) -> bool:
    return name.startswith(f"{IMAGE_FOLDER}/")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
