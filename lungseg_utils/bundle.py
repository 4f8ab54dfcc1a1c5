"""X-rays to lung masks, by image id through the manifest; and whether their sizes fit."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from lungseg_utils.errors import MissingInputError, compress_ranges, shortened
from lungseg_utils.manifest import MANIFEST_NAME, Case, load_manifest

IMAGE_FOLDER = "CXR_png"
MASK_FOLDER = "masks"
LEFT_MASK_FOLDER = "ManualMask/leftMask"
RIGHT_MASK_FOLDER = "ManualMask/rightMask"
READINGS_FOLDER = "ClinicalReadings"
BUNDLE_SUFFIXES = (".png", ".jpg", ".jpeg")
KAGGLE_FOLDER = "Lung Segmentation"
SEARCH_DEPTH = 3
Size = tuple[int, int]


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
    received = f"no folder {folder}"
    if folder.is_dir():
        there = ", ".join(shortened(path.name for path in sorted(folder.iterdir()))) or "nothing"
        received = f"none in {folder}; there: {there}"
    raise MissingInputError(
        f"A bundle holds a folder `{IMAGE_FOLDER}`, at most {SEARCH_DEPTH} levels down.",
        received,
        "Run notebook 02_download_and_pair first, name the bundle's folder, or choose another "
        "SOURCE.",
    )


def list_bundle_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; an absent folder has none."""
    if not folder.is_dir():
        return []
    # Archives packed on a Mac carry a "._" file beside each.
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in BUNDLE_SUFFIXES and not path.name.startswith(".")
    )


def list_files(bundle: Path) -> list[str]:
    """Names of a bundle's X-rays, masks, readings and own manifest, relative to it."""
    folders = (IMAGE_FOLDER, MASK_FOLDER, LEFT_MASK_FOLDER, RIGHT_MASK_FOLDER)
    paths = [path for folder in folders for path in list_bundle_images(bundle / folder)]
    paths += sorted((bundle / READINGS_FOLDER).glob("[!.]*.txt"))
    paths += [path for path in [bundle / MANIFEST_NAME] if path.is_file()]
    return [path.relative_to(bundle).as_posix() for path in paths]


def load_cases(bundle: Path) -> list[Case]:
    """The cases of the bundle's own `data_manifest.csv` where it has one, else the project's.

    Raises:
        ManifestError: The bundle's own manifest breaks a rule.
    """
    own = bundle / MANIFEST_NAME
    return load_manifest(own if own.is_file() else None)


def find_masks(bundle: Path) -> MaskFiles:
    """List a bundle's masks by image id, in both layouts and both naming rules."""
    return MaskFiles(
        *(
            _by_id(list_bundle_images(bundle / folder), naming_suffix="_mask")
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
    manifest = load_cases(bundle) if manifest is None else manifest
    images = _by_id(list_bundle_images(bundle / IMAGE_FOLDER))
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
    pairs = pairing.pairs + pairing.unlabelled
    used = {path for pair in pairs for path in (pair.image, *pair.masks)}
    used.update(*(images[image_id] for image_id in pairing.missing_masks))
    unknown = {path.name for path in chain(*images.values()) if path not in used}
    pairing.unknown_images.extend(sorted(unknown))
    listed = (masks.merged, masks.left, masks.right)
    orphans = {path for paths in listed for path in chain(*paths.values())} - used
    pairing.orphan_masks.extend(sorted(path.relative_to(bundle).as_posix() for path in orphans))


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


# --- Sizes


def compare_sizes(sizes: Mapping[str, Size], cases: Sequence[Case]) -> tuple[str, dict[str, str]]:
    """Compare the sizes of a bundle's images with each other and with the manifest's.

    Args:
        sizes: Width and height by name, such as `CXR_png/MCUCXR_0001_0.png`.
        cases: The manifest.

    Returns:
        How the whole bundle was resized, such as `512 × 512`, empty for originals; and, by name,
        what has another size than the rest lets expect: an X-ray another than the manifest's (or
        than that of the resized copy), a mask another than its X-ray's.
    """
    originals = {case.image_id: (case.original_width, case.original_height) for case in cases}
    x_rays = {Path(name).stem: name for name in sizes if name.startswith(f"{IMAGE_FOLDER}/")}
    pairs = {key: (sizes[x_rays[key]], originals[key]) for key in x_rays if key in originals}
    resized, fits = _recognise_resizing(pairs)
    odd = {
        x_rays[image_id]: f"{_text(size)}, as published {_text(original)}"
        for image_id, (size, original) in pairs.items()
        if image_id not in fits
    }
    for name, size in sizes.items():
        expected = sizes[x_rays.get(Path(name).stem.removesuffix("_mask"), name)]
        if size != expected:
            odd[name] = f"{_text(size)}, its X-ray {_text(expected)}"
    return resized, odd


def _recognise_resizing(pairs: Mapping[str, tuple[Size, Size]]) -> tuple[str, set[str]]:
    """What was done to most of the images, given their sizes and those of the originals.

    Returns:
        The resizing in words: the size that most have, or how much smaller or larger most are in
        both directions; empty where most have the originals' sizes, or no rule holds. And the ids
        that fit.
    """
    same = {image_id for image_id, (size, original) in pairs.items() if size == original}
    if 2 * len(same) > len(pairs):
        return "", same
    [(common, _)] = Counter(size for size, _ in pairs.values()).most_common(1) or [((0, 0), 0)]
    equal = {image_id for image_id, (size, _) in pairs.items() if size == common}
    scaled = {
        image_id: round(100 * max(size) / max(original))
        for image_id, (size, original) in pairs.items()
        if image_id not in same and _in_proportion(size, original)
    }
    if 2 * max(len(equal), len(scaled)) <= len(pairs):
        return "", same
    if len(equal) >= len(scaled):
        return _text(common), equal
    percent = sorted({min(scaled.values()), max(scaled.values())})
    return f"{'–'.join(map(str, percent))} % of their size", set(scaled)


def _in_proportion(size: Size, original: Size) -> bool:
    # Each side may be rounded by up to a pixel.
    return abs(size[0] * original[1] - size[1] * original[0]) <= max(original)


def _text(size: Size) -> str:
    return f"{size[0]} × {size[1]}"
