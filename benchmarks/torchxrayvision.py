"""Films a second of ours and of torchxrayvision's PSPNet, from a film's file to its mask.

torchxrayvision gets an environment of its own:

    python -m venv ENV && ENV/bin/pip install torch torchxrayvision
    python -m benchmarks.torchxrayvision --data BUNDLE --python ENV/bin/python

Its weights are random, as the time does not depend on them: none are fetched. Other work on the
machine slows PSPNet's threads, which wait for each other, more than ours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

# What is ours is imported late: torchxrayvision's environment has none of it.

TURNS = 3
GOAL = 5.0
_SIZE = 512
_WEIGHTS = "pspnet_chestxray_best_model_4.pth"
_MEASURE = "from benchmarks.torchxrayvision import measure_pspnet; measure_pspnet()"


def measure_pspnet() -> None:
    """Print the films a second of PSPNet, once one film has warmed it up.

    Read from the command line: the folder of the films, and the number of cores.
    """
    import torch

    films, cores = sorted(Path(sys.argv[1]).iterdir()), int(sys.argv[2])
    torch.set_num_threads(cores)
    model = random_pspnet()
    segment(model, films[0])
    begun = time.perf_counter()
    for film in films:
        segment(model, film)
    print(len(films) / (time.perf_counter() - begun))


def random_pspnet():
    """PSPNet as the package builds it, given weights that no training has seen.

    Returns:
        A `torch.nn.Module`: float32 `(1, 512, 512)` in [-1024, 1024] to 14 structures' logits
        `(1, 14, 512, 512)`.
    """
    import torch
    from torchxrayvision.baseline_models.chestx_det import PSPNet, pspnet

    weights = pspnet(len(PSPNet.targets)).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        # Names as of the published file, which was trained on several GPUs.
        named = {f"module.{name}": value for name, value in weights.items()}
        torch.save(named, Path(folder) / _WEIGHTS)
        return PSPNet(cache_dir=folder)


def segment(model, film: Path):
    """The lungs in a film, in the steps of torchxrayvision's notebook on segmentation.

    Args:
        model: From `random_pspnet`.
        film: 8-bit, grey or colour.

    Returns:
        A bool tensor `(512, 512)`.
    """
    import skimage.io
    import torch
    import torchvision
    import torchxrayvision

    datasets = torchxrayvision.datasets
    image = datasets.normalize(skimage.io.imread(film), 255)
    image = (image.mean(2) if image.ndim == 3 else image)[None]
    steps = [datasets.XRayCenterCrop(), datasets.XRayResizer(_SIZE)]
    image = torch.from_numpy(torchvision.transforms.Compose(steps)(image))
    with torch.no_grad():
        probability = torch.sigmoid(model(image))[0]
    lungs = [model.targets.index(name) for name in ("Left Lung", "Right Lung")]
    return (probability[lungs] > 0.5).any(0)


def pspnet_rate(python: str, films: Path, cores: int) -> float:
    """Films a second of PSPNet, in a process of its environment."""
    from benchmarks.speed import REPOSITORY

    command = [python, "-c", _MEASURE, str(films), str(cores)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    """Print both rates; returns 1 where ours is not so many times the other."""
    from benchmarks.speed import (
        REPOSITORY,
        core_count,
        describe_machine,
        films_a_second,
        lay_out,
        spread,
    )
    from lungseg_utils.bundle import IMAGE_FOLDER, find_bundle, list_bundle_images

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the bundle, with CXR_png")
    parser.add_argument("--python", required=True, help="of torchxrayvision's environment")
    parser.add_argument("--films", type=int, default=24)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    images = list_bundle_images(find_bundle(options.data) / IMAGE_FOLDER)
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as place:
        films = lay_out(spread(images, options.films), options.films, Path(place) / "films")
        for turn in range(TURNS):
            theirs.append(pspnet_rate(options.python, films, core_count()))
            ours.append(films_a_second(REPOSITORY, films, "mask", fast=True))
            print(f"turn {turn + 1}: {theirs[-1]:.2f} and {ours[-1]:.2f} films/s", flush=True)
    ratio = median(ours) / median(theirs)
    print(f"{options.films} films, median of {TURNS} turns")
    print(f"PSPNet of torchxrayvision: {median(theirs):.2f} films/s")
    print(f"U-Net of lungseg_utils: {median(ours):.2f} films/s")
    print(f"{ratio:.1f} × (goal ≥ {GOAL} ×: {'yes' if ratio >= GOAL else 'no'})")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
