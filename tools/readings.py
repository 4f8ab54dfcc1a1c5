"""The clinical readings that come with the X-rays: sex, age and finding."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lungseg_utils.errors import LungsegError

_DAYS_PER_YEAR = 365.25
_UNIT = r"(?P<unit>[ymwd])(?:rs?|ears?|os?|onths?|eeks?|ays?)?"
_AGE = rf"(?P<age>\d{{1,5}})(?:[ \t]*{_UNIT})?\b\.?"
# Montgomery: "Patient's Sex: F", "Patient's Age: 027Y", then the finding.
_MONTGOMERY = re.compile(
    r"\s*patient'?s\s+sex\s*:\s*(?P<sex>\w+)\s+patient'?s\s+age\s*:\s*" + _AGE + r"(?P<finding>.*)",
    re.IGNORECASE | re.DOTALL,
)
# Shenzhen: "male 45yrs", then the finding; also "femal 32yrs", "Female, 28yrs", "female24yrs".
_SHENZHEN = re.compile(
    r"\s*(?P<sex>[a-z]+)[\s,;:]*" + _AGE + r"(?P<finding>.*)", re.IGNORECASE | re.DOTALL
)
_FORMATS = {"montgomery": _MONTGOMERY, "shenzhen": _SHENZHEN}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "femal": "F", "o": ""}
_UNITS_PER_YEAR = {"y": 1.0, "m": 12.0, "w": _DAYS_PER_YEAR / 7, "d": _DAYS_PER_YEAR}


@dataclass(frozen=True)
class Reading:
    """What a clinical reading says.

    Args:
        sex: `M`, `F`, or empty where it is neither.
        age_years: Age in completed years.
        finding: The radiologist's words in one line; `normal` for a healthy chest.
    """

    sex: str
    age_years: int
    finding: str


def parse_reading(text: str, source: str) -> Reading:
    """Parse the text of a reading.

    Args:
        text: Content of `ClinicalReadings/<image_id>.txt`.
        source: `montgomery` or `shenzhen`; each has its own format.

    Returns:
        The reading. Ages in months, weeks and days are turned into completed years; an age
        without a unit is in years.

    Raises:
        LungsegError: The text has not the source's format.
    """
    match = _FORMATS[source].match(text.lstrip("\ufeff").replace("’", "'"))
    sex = _SEXES.get(match["sex"].lower()) if match else None
    if match is None or sex is None:
        raise LungsegError(
            f"A reading of {source} begins with sex and age.",
            repr(text[:80]),
            "Compare the file with the data set's; it may be damaged.",
        )
    age_years = int(int(match["age"]) / _UNITS_PER_YEAR[(match["unit"] or "y").lower()])
    return Reading(sex, age_years, " ".join(match["finding"].split()))
