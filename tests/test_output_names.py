"""No two inputs share an output, also where upper and lower case are the same."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungseg_utils.segment.output_names import name_outputs


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg", "more/a.png"], ["a", "b", "more/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a.png", "a.png.png"], ["a.jpg", "a.png-2", "a.png"]),
        (["A.png", "a.png", "a.png-2.jpg"], ["A.png", "a.png-3", "a.png-2"]),
        (["A.PNG", "A.png", "a.png"], ["A.PNG", "A.png-2", "a.png-3"]),
    ],
)
def test_outputs_are_called_as_their_files_and_told_apart(files, names):
    assert name_outputs([PurePosixPath(file) for file in files]) == names


parts = st.text("aA", min_size=1, max_size=2)
file_names = st.builds(".".join, st.lists(parts | st.just("png-2"), min_size=2, max_size=4))


@given(st.lists(file_names, unique=True, max_size=12))
def test_no_two_outputs_share_a_name_whatever_the_case(files):
    names = name_outputs([PurePosixPath(file) for file in files])
    assert len({name.casefold() for name in names}) == len(files)
