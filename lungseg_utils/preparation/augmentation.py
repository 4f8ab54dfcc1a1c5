"""Random changes of an X-ray together with its mask, which stays exactly {0, 1}."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from lungseg_utils.errors import InvalidValueError, check_known

# The effects of `lungseg_utils.preparation.effects` that are drawn, in the order they are applied.
EFFECTS = ("opacity", "objects", "shade", "blur", "coarsen", "sharpen", "noise")
# Blur and loss of resolution are counted in pixels of an image of this side, and grow with the
# image: what hides a rib at 256 has to hide it at 512.
COUNTED_AT = 256

# Each option's smallest and largest value.
_RANGES = {
    "rotation": (0, 180),
    "zoom": (0, 0.9),
    "stretch": (0, 0.9),
    "shift": (0, 1),
    "padding": (0, 1),
    "padding_probability": (0, 1),
    "flip": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "gamma": (0, 3),
    "invert": (0, 1),
    "effects": (0, 1),
    "opacity": (0, 1),
    "objects": (0, 100),
    "shade": (0, 1),
    "blur": (0, 100),
    "coarsen": (0, 100),
    "sharpen": (0, 10),
    "noise": (0, 1),
    "jitter": (0, 4096),
    "bedside": (0, 1),
}
_WHOLE = ("objects", "jitter")


@dataclass(frozen=True)
class Augmentation:
    """How far an X-ray and its mask are changed at random; every draw is uniform.

    Geometry is one affine warp, linear for the X-ray and nearest for the mask; what comes from
    outside the frame is not lung, and black or, where a border repeats the frame's edge, repeats
    it too. Then come what may befall a film: opacities in the lungs and objects, exposure, and the
    texture of another machine (`effects`). The mask follows the geometry alone.

    Args:
        rotation: Largest angle, in degrees, either way.
        zoom: Largest change of scale, either way: 0.15 gives scales 0.85 to 1.15.
        stretch: Largest change of width against height, either way, as `zoom` counts it: chests
            of other proportions, and frames squashed to a square from other shapes.
        shift: Largest shift along each axis, as a fraction of the side, either way.
        padding: Widest border added on each side, as a fraction of that side; the frame shrinks
            to make room. The border is black or repeats the frame's edge, each half of the time.
        padding_probability: How often a border is added.
        flip: How often left and right are exchanged.
        brightness: Largest change of level, as a fraction of the full range, either way.
        contrast: Largest change of slope about mid-grey, either way.
        gamma: Largest exponent of two in level^(2^g), either way.
        invert: How often black and white are exchanged, so that the lungs are bright.
        effects: How often each of the effects below happens, on its own.
        opacity: Greatest density of opacities in the lungs; 1 hides the lung there.
        objects: Most tubes, electrodes, plates and texts drawn; at least one is.
        shade: Greatest share of the level taken away towards one side of the film.
        blur: Greatest standard deviation of a Gaussian, in pixels of an image of 256.
        coarsen: Greatest loss of resolution: an image of 256 is shrunk by up to 1 + this, and an
            image of another side by up to 1 + this × side / 256.
        sharpen: Greatest amount of an unsharp mask.
        noise: Greatest standard deviation of Gaussian noise, as a fraction of the full range.
        jitter: Pixels by which the X-ray is enlarged before a crop of its own size is taken at
            random: 30 at 256 is the 286 → 256 of Pix2Pix (Isola et al. 2017, section 6.2).
        bedside: How often a film is made one of the very ill, as `bedside.simulate` does.
    """

    rotation: float = 15.0
    zoom: float = 0.25
    stretch: float = 0.15
    shift: float = 0.1
    padding: float = 0.15
    padding_probability: float = 0.2
    flip: float = 0.5
    brightness: float = 0.15
    contrast: float = 0.4
    gamma: float = 0.8
    invert: float = 0.02
    effects: float = 0.2
    opacity: float = 1.0
    objects: int = 4
    shade: float = 0.8
    blur: float = 2.0
    coarsen: float = 1.5
    sharpen: float = 1.5
    noise: float = 0.08
    jitter: int = 0
    bedside: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high or (name in _WHOLE and value != int(value)):
                kind = "a whole number" if name in _WHOLE else "a number"
                raise InvalidValueError(
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

        from lungseg_utils.preparation import bedside, effects

        matrix, repeat_edge = self._draw_geometry(*image.shape, rng)
        exposure, inverted = self._draw_exposure(rng)
        drawn = self._draw_effects(rng)
        ill, seed = rng.random() < self.bedside, int(rng.integers(0, 2**62))
        if not np.array_equal(matrix, np.eye(3)):
            size, inverse = image.shape[::-1], cv2.WARP_INVERSE_MAP
            border = cv2.BORDER_REPLICATE if repeat_edge else cv2.BORDER_CONSTANT
            image = cv2.warpAffine(
                image, matrix[:2], size, flags=cv2.INTER_LINEAR | inverse, borderMode=border
            )
            mask = cv2.warpAffine(mask, matrix[:2], size, flags=cv2.INTER_NEAREST | inverse)
        if ill:
            image, mask = bedside.simulate(image, mask, np.random.default_rng(seed))
        image = _add_to_the_patient(image, mask, drawn)
        image = effects.expose(image, *exposure)
        if inverted:
            image = 255 - image
        return _take_the_film(image, drawn), mask

    def to_dict(self) -> dict[str, float]:
        """Plain values for a run's record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Augmentation:
        """Read what `to_dict` wrote; an option that it did not know yet is off.

        Raises:
            InvalidValueError: An option is unknown.
        """
        known = [field.name for field in fields(cls)]
        check_known(values, known, "An option of the augmentation")
        return cls(**{**dict.fromkeys(known, 0), **values})

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
        # Width and height change against each other, and their product stays.
        stretched = (1 + rng.uniform(-1, 1) * self.stretch) ** 0.5

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
        scale = 1 + zoom * self.zoom
        narrowed = _scaling((1 / (scale * stretched), stretched / scale))
        turn = _turning(angle * self.rotation) @ narrowed
        matrix = _shifting(centre) @ turn @ _shifting(-centre - shift) @ matrix
        # Pixel numbers instead of edges: half a pixel off.
        matrix = _shifting((-0.5, -0.5)) @ matrix @ _shifting((0.5, 0.5))
        return matrix.round(9), bool(padded and repeat_edge)

    def _draw_exposure(self, rng: np.random.Generator) -> tuple[tuple[float, float, float], bool]:
        """Draw brightness, contrast and gamma, and whether black and white change places."""
        brightness, contrast, gamma = rng.uniform(-1, 1, 3) * (
            self.brightness,
            self.contrast,
            self.gamma,
        )
        return (brightness, contrast, gamma), bool(rng.random() < self.invert)

    def _draw_effects(self, rng: np.random.Generator) -> dict[str, tuple[float, int]]:
        """Draw which effects happen, how strongly, and the seed of each one's pattern."""
        happens = rng.random(len(EFFECTS)) < self.effects
        strengths = rng.random(len(EFFECTS))
        seeds = rng.integers(0, 2**62, len(EFFECTS))
        return {
            name: (float(strength) * getattr(self, name), int(seed))
            for name, happened, strength, seed in zip(
                EFFECTS, happens, strengths, seeds, strict=True
            )
            if happened and getattr(self, name)
        }


NONE = Augmentation(**dict.fromkeys(_RANGES, 0))
FLIP = replace(NONE, flip=0.5)
# Small changes of place and exposure, as most projects make them: no effects.
MILD = replace(
    NONE,
    rotation=10,
    zoom=0.15,
    shift=0.08,
    padding=0.1,
    padding_probability=0.1,
    flip=0.5,
    brightness=0.1,
    contrast=0.2,
    gamma=0.2,
)
STRONG = Augmentation()
BEDSIDE = replace(STRONG, bedside=0.5)
PRESETS = {"none": NONE, "flip": FLIP, "mild": MILD, "strong": STRONG, "bedside": BEDSIDE}


def get_augmentation(name: str) -> Augmentation:
    """Return the augmentation of a name: "none", "flip", "mild", "strong" or "bedside".

    Raises:
        InvalidValueError: There is no such augmentation.
    """
    check_known(name, PRESETS, "The augmentation")
    return PRESETS[name]


def _add_to_the_patient(
    image: np.ndarray, mask: np.ndarray, drawn: dict[str, tuple[float, int]]
) -> np.ndarray:
    """Opacities and objects: what the beam meets."""
    from lungseg_utils.preparation import effects

    if "opacity" in drawn:
        density, seed = drawn["opacity"]
        image = effects.add_opacities(image, mask, density, np.random.default_rng(seed))
    if "objects" in drawn:
        count, seed = drawn["objects"]
        image = effects.add_objects(image, math.ceil(count), np.random.default_rng(seed))
    return image


def _take_the_film(image: np.ndarray, drawn: dict[str, tuple[float, int]]) -> np.ndarray:
    """Shading, sharpness and noise: what the machine makes of it."""
    from lungseg_utils.preparation import effects

    grown = image.shape[0] / COUNTED_AT
    if "shade" in drawn:
        strength, seed = drawn["shade"]
        image = effects.shade(image, strength, np.random.default_rng(seed))
    if "blur" in drawn:
        image = effects.blur(image, drawn["blur"][0] * grown)
    if "coarsen" in drawn:
        image = effects.coarsen(image, 1 + drawn["coarsen"][0] * grown)
    if "sharpen" in drawn:
        image = effects.sharpen(image, drawn["sharpen"][0])
    if "noise" in drawn:
        deviation, seed = drawn["noise"]
        image = effects.add_noise(image, deviation, np.random.default_rng(seed))
    return image


def _shifting(by: np.ndarray | tuple[float, float]) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def _scaling(by: np.ndarray | tuple[float, float]) -> np.ndarray:
    return np.diag([*by, 1.0])


def _turning(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
