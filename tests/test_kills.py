"""A handful of processes killed at random; `make soak` kills hundreds."""

from __future__ import annotations

import shutil

from soak import kills
from soak.comparison import differences
from soak.stages import STAGES

# Training takes seconds to start; test_survival.py interrupts it within a process.
WITHOUT_TRAINING = STAGES[:-1]


def test_what_is_killed_at_random_points_ends_as_if_undisturbed(tmp_path):
    outcome = kills.run(6, tmp_path, names=WITHOUT_TRAINING)

    assert outcome["lost"] == []
    assert sum(outcome["kills"].values()) >= 6
    assert set(outcome["kills"]) == set(WITHOUT_TRAINING)

    # That a loss would be seen:
    undisturbed, other = tmp_path / "undisturbed", tmp_path / "other"
    shutil.copytree(undisturbed, other)
    assert differences(undisturbed, other) == []
    (other / "prepared" / "32" / "masks.npy").write_bytes(b"half")
    (other / "stitched" / "32.zip").unlink()
    (other / "stitched" / ".32.zip.lock").touch()
    assert sorted(differences(undisturbed, other)) == [
        "prepared/32/masks.npy differs",
        "stitched/.32.zip.lock was left",
        "stitched/32.zip is missing",
    ]
