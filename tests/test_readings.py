from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungseg_utils.errors import LungsegError
from tools.readings import Reading, parse_reading


def test_montgomery():
    text = "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n"
    assert parse_reading(text, "montgomery") == Reading("F", 27, "normal")


def test_shenzhen():
    assert parse_reading("male 45yrs\nnormal", "shenzhen") == Reading("M", 45, "normal")


@pytest.mark.parametrize(
    ("text", "sex", "age_years"),
    [
        ("femal 32yrs\nnormal", "F", 32),
        ("Female, 28yrs\nnormal", "F", 28),
        ("female24yrs\nnormal", "F", 24),
        ("male 16month\nnormal", "M", 1),
        ("female 11month\nnormal", "F", 0),
        ("male 24 months\nnormal", "M", 2),
        ("male 64days\nnormal", "M", 0),
        ("male 366days\nnormal", "M", 1),
        ("male 30weeks\nnormal", "M", 0),
        ("  MALE  7 yr.\r\nnormal\r\n", "M", 7),
        ("male 42\nnormal", "M", 42),
        ("\ufefffemale 0yrs\nnormal", "F", 0),
    ],
)
def test_oddities_of_shenzhen(text: str, sex: str, age_years: int):
    assert parse_reading(text, "shenzhen") == Reading(sex, age_years, "normal")


@pytest.mark.parametrize(
    ("text", "sex", "age_years"),
    [
        ("Patient's Sex: M  \r\nPatient's Age: 008M \r\nnormal", "M", 0),
        ("patient’s sex:F\npatient’s age:110Y\nnormal", "F", 110),
        ("Patient's Sex: O\nPatient's Age: 040Y\nnormal", "", 40),
    ],
)
def test_oddities_of_montgomery(text: str, sex: str, age_years: int):
    assert parse_reading(text, "montgomery") == Reading(sex, age_years, "normal")


def test_the_finding_is_one_line():
    text = "male 30yrs\n\n1.secondary PTB  in the right\n upper field;\n2.adhesions \n"
    finding = parse_reading(text, "shenzhen").finding
    assert finding == "1.secondary PTB in the right upper field; 2.adhesions"


def test_a_finding_may_begin_with_a_number_or_be_absent():
    assert parse_reading("male 30yrs\n2 nodules", "shenzhen").finding == "2 nodules"
    assert parse_reading("male 30yrs", "shenzhen").finding == ""


def test_a_finding_beside_the_age_is_not_taken_for_a_unit():
    assert parse_reading("male 42 miliary TB", "shenzhen") == Reading("M", 42, "miliary TB")


@pytest.mark.parametrize("source", ["montgomery", "shenzhen"])
@pytest.mark.parametrize("text", ["", "normal", "child 3yrs\nnormal", "male old", "male 30parsecs"])
def test_another_text_is_refused_and_shown(source: str, text: str):
    with pytest.raises(LungsegError, match="begins with sex and age") as caught:
        parse_reading(text, source)
    assert caught.value.received == repr(text)


def test_one_format_is_not_the_other():
    with pytest.raises(LungsegError, match="montgomery"):
        parse_reading("male 45yrs\nnormal", "montgomery")
    with pytest.raises(LungsegError, match="shenzhen"):
        parse_reading("Patient's Sex: F\nPatient's Age: 027Y\nnormal", "shenzhen")


@given(st.integers(0, 9), st.integers(0, 11))
def test_months_count_as_completed_years(years: int, months: int):
    text = f"female {12 * years + months}month\nnormal"
    assert parse_reading(text, "shenzhen").age_years == years


@pytest.mark.parametrize(
    ("days", "age_years"), [(0, 0), (365, 0), (366, 1), (730, 1), (731, 2), (1460, 3), (1461, 4)]
)
def test_days_count_as_completed_years(days: int, age_years: int):
    assert parse_reading(f"male {days}days", "shenzhen").age_years == age_years
