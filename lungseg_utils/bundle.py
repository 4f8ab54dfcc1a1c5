"""X-rays to lung masks, by image id through the manifest."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lungseg_utils.errors import MissingInputError, compress_ranges
from lungseg_utils.manifest import MANIFEST_NAME, Case, load_manifest

IMAGE_FOLDER = "CXR_png"
MASK_FOLDER = "masks"
LEFT_MASK_FOLDER = "ManualMask/leftMask"
RIGHT_MASK_FOLDER = "ManualMask/rightMask"
READINGS_FOLDER = "ClinicalReadings"
SUFFIXES = (".png", ".jpg", ".jpeg")
KAGGLE_FOLDER = "Lung Segmentation"
SEARCH_DEPTH = 3


@dataclass(frozen=True)
class Pair:
    """An X-ray and its lung masks.

    Args:
        case: Its row of the manifest.
        image: The X-ray's file.
        masks: No file where the case is unlabelled, one where left and right lung are
            merged, two (left, right) where they are apart.
    """

    case: Case
    image: Path
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """What of a manifest a bundle holds, and what does not fit.

    Args:
        pairs: X-rays with their masks, sorted by image id.
        unlabelled: X-rays that have no mask according to the manifest, sorted by image id.
        missing_images: Ids in the manifest whose X-ray is not in the bundle.
        missing_masks: Ids whose X-ray is there, but not the mask the manifest names.
        orphan_masks: Mask files, relative to the bundle, that belong to no pair: their X-ray or
            the other lung's mask is missing, the manifest says the case has none, or another
            file of the same case is used.
        unknown_images: X-ray files that the manifest does not name.
    """

    pairs: list[Pair] = field(default_factory=list)
    unlabelled: list[Pair] = field(default_factory=list)
    missing_images: list[str] = field(default_factory=list)
    missing_masks: list[str] = field(default_factory=list)
    orphan_masks: list[str] = field(default_factory=list)
    unknown_images: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A readable report of several lines; everything that lacks a partner by name."""
        images = len(self.pairs) + len(self.unlabelled) + len(self.missing_masks)
        lines = [f"{images} X-rays of the manifest, {len(self.pairs)} with their lung mask."]
        lines += _listed("X-rays without a mask", [pair.case.image_id for pair in self.unlabelled])
        lines += _listed("X-rays of the manifest missing in the bundle", self.missing_images)
        lines += _listed("X-rays whose mask is missing in the bundle", self.missing_masks)
        lines += _listed("Masks that belong to no pair", self.orphan_masks)
        lines += _listed("X-rays unknown to the manifest", self.unknown_images)
        return "\n".join(lines)


@dataclass(frozen=True)
class MaskFiles:
    """Mask files of a bundle by image id, in name order."""

    merged: dict[str, list[Path]]
    left: dict[str, list[Path]]
    right: dict[str, list[Path]]

    def of(self, image_id: str, preferred: str = "") -> tuple[Path, ...]:
        """The case's mask: one merged file, else left and right, else nothing.

        Args:
            image_id: The case.
            preferred: The merged file's name to take where there are several.
        """
        merged = self.merged.get(image_id, [])
        if merged:
            return (next((path for path in merged if path.name == preferred), merged[0]),)
        if image_id in self.left and image_id in self.right:
            return self.left[image_id][0], self.right[image_id][0]
        return ()


def find_bundle(folder: Path | str) -> Path:
    """Find the bundle, the folder that holds `CXR_png`, in a folder or up to 3 levels below.

    The highest one is taken, and `Lung Segmentation` before others beside it: the Kaggle
    bundle holds a second copy of itself under `data`.

    Raises:
        MissingInputError: There is none, or there are several on the same level.
    """
    folder = Path(folder)
    level = [folder] if folder.is_dir() else []
    for _ in range(SEARCH_DEPTH + 1):
        found = [candidate for candidate in level if (candidate / IMAGE_FOLDER).is_dir()]
        found = [path for path in found if path.name == KAGGLE_FOLDER] or found
        if len(found) > 1:
            raise MissingInputError(
                f"One folder holds `{IMAGE_FOLDER}`.",
                ", ".join(map(str, found)),
                "Name one of them as the bundle.",
            )
        if found:
            return found[0]
        level = [below for candidate in level for below in _subfolders(candidate)]
    raise MissingInputError(
        f"A bundle holds a folder `{IMAGE_FOLDER}`, at most {SEARCH_DEPTH} levels down.",
        f"none in {folder}" if folder.is_dir() else f"no folder {folder}",
        "Run notebook 02_download_and_pair first, or name the bundle's folder.",
    )


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; an absent folder has none."""
    if not folder.is_dir():
        return []
    # Archives packed on a Mac carry a "._" file beside each.
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def find_masks(bundle: Path) -> MaskFiles:
    """List a bundle's masks by image id, in both layouts and both naming rules."""
    return MaskFiles(
        *(
            _by_id(list_images(bundle / folder), naming_suffix="_mask")
            for folder in (MASK_FOLDER, LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)
        )
    )


def pair_bundle(folder: Path | str, manifest: list[Case] | None = None) -> Pairing:
    """Pair the X-rays of a bundle with their masks.

    Args:
        folder: The bundle, or a folder that holds it.
        manifest: The cases; None for the bundle's own `data_manifest.csv` where it has
            one, else the project's.

    Raises:
        MissingInputError: There is no bundle in the folder.
        ManifestError: The bundle's own manifest breaks a rule.
    """
    bundle = find_bundle(folder)
    if manifest is None:
        own = bundle / MANIFEST_NAME
        manifest = load_manifest(own if own.is_file() else None)
    images = _by_id(list_images(bundle / IMAGE_FOLDER))
    masks = find_masks(bundle)
    pairing = Pairing()
    for case in sorted(manifest, key=lambda case: case.image_id):
        _place(case, images.get(case.image_id, []), masks, pairing)
    _add_orphans(pairing, bundle, images, masks)
    return pairing


def _place(case: Case, images: list[Path], masks: MaskFiles, pairing: Pairing) -> None:
    if not images:
        pairing.missing_images.append(case.image_id)
        return
    image = next((path for path in images if path.name == case.image_file), images[0])
    if not case.mask_file:
        pairing.unlabelled.append(Pair(case, image))
        return
    files = masks.of(case.image_id, case.mask_file)
    if files:
        pairing.pairs.append(Pair(case, image, files))
    else:
        # Not among the unlabelled: its split would hand it to training with an empty mask.
        pairing.missing_masks.append(case.image_id)


def _add_orphans(
    pairing: Pairing, bundle: Path, images: dict[str, list[Path]], masks: MaskFiles
) -> None:
    used = {
        path for pair in pairing.pairs + pairing.unlabelled for path in (pair.image, *pair.masks)
    }
    known = {*pairing.missing_masks}
    for image_id, paths in images.items():
        pairing.unknown_images.extend(
            path.name for path in paths if path not in used and image_id not in known
        )
    for files in (masks.merged, masks.left, masks.right):
        for paths in files.values():
            pairing.orphan_masks.extend(
                path.relative_to(bundle).as_posix() for path in paths if path not in used
            )
    pairing.unknown_images.sort()
    pairing.orphan_masks.sort()


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    )


def _by_id(paths: Iterable[Path], naming_suffix: str = "") -> dict[str, list[Path]]:
    files = defaultdict(list)
    for path in paths:
        files[path.stem.removesuffix(naming_suffix)].append(path)
    return dict(files)


def _listed(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    text = ", ".join(compress_ranges(names))
    wrapped = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return [f"{title} ({len(names)}):", *(f"  {line}" for line in wrapped)]
