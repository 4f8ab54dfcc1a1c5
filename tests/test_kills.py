"""A handful of processes killed at random; `make soak` kills hundreds."""

from __future__ import annotations

import shutil

from soak import kills
from soak.comparison import differences
from soak.stages import STAGES


def test_what_is_killed_at_random_points_ends_as_if_undisturbed(tmp_path):
    outcome = kills.run(4, tmp_path)

    assert outcome["lost"] == []
    assert sum(outcome["kills"].values()) >= 4
    assert set(outcome["kills"]) == set(STAGES)

    # That a loss would be seen:
    undisturbed, other = tmp_path / "undisturbed", tmp_path / "other"
    shutil.copytree(undisturbed, other)
    assert differences(undisturbed, other) == []
    (other / "prepared" / "32" / "masks.npy").write_bytes(b"half")
    (other / "runs" / "unet" / "best.weights.h5").unlink()
    (other / "runs" / ".unet.lock").mkdir()
    assert sorted(differences(undisturbed, other)) == [
        "prepared/32/masks.npy differs",
        "runs/.unet.lock was left",
        "runs/unet/best.weights.h5 is missing",
    ]
