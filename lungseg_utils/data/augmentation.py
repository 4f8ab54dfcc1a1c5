"""Random changes of an X-ray together with its mask, which stays exactly {0, 1}."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np

from lungseg_utils.errors import LungsegError

# Each option's smallest and largest value.
_RANGES = {
    "rotation": (0, 180),
    "zoom": (0, 0.9),
    "shift": (0, 1),
    "padding": (0, 1),
    "padding_probability": (0, 1),
    "flip": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "gamma": (0, 3),
    "jitter": (0, 4096),
}


@dataclass(frozen=True)
class Augmentation:
    """How far an X-ray and its mask are changed at random; every draw is uniform.

    Geometry is one affine warp, linear for the X-ray and nearest for the mask; what comes from
    outside the frame is black and not lung. Exposure then changes through one table of 256 levels.

    Args:
        rotation: Largest angle, in degrees, either way.
        zoom: Largest change of scale, either way: 0.15 gives scales 0.85 to 1.15.
        shift: Largest shift along each axis, as a fraction of the side, either way.
        padding: Widest border added on each side, as a fraction of that side; the frame shrinks
            to make room. The border is black or repeats the frame's edge, each half of the time.
        padding_probability: How often a border is added.
        flip: How often left and right are exchanged.
        brightness: Largest change of level, as a fraction of the full range, either way.
        contrast: Largest change of slope about mid-grey, either way.
        gamma: Largest exponent of two in level^(2^g), either way.
        jitter: Pixels by which the X-ray is enlarged before a crop of its own size is taken at
            random: 30 at 256 is the 286 → 256 of Pix2Pix (Isola et al. 2017, section 6.2).
    """

    rotation: float = 10.0
    zoom: float = 0.15
    shift: float = 0.08
    padding: float = 0.1
    padding_probability: float = 0.1
    flip: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    jitter: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high or (name == "jitter" and value != int(value)):
                kind = "a whole number" if name == "jitter" else "a number"
                raise LungsegError(
                    f"Augmentation's {name} is {kind} from {low} to {high}.",
                    repr(value),
                    "Pass 0 to leave it out.",
                )

    def apply(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change one X-ray and its mask alike.

        Args:
            image: uint8 (H, W).
            mask: uint8 {0, 1} (H, W).
            rng: Where the randomness comes from; the same state gives the same result.

        Returns:
            uint8 (H, W) and uint8 {0, 1} (H, W).
        """
        import cv2

        matrix, repeat_edge = self._draw_geometry(*image.shape, rng)
        levels = self._draw_levels(rng)
        if not np.array_equal(matrix, np.eye(3)):
            size, inverse = image.shape[::-1], cv2.WARP_INVERSE_MAP
            border = cv2.BORDER_REPLICATE if repeat_edge else cv2.BORDER_CONSTANT
            image = cv2.warpAffine(
                image, matrix[:2], size, flags=cv2.INTER_LINEAR | inverse, borderMode=border
            )
            mask = cv2.warpAffine(mask, matrix[:2], size, flags=cv2.INTER_NEAREST | inverse)
        return cv2.LUT(image, levels), mask

    def to_dict(self) -> dict[str, float]:
        """Plain values for a run's record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Augmentation:
        """Read what `to_dict` wrote.

        Raises:
            LungsegError: An option is unknown.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise LungsegError(
                f"Augmentation has the options {', '.join(known)}.",
                ", ".join(unknown),
                "Remove or correct the unknown options.",
            )
        return cls(**values)

    def _draw_geometry(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, bool]:
        """Draw the map from a pixel of the result to its place in the source, in pixels.

        Everything is drawn whether it is used or not, so that one option does not change the
        draws of another.
        """
        angle, zoom, right, down = rng.uniform(-1, 1, 4)
        borders = rng.uniform(0, self.padding, 4)
        padded, flipped = rng.random(2) < (self.padding_probability, self.flip)
        repeat_edge = rng.random() < 0.5
        crop = np.floor(rng.random(2) * (self.jitter + 1))

        side = np.array([width, height])
        centre = side / 2
        # In the result's order: crop, frame within its border, mirror, then the turn about the
        # centre. Edges are at 0 and the side, so that pixel centres lie at halves.
        matrix = _scaling(side / (side + self.jitter)) @ _shifting(crop)
        if padded:
            before, after = borders[:2], borders[2:]
            matrix = _shifting(-before * side) @ _scaling(1 + before + after) @ matrix
        if flipped:
            matrix = _shifting((width, 0)) @ _scaling((-1, 1)) @ matrix
        shift = np.array([right, down]) * self.shift * side
        turn = _turning(angle * self.rotation) @ _scaling((1 / (1 + zoom * self.zoom),) * 2)
        matrix = _shifting(centre) @ turn @ _shifting(-centre - shift) @ matrix
        # Pixel numbers instead of edges: half a pixel off.
        matrix = _shifting((-0.5, -0.5)) @ matrix @ _shifting((0.5, 0.5))
        return matrix.round(9), bool(padded and repeat_edge)

    def _draw_levels(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the table of 256 new levels."""
        brightness, contrast, gamma = rng.uniform(-1, 1, 3)
        levels = np.linspace(0, 1, 256) ** 2 ** (gamma * self.gamma)
        levels = (levels - 0.5) * (1 + contrast * self.contrast) + 0.5
        levels += brightness * self.brightness
        return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)


NONE = Augmentation(**dict.fromkeys(_RANGES, 0))


def _shifting(by: np.ndarray | tuple[float, float]) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def _scaling(by: np.ndarray | tuple[float, float]) -> np.ndarray:
    return np.diag([*by, 1.0])


def _turning(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
