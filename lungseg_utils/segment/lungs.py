"""What is found in a film: the patient's right and left lung, and their figures for the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from lungseg_utils.preparation.imaging import resize_image, resize_probability
from lungseg_utils.segment.films import Film, turn_back, turn_upright
from lungseg_utils.segment.postprocess import SMALLEST_LUNG

RIGHT, LEFT = 1, 2
_SIDES = {"right": RIGHT, "left": LEFT}
# Of training and validation masks, the share of the film is from 0.084 to 0.406; of all but three,
# left to right is from 0.36 to 2.2; and all but two touch less than 0.05 of an edge of the film
# (`python -m benchmarks.film_levels`).
_USUAL_SHARE = 0.08, 0.41
_USUAL_RATIO = 0.3, 2.2
_USUAL_CONTACT = 0.05
# Where lungs are told apart by eroding what joins them, on a copy of this size.
_SMALL_SIDE = 512
_COLUMNS_A_LUNG = {
    "pixels": "Int64",
    "share": "Float64",
    "mm2": "Float64",
    "centroid_x": "Float64",
    "centroid_y": "Float64",
    "box": "string",
}
LUNG_COLUMNS = {
    "width": "Int64",
    "height": "Int64",
    "lung_fraction": "Float64",
    **{f"{side}_{name}": kind for side in _SIDES for name, kind in _COLUMNS_A_LUNG.items()},
    "left_to_right": "Float64",
    "sides": "string",
    "spacing_mm": "string",
    "spacing_source": "string",
    "inverted": "boolean",
    "photometric": "string",
    "greys": "string",
    "view": "string",
    "projection": "string",
    "expected_dice": "Float64",
    "look": "boolean",
    "reason": "string",
    "seconds": "Float64",
    "note": "string",
}


# Okabe and Ito's sky blue and orange, told apart by colour-blind readers: right and left lung.
_COLOURS_BGR = {1: (233, 180, 86), 2: (0, 159, 230)}


@dataclass(frozen=True)
class Segmentation:
    """The lungs found in one film; all arrays lie as the film's file has them.

    Args:
        film: The film as read, with what its file says.
        coarse: float32 (size, size) in [0, 1], the network's answer on the upright film.
        mask: uint8 {0, 1} `(H, W)`, post-processed.
        inverted: Whether black and white are exchanged on this film even after its file has been
            obeyed, so that its lungs are bright; they were then found on its inverse.
        expected_dice: In [0, 1], how well the mask would agree with a reader's; None where other
            networks were not asked.
        doubts: What they, and the mask's outline, have against it, and whether part of it is a
            guess; empty where nothing.
    """

    film: Film
    coarse: np.ndarray
    mask: np.ndarray
    inverted: bool = False
    expected_dice: float | None = None
    doubts: str = ""

    @property
    def image(self) -> np.ndarray:
        """uint8 `(H, W)`, the X-ray as read."""
        return self.film.image

    @property
    def probability(self) -> np.ndarray:
        """float32 `(H, W)` in [0, 1]."""
        orientation = self.film.header.orientation
        height, width = turn_upright(self.image, orientation).shape
        whole = resize_probability(self.coarse, (width, height))
        return np.ascontiguousarray(turn_back(whole, orientation))

    @cached_property
    def labels(self) -> np.ndarray:
        """uint8 `(H, W)`: 1 the patient's right lung, 2 the left, 0 elsewhere."""
        orientation = self.film.header.orientation
        upright = np.ascontiguousarray(turn_upright(self.mask, orientation))
        return np.ascontiguousarray(turn_back(label_lungs(upright), orientation))

    @property
    def sides(self) -> str:
        """What right and left go by."""
        if self.film.header.orientation is None:
            return "as displayed: nothing in the file tells"
        return "NIfTI" if self.film.nifti is not None else "PatientOrientation"

    @property
    def overlay(self) -> np.ndarray:
        """uint8 `(H, W, 3)` RGB: the X-ray with the outlines of right (blue) and left (orange)."""
        return self.draw_overlay()

    def draw_overlay(self, longest_side: int | None = None, fill: float = 0.0) -> np.ndarray:
        """`overlay`, its longer side of at most so many pixels, its lungs filled so densely."""
        image, labels = self.image, self.labels
        scale = min(1.0, (longest_side or max(image.shape)) / max(image.shape))
        if scale < 1:
            size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
            image = resize_image(image, size)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        picture = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        for label, colour in _COLOURS_BGR.items() if fill else ():
            inside = labels == label
            picture[inside] = np.rint((1 - fill) * picture[inside] + fill * np.array(colour))
        width = max(1, round(max(image.shape) / 256))
        for label, colour in _COLOURS_BGR.items():
            lung = cv2.inRange(labels, label, label)
            outlines, _ = cv2.findContours(lung, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour, width, cv2.LINE_AA)
        return picture[..., ::-1]

    @cached_property
    def look(self) -> str:
        """Why somebody should look at the mask; empty where nothing is unusual."""
        right, left = (int((self.labels == label).sum()) for label in (RIGHT, LEFT))
        unusual = _unusual(self.lung_fraction, left / right if right else 0.0, self.mask)
        return "; ".join(filter(None, (unusual, self.doubts)))

    @property
    def lung_fraction(self) -> float:
        """Share of the image that is lung."""
        return cv2.countNonZero(self.mask) / self.mask.size


def label_lungs(mask: np.ndarray) -> np.ndarray:
    """Tell the lungs of a film apart that hangs as usual: the right one on the image's left.

    Two parts that lie beside each other are the lungs. A single part that falls into two such
    parts when its edge is worn away was two lungs that touch; each pixel belongs to the part it is
    nearer to. Else all of it is the lung of that side of the image on which its middle lies.

    Args:
        mask: uint8 {0, 1} (H, W) of at most two parts, as `clean_mask` makes it.

    Returns:
        uint8 (H, W): 0, 1 (the patient's right lung), 2 (the left).
    """
    left, top, width, height = cv2.boundingRect(mask)
    labels = np.zeros_like(mask)
    if not width:
        return labels
    part = slice(top, top + height), slice(left, left + width)
    inside = np.ascontiguousarray(mask[part])
    cores = _beside_each_other(*cv2.connectedComponentsWithStats(inside)[1::2])
    if cores is None:
        cores = _worn_apart(inside, SMALLEST_LUNG * mask.size / 4)
    if cores is None:
        middle = left + cv2.moments(inside, binaryImage=True)["m10"] / inside.sum()
        labels[part] = inside * (RIGHT if middle < (mask.shape[1] - 1) / 2 else LEFT)
    else:
        labels[part] = inside * cores
    return labels


def _beside_each_other(parts: np.ndarray, centroids: np.ndarray) -> np.ndarray | None:
    """Labels of two parts, if there are two and they lie side by side and not one above other."""
    if len(centroids) != 3:
        return None
    across, along = np.abs(centroids[1] - centroids[2])
    if across <= along:
        return None
    first_is_right = centroids[1, 0] < centroids[2, 0]
    return np.array([0, RIGHT, LEFT] if first_is_right else [0, LEFT, RIGHT], np.uint8)[parts]


def _worn_apart(mask: np.ndarray, smallest: float) -> np.ndarray | None:
    """Labels of every pixel by the nearer of two cores; None where no depth leaves two of them."""
    scale = min(1.0, _SMALL_SIDE / max(mask.shape))
    size = [max(1, round(length * scale)) for length in mask.shape[::-1]]
    small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    depth = cv2.distanceTransform(np.pad(small, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    for level in np.arange(1, depth.max(), 1):
        count, parts, figures, centroids = cv2.connectedComponentsWithStats(
            (depth > level).astype(np.uint8)
        )
        areas = figures[1:, cv2.CC_STAT_AREA]
        large = [1 + k for k in range(count - 1) if areas[k] >= smallest * scale**2]
        if not large:
            return None
        if len(large) == 2:
            keep = np.zeros(count, np.int32)
            keep[large] = 1, 2
            cores = _beside_each_other(keep[parts], centroids[[0, *large]])
            return None if cores is None else _grown(cores, mask.shape)
    return None


def _grown(cores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Give every pixel the label of the nearest core, at full size."""
    right, left = (
        cv2.distanceTransform((cores != side).astype(np.uint8), cv2.DIST_L2, 5)
        for side in (RIGHT, LEFT)
    )
    # The border between them is drawn at full size, so that it has no steps.
    nearer = cv2.resize(left - right, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(nearer >= 0, RIGHT, LEFT).astype(np.uint8)


def describe_lungs(result: Segmentation) -> dict[str, object]:
    """A film's row of the table, without the file's name and the time it took.

    Args:
        result: Of the film.

    Returns:
        By the names of `LUNG_COLUMNS`; None where something is not known. Areas are in mm²,
        centroids in pixels from the centre of the first one, boxes `left top width height`.
    """
    header, labels = result.film.header, result.labels
    height, width = labels.shape
    area = header.spacing[0] * header.spacing[1] if header.spacing else None
    row = {"width": width, "height": height}
    pixels = {}
    for side, label in _SIDES.items():
        lung = cv2.inRange(labels, label, label)
        moments, box = cv2.moments(lung, binaryImage=True), cv2.boundingRect(lung)
        pixels[side] = count = int(moments["m00"])
        row |= {
            f"{side}_pixels": count,
            f"{side}_share": round(count / labels.size, 4),
            f"{side}_mm2": round(count * area, 1) if area else None,
            f"{side}_centroid_x": round(moments["m10"] / count, 1) if count else None,
            f"{side}_centroid_y": round(moments["m01"] / count, 1) if count else None,
            f"{side}_box": " ".join(map(str, box)) if count else None,
        }
    ratio = round(pixels["left"] / pixels["right"], 4) if pixels["right"] else None
    share = result.lung_fraction
    return {
        **row,
        "lung_fraction": round(share, 4),
        "left_to_right": ratio,
        "sides": result.sides,
        "spacing_mm": "{:g} × {:g}".format(*header.spacing) if header.spacing else None,
        "spacing_source": header.spacing_source or None,
        "inverted": result.inverted,
        "photometric": header.photometric or None,
        "greys": header.greys or None,
        "view": header.view or None,
        "projection": header.projection or None,
        "expected_dice": result.expected_dice and round(result.expected_dice, 4),
        "look": bool(result.look),
        "reason": result.look or None,
    }


def _unusual(share: float, ratio: float, mask: np.ndarray) -> str:
    """What is unlike all films that the network was trained on, so that somebody should look."""
    if not share:
        return "no lung was found"
    if not ratio:
        return "one lung missing"
    low, high = _USUAL_SHARE
    if not low <= share <= high:
        return f"lungs fill {share:.1%} of the film, which is unusual"
    low, high = _USUAL_RATIO
    if not low <= ratio <= high:
        return f"the left lung has {ratio:.2f} times the right's area"
    return "lungs touch the film's edge" if edge_contact(mask) > _USUAL_CONTACT else ""


def edge_contact(mask: np.ndarray) -> float:
    """Share of that edge of the film which a mask, uint8 {0, 1} (H, W), touches most."""
    return float(max(edge.mean() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])))
