"""Confidence intervals of means over cases, by resampling patients."""

from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
MINIMUM_PATIENTS = 10


def bootstrap_means(
    values: np.ndarray,
    patients: np.ndarray,
    strata: np.ndarray,
    resamples: int = RESAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of the columns' means.

    Whole patients are drawn with replacement, within each stratum as many as it has, so that
    several X-rays of one patient stand or fall together and the mix of sources stays as it is. The
    same draws serve all columns; they depend on the patients alone, not on the cases' order.
    The intervals cover the sampling of cases, not of trainings. (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, chapters 8 and 13.) For a paired comparison pass the differences.

    Args:
        values: Finite floats (N, K): a row a case, a column a quantity.
        patients: Patient groups (N,).
        strata: Sources (N,).
        resamples: How many resamples.

    Returns:
        Lower and upper bounds, float64 (K,) each; NaN where there are fewer than 10 patients.
    """
    values = np.asarray(values, np.float64)
    units, unit_of = _units(patients, strata)
    if len(units) < MINIMUM_PATIENTS:
        missing = np.full(values.shape[1], np.nan)
        return missing, missing.copy()
    sums = np.zeros((len(units), values.shape[1]))
    np.add.at(sums, unit_of, values)
    cases = np.bincount(unit_of, minlength=len(units))
    times = draw_patients([stratum for stratum, _ in units], resamples, SEED)
    means = (times @ sums) / (times @ cases)[:, None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def count_patients(patients: np.ndarray, strata: np.ndarray) -> int:
    """Number of different patients."""
    return len(_units(patients, strata)[0])


def draw_patients(strata: list[str], resamples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn in each resample.

    Args:
        strata: The stratum of each patient, (P,).
        resamples: Number of resamples R.
        seed: Of the draws.

    Returns:
        float64 (R, P) of whole numbers; each row sums to the stratum's size within each stratum.
    """
    random = np.random.default_rng(seed)
    strata = np.asarray(strata)
    times = np.zeros((resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = random.integers(len(members), size=(resamples, len(members)))
        drawn += len(members) * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * len(members))
        times[:, members] = counts.reshape(resamples, len(members))
    return times


def _units(patients: np.ndarray, strata: np.ndarray) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Patients sorted by stratum and name, and the position of each case's patient."""
    pairs = list(zip(map(str, strata), map(str, patients), strict=True))
    units = sorted(set(pairs))
    position = {unit: number for number, unit in enumerate(units)}
    return units, np.array([position[pair] for pair in pairs], dtype=np.intp)
