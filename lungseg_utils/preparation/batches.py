"""Prepared cases as shuffled, augmented batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.preparation.imaging import to_model_input

if TYPE_CHECKING:
    from lungseg_utils.preparation.augmentation import Augmentation
    from lungseg_utils.preparation.cases import Cases
    from lungseg_utils.preparation.imaging import Preprocessing


class CaseBatches:
    """Batches of X-rays and masks; each is a function of seed, epoch and number alone.

    So a training that resumes at any epoch sees what it would have seen without the interruption,
    in any order and from any number of threads.

    Args:
        cases: With masks; all are held in memory, preprocessed once.
        batch_size: Cases a batch; the last one may be smaller.
        augmentation: Drawn anew for every case in every epoch.
        preprocessing: Applied to every X-ray before augmentation.
        seed: At least 0.
        shuffle: Whether each epoch has its own order; without, the order of `cases`.

    Raises:
        InvalidValueError: There is no case, one has no mask, or a number is out of range.
    """

    def __init__(
        self,
        cases: Cases,
        batch_size: int,
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        _check(cases, batch_size, seed)
        self.images = preprocessing.apply_all(cases.images)
        self.masks = np.array(cases.masks)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch.

        Args:
            epoch: From 0.
            index: Number of the batch in its epoch, from 0.

        Returns:
            X-rays float32 (B, H, W, 1) in [0, 1] and masks float32 {0, 1} (B, H, W, 1).

        Raises:
            InvalidValueError: The epoch has no such batch.
        """
        if not 0 <= index < len(self) or epoch < 0:
            raise InvalidValueError(
                f"Epochs count from 0, their batches from 0 to {len(self) - 1}.",
                f"epoch {epoch}, batch {index}",
                "Ask for a batch that exists.",
            )
        rows = self._order(epoch)[index * self.batch_size :][: self.batch_size]
        images = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        masks = np.empty_like(images)
        for place, row in enumerate(rows):
            # Number 0 is the epoch's order; each case has its own number after that.
            rng = np.random.default_rng([self.seed, epoch, 1 + int(row)])
            images[place], masks[place] = self.augmentation.apply(
                self.images[row], self.masks[row], rng
            )
        return to_model_input(images), masks.astype(np.float32)[..., np.newaxis]

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.images))
        return np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.images))


def _check(cases: Cases, batch_size: int, seed: int) -> None:
    if batch_size < 1 or seed < 0:
        raise InvalidValueError(
            "A batch has at least one case, and a seed is at least 0.",
            f"batch_size {batch_size}, seed {seed}",
            "Correct the numbers.",
        )
    without = cases.index.loc[cases.index["has_mask"] == 0, "image_id"].tolist()
    if without or not len(cases):
        listed = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if without[5:] else "")
        raise InvalidValueError(
            "Batches are made of cases with a lung mask.",
            f"{len(without)} without: {listed}" if without else "no case",
            "Select a split that has masks, such as cases.select('train').",
        )
