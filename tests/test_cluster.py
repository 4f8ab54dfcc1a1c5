"""Films segmented by a Ray cluster: the same as on one machine, also where a worker dies."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lungseg_utils import cluster
from lungseg_utils.__main__ import lungseg
from lungseg_utils.cluster import PARQUET
from lungseg_utils.phantom.film import render_phantom

ray = pytest.importorskip("ray")
FILMS = 40


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Phantoms, one of them in a folder, and a file that is no film."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    for seed in range(FILMS - 1):
        image, _ = render_phantom(np.random.default_rng(seed), (96, 128))
        Image.fromarray(image).save(folder / ("more/last.png" if not seed else f"{seed:02}.png"))
    (folder / "broken.png").write_bytes(b"no film")
    return folder


@pytest.fixture(scope="module")
def alone(films, tmp_path_factory) -> pd.DataFrame:
    """What one machine makes of them, without the seconds it took."""
    out = tmp_path_factory.mktemp("alone")
    assert lungseg([str(films), str(out), "--fast"]) == 1
    return pd.read_csv(out / "lungs.csv").set_index("file").drop(columns="seconds")


@pytest.fixture
def two_workers(monkeypatch):
    """A cluster of a head that does nothing and two workers of a core each, in this process."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(cluster.__file__).parents[1]))
    monkeypatch.setattr(cluster, "_FILMS_A_BLOCK", 16)
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [machines.add_node(num_cpus=1) for _ in range(2)]
    yield machines, workers
    ray.shutdown()
    machines.shutdown()


def test_a_worker_that_dies_loses_no_film_and_makes_none_twice(films, alone, two_workers, tmp_path):
    machines, workers = two_workers

    def kill_once_at_work() -> None:
        while len(list((tmp_path / "masks").rglob("*.png"))) < 4:
            time.sleep(0.02)
        machines.remove_node(workers[0], allow_graceful=False)

    killer = threading.Thread(target=kill_once_at_work)
    killer.start()
    assert lungseg([str(films), str(tmp_path), "--fast", "--ray", machines.address]) == 1
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert wait_until(lambda: sum(node["Alive"] for node in ray_nodes(machines)) == 2)

    blocks = sorted((tmp_path / PARQUET).iterdir())
    assert [block.name for block in blocks] == [f"{number:06}.parquet" for number in range(3)]
    table = pd.read_parquet(tmp_path / PARQUET)
    assert not table["file"].duplicated().any()
    assert_same(table, alone)
    assert len(list((tmp_path / "masks").rglob("*_mask.png"))) == FILMS - 1
    counts = json.loads((tmp_path / "run.json").read_text())["counts"]
    assert counts == {"films": FILMS, "segmented": FILMS - 1, "failed": 1}


def test_finished_blocks_are_kept_and_the_rest_is_made(films, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_FILMS_A_BLOCK", 16)
    call = [str(films), str(tmp_path), "--save", "mask", "--ray", "local"]
    assert lungseg([*call, "--fast"]) == 1
    kept, lost, _ = sorted((tmp_path / PARQUET).iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    for mask in (tmp_path / "masks").glob("*.png"):
        mask.unlink()

    assert lungseg([*call, "--fast"]) == 1

    assert kept.stat().st_mtime_ns == before
    assert_same(pd.read_parquet(tmp_path / PARQUET), alone)
    made = {path.name.removesuffix("_mask.png") for path in (tmp_path / "masks").glob("*.png")}
    assert made == {Path(file).stem for file in pd.read_parquet(lost)["file"]} - {"broken"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--network", "pix2pix"], "network, weights_sha256"),
        (["--save", "labels"], "save"),
        (["--save", "gallery"], "A gallery is a page of the films of one machine"),
    ],
)
def test_what_cannot_go_on_is_refused(films, tmp_path, capsys, change, told):
    segmenter = cluster.Segmenter.load("unet", fast=True)
    (tmp_path / "record.json").write_text(
        json.dumps(segmenter._parameters() | {"deidentified": False, "save": ["mask"]})
    )

    call = [str(films), str(tmp_path), "--ray", "local", "--save", "mask", *change, "--fast"]
    assert lungseg([*call, "--fast"]) == 2

    assert told in capsys.readouterr().err


def assert_same(table: pd.DataFrame, alone: pd.DataFrame) -> None:
    as_csv = io.StringIO(table.drop(columns="seconds").to_csv(index=False))
    found = pd.read_csv(as_csv).set_index("file").loc[alone.index]
    pd.testing.assert_frame_equal(found, alone)


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> bool:
    """The head of a cluster hears of a death some time after it."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.2)
    return held


def ray_nodes(machines) -> list[dict]:
    ray.init(machines.address, log_to_driver=False, ignore_reinit_error=True)
    return ray.nodes()
