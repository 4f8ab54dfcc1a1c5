"""What arrived: every file hashed and decoded once, its size compared with the manifest's.

One record a bundle, `downloads/arrival-<source>-<digest>.json`, outlives the machine: the SHA-256
of each file at its first arrival, where the bundle lies, and by what its files are known again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from lungseg_utils.acquire.http import looks_like_web_page, web_page_error
from lungseg_utils.bundle import (
    BUNDLE_SUFFIXES,
    IMAGE_FOLDER,
    LEFT_MASK_FOLDER,
    MASK_FOLDER,
    READINGS_FOLDER,
    RIGHT_MASK_FOLDER,
    Size,
    compare_sizes,
    find_bundle,
    list_files,
    load_cases,
)
from lungseg_utils.errors import DownloadError, shortened
from lungseg_utils.files.records import digest_of, require_record
from lungseg_utils.manifest import Case
from lungseg_utils.workspace import Workspace

# The largest X-rays here have 20 MB; what is far above is not read into memory.
_LARGEST_FILE = 500 * 10**6
# The user's own folders and zip files may change; what others publish should not.
OWN_HOSTS = ("folder", "zip")
_PNG_END = b"IEND\xaeB`\x82"
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
        sha256: Of its bytes, 64 hexadecimal digits; empty where it was not read.
        size: Width and height in pixels; None for a text, or where the image is damaged.
        damage: Why it cannot be used; empty where it can.
        advice: What to do about the damage, where more is known than to fetch it again.
    """

    sha256: str
    size: Size | None = None
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

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that can be used, by name."""
        return {name: file.sha256 for name, file in self.files.items() if not file.damage}

    def count(self, *folders: str) -> int:
        """Number of files in some of the bundle's folders."""
        return sum(name.rpartition("/")[0] in folders for name in self.files)

    def without(self, changed: Sequence[str]) -> Arrival:
        """Count files as damaged that are not what they were when they first arrived."""
        marked = {
            name: replace(self.files[name], damage=_CHANGED_REASON, advice=_CHANGED)
            for name in changed
            if not self.files[name].damage
        }
        return replace(self, files={**self.files, **marked})

    def summary(self) -> str:
        """Counts and sizes in one line, and one more for the files of an odd size."""
        single = self.count(LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)
        counts = f"{self.count(IMAGE_FOLDER)} X-rays, {self.count(MASK_FOLDER)} lung masks"
        counts += f", {single} masks of single lungs" if single else ""
        damaged = len(self.damaged)
        decoded = f"{damaged} files are damaged" if damaged else "every image decodes"
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
        lambda name: _read_once(bundle / name), names, desc="Checking files", unit="file"
    )
    files = dict(zip(names, read, strict=True))
    cases = load_cases(bundle) if manifest is None else manifest
    sizes = {name: file.size for name, file in files.items() if file.size}
    return Arrival(bundle, files, *compare_sizes(sizes, cases))


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


# --- The record


def stamp_of_bundle(bundle: Path) -> str:
    """Digest of names, sizes and times: tells without reading them whether files changed."""
    states = [(name, (bundle / name).stat()) for name in list_files(bundle)]
    return digest_of([[name, state.st_size, state.st_mtime_ns] for name, state in states])


def arrival_record(workspace: Workspace, request: Mapping[str, object]) -> Path:
    """Where the record of a request's bundle lies: one a source and location."""
    return workspace.downloads / f"arrival-{request['source']}-{digest_of(request)[:8]}.json"


def read_arrival(path: Path) -> dict:
    """Read the record of a bundle; empty where nothing was recorded.

    Returns:
        `sha256` by name; and, where this code wrote it, `bundle` (relative to `raw` if it lies
        there), `files` (its stamp), `origin` (stamps of what it was read from) and `failed`
        (sources that could not be asked).

    Raises:
        LungsegError: The record is damaged.
    """
    if not path.is_file():
        return {}
    return require_record(
        path,
        ("sha256",),
        "The record of first arrival is whole.",
        "Run notebook 02_download_and_pair with OVERWRITE: the files are recorded as they are now.",
    )


def read_request(workspace: Workspace) -> dict:
    """Read what was fetched last: `source`, `location` and `options`.

    Raises:
        LungsegError: The record of it is damaged.
    """
    keys = ("source", "location", "options")
    record = require_record(
        workspace.source_record,
        keys,
        "The record of where the X-rays come from is whole.",
        "Run notebook 02_download_and_pair, with the same WORKSPACE.",
    )
    return {key: record[key] for key in keys}


def find_fetched(workspace: Workspace, request: dict, complete: bool = True) -> Path | None:
    """Find a request's bundle, unless its files or what they were read from changed.

    Args:
        workspace: Where to look.
        request: What is asked for.
        complete: Refuse a bundle of several sources of which some could not be asked.

    Raises:
        LungsegError: The record is damaged.
    """
    record = read_arrival(arrival_record(workspace, request))
    if "files" not in record or (complete and record["failed"]):
        return None
    bundle = workspace.raw / record["bundle"]
    # What was unpacked outlives its archive.
    changed = record["origin"] | stamp_origins(request) != record["origin"]
    return None if changed or stamp_of_bundle(bundle) != record["files"] else bundle


def stamp_origins(request: dict) -> dict[str, str]:
    """State of the user's folders and zip files that a request names, of those that are there."""
    sources = request["source"].split("+")
    places = request["location"].split(";", len(sources) - 1)
    stamps = {}
    for place in (p for source, p in zip(sources, places, strict=True) if source in OWN_HOSTS):
        if Path(place).is_file():
            state = Path(place).stat()
            stamps[place] = digest_of([state.st_size, int(state.st_mtime)])
        elif Path(place).is_dir():
            stamps[place] = stamp_of_bundle(find_bundle(place))
    return stamps


# --- One file


def _read_once(path: Path) -> ArrivedFile:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            damage = f"{path.stat().st_size:,} bytes, more than any X-ray has"
            return ArrivedFile("", damage=damage)
        content = path.read_bytes()
    except OSError as error:
        return ArrivedFile("", damage=f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(content).hexdigest()
    is_image = path.suffix.lower() in BUNDLE_SUFFIXES
    size, damage = _decode(content) if is_image else (None, "")
    # Neither an image that decodes nor a text without a tag is a page.
    suspicious = damage or (not is_image and b"<" in content)
    if suspicious and looks_like_web_page(content):
        error = web_page_error(content, "the file")
        return ArrivedFile(sha256, None, error.received, error.advice)
    return ArrivedFile(sha256, size, damage)


def _decode(content: bytes) -> tuple[Size | None, str]:
    """Width and height of an image, or why it cannot be decoded."""
    from PIL import Image

    from lungseg_utils.files.images import FORMATS, PIXEL_LIMIT

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                return None, f"{image.width} × {image.height} pixels, more than any X-ray has"
            # A PNG's checksums, without decoding: the decoder asks neither for them nor the end.
            image.verify()
            if image.format == "PNG" and _PNG_END not in content:
                return None, "cut off at its end"
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            return image.size, ""
    # A damaged file makes the decoders fail in any way.
    except Exception as error:
        reason = "no image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        return None, f"{type(error).__name__}: {reason}" if content else "an empty file"
