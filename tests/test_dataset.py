from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lungseg_utils.errors import LungsegError
from lungseg_utils.preparation.augmentation import NONE, Augmentation
from lungseg_utils.preparation.batches import CaseBatches
from lungseg_utils.preparation.cases import Cases
from lungseg_utils.preparation.imaging import Preprocessing

COUNT, SIZE = 11, 24


@pytest.fixture
def cases() -> Cases:
    """X-ray number i holds levels from 20·i to 20·i + 19, so that a batch tells what is in it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 20, (COUNT, SIZE, SIZE), dtype=np.uint8)
    masks = (images > 12).astype(np.uint8)
    images += np.arange(COUNT, dtype=np.uint8)[:, np.newaxis, np.newaxis] * 20
    index = pd.DataFrame({"image_id": [f"case{i}" for i in range(COUNT)], "has_mask": 1})
    return Cases(images, masks, index, "")


def batches_of(cases: Cases, **options) -> CaseBatches:
    defaults = {
        "batch_size": 4,
        "augmentation": Augmentation(),
        "preprocessing": Preprocessing(),
        "seed": 7,
    }
    return CaseBatches(cases, **(defaults | options))


def epoch_of(batches: CaseBatches, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [batches.batch(epoch, index) for index in range(len(batches))]
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def order_in(images: np.ndarray) -> list[int]:
    return [int(np.rint(image.max() * 255)) // 20 for image in images]


def test_batches_are_what_models_read(cases):
    batches = batches_of(cases)
    assert len(batches) == 3
    for index, count in enumerate((4, 4, 3)):
        images, masks = batches.batch(0, index)
        assert images.shape == masks.shape == (count, SIZE, SIZE, 1)
        assert images.dtype == masks.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 1
        assert set(np.unique(masks)) == {0, 1}


def test_every_epoch_holds_every_case_once_in_its_own_order(cases):
    batches = batches_of(cases, augmentation=NONE)
    orders = []
    for epoch in range(4):
        images, masks = epoch_of(batches, epoch)
        order = order_in(images)
        assert sorted(order) == list(range(COUNT))
        assert np.array_equal(masks[..., 0], cases.masks[order])
        orders.append(tuple(order))
    assert len({*orders, tuple(range(COUNT))}) == 5


def test_a_batch_depends_on_seed_epoch_and_number_alone(cases):
    first, second = batches_of(cases), batches_of(cases)
    wanted = [(epoch, index) for epoch in range(3) for index in range(3)]
    expected = {place: first.batch(*place) for place in wanted}
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda place: second.batch(*place), reversed(wanted)))
    for place, batch in zip(reversed(wanted), found, strict=True):
        assert np.array_equal(batch[0], expected[place][0])
        assert np.array_equal(batch[1], expected[place][1])


def test_seeds_and_epochs_differ_in_order_and_in_augmentation(cases):
    def augmented(seed: int, epoch: int) -> np.ndarray:
        return batches_of(cases, seed=seed, shuffle=False).batch(epoch, 0)[0]

    assert len(np.unique(augmented(1, 0).reshape(4, -1), axis=0)) == 4
    assert not np.array_equal(augmented(1, 0), augmented(1, 1))
    assert not np.array_equal(augmented(1, 0), augmented(2, 0))
    assert not np.array_equal(augmented(1, 2), augmented(2, 1))

    def order(seed: int) -> list[int]:
        return order_in(epoch_of(batches_of(cases, seed=seed, augmentation=NONE), 0)[0])

    assert order(1) != order(2)


def test_without_shuffling_cases_come_in_order_and_preprocessed(cases):
    for options in (Preprocessing(), Preprocessing(normalise="minmax")):
        batches = batches_of(cases, preprocessing=options, augmentation=NONE, shuffle=False)
        for epoch in (0, 3):
            images, masks = epoch_of(batches, epoch)
            assert np.abs(images[..., 0] - options.apply_all(cases.images) / 255).max() < 1e-6
            assert np.array_equal(masks[..., 0], cases.masks)
    # The least level becomes 0 first and a brighter 0 after that.
    brighter = replace(NONE, gamma=1)
    images, _ = epoch_of(batches_of(cases, preprocessing=options, augmentation=brighter), 0)
    assert images.min(axis=(1, 2, 3)).tolist() == [0] * COUNT


def test_cases_without_mask_are_refused_by_name(cases):
    cases.index.loc[[2, 5], "has_mask"] = 0
    with pytest.raises(LungsegError, match="2 without: case2, case5"):
        batches_of(cases)
    cases.index["has_mask"] = 0
    with pytest.raises(LungsegError, match=r"11 without: case0, .* and 6 more"):
        batches_of(cases)
    with pytest.raises(LungsegError, match="no case"):
        batches_of(cases.take([]))
