"""Lung segmentation in chest X-rays: U-Net, U-Net++ and Pix2Pix under one protocol.

Public names resolve on first use, so that importing the package loads no library.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = {
    "workspace": ("Workspace", "mount_drive", "open_workspace"),
    "data.manifest": ("load_manifest",),
    "data.pairing": ("pair_bundle",),
    "data.sources": ("fetch",),
    "data.phantom": ("write_phantom_bundle",),
    "data.imaging": ("Preprocessing", "preprocess", "read_image", "read_mask"),
    "data.prepare": ("load_prepared", "prepare"),
    "data.stitching": ("stitch", "unstitch"),
    "data.augmentation": ("Augmentation",),
    "data.dataset": ("CaseBatches",),
    "data.cleaning": ("clean_folder",),
    "models.unet": ("build_unet",),
    "models.unetpp": ("build_unetpp",),
    "models.pix2pix": ("Pix2Pix", "build_discriminator", "build_generator"),
    "config": ("TrainingConfig",),
    "runs": ("load_run",),
    "training": ("train",),
    "predict": ("load_predictions", "predict_split"),
    "evaluation.metrics": ("assd", "dice", "hd95", "iou"),
    "evaluation.postprocess": ("clean_mask",),
    "evaluation.report": ("score_run",),
    "segmenter": ("Segmenter",),
    "verify": ("verify_workspace",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
