from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lungseg_utils.evaluation.intervals import bootstrap_means, count_patients


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def names(count: int, prefix: str = "patient") -> np.ndarray:
    return np.array([f"{prefix}{number:03d}" for number in range(count)])


def test_agrees_with_scipy_where_every_case_is_a_patient_of_one_source(random):
    values = random.beta(20, 2, size=40)
    low, high = bootstrap_means(values[:, None], names(40), np.repeat("one", 40), resamples=30_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=30_000, method="percentile", rng=random
    ).confidence_interval
    # Both ends are drawn: the tolerance is six of their own standard errors.
    spread = values.std() / np.sqrt(40)
    assert low[0] == pytest.approx(theirs.low, abs=0.13 * spread)
    assert high[0] == pytest.approx(theirs.high, abs=0.13 * spread)


def test_agrees_with_a_plain_loop_over_patients_within_sources(random):
    patients = np.array(["a", "a", "b", "b", "b", *names(10), *names(6, "other")])
    strata = np.array(["m"] * 15 + ["s"] * 6)
    values = random.normal(size=21)
    members = {
        stratum: [
            values[(patients == patient) & (strata == stratum)]
            for patient in np.unique(patients[strata == stratum])
        ]
        for stratum in ("m", "s")
    }
    means = []
    for _ in range(4000):
        drawn = [
            group[number]
            for group in members.values()
            for number in random.integers(len(group), size=len(group))
        ]
        means.append(np.concatenate(drawn).mean())
    low, high = bootstrap_means(values[:, None], patients, strata)
    wanted = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose([low[0], high[0]], wanted, atol=0.1 * np.std(means))


def test_a_second_image_of_each_patient_adds_no_certainty(random):
    values, strata = random.normal(size=(15, 2)), np.repeat("one", 15)
    once = bootstrap_means(values, names(15), strata)
    twice = bootstrap_means(
        np.repeat(values, 2, axis=0), np.repeat(names(15), 2), np.repeat(strata, 2)
    )
    np.testing.assert_allclose(once, twice)


def test_no_interval_under_ten_patients():
    strata = np.repeat("one", 18)
    nine = np.repeat(names(9), 2)
    assert np.isnan(bootstrap_means(np.ones((18, 2)), nine, strata)).all()
    assert count_patients(nine, strata) == 9
    ten = np.where(np.arange(18) == 0, "another", nine)
    assert np.isfinite(bootstrap_means(np.ones((18, 2)), ten, strata)).all()


def test_about_95_of_100_intervals_hold_the_truth(random):
    strata = np.repeat("one", 40)
    samples = random.normal(size=(40, 400))
    low, high = bootstrap_means(samples, names(40), strata, resamples=2000)
    assert 0.90 < ((low < 0) & (high > 0)).mean() < 0.98
