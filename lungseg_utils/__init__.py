"""Lung segmentation in chest X-rays: U-Net, U-Net++ and Pix2Pix under one protocol.

Public names resolve on first use, so that importing the package loads no library.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = {
    "workspace": ("Workspace", "mount_drive", "open_workspace"),
    "manifest": ("load_manifest",),
    "bundle": ("pair_bundle",),
    "acquire.sources": ("fetch",),
    "phantom.sets": ("write_phantom_bundle",),
    "preparation.imaging": ("Preprocessing", "read_image", "read_mask"),
    "preparation.preprocess": ("preprocess",),
    "preparation.arrays": ("load_prepared", "prepare"),
    "preparation.stitching": ("stitch", "unstitch"),
    "preparation.augmentation": ("Augmentation",),
    "preparation.batches": ("CaseBatches",),
    "segment.cleaning": ("clean_folder",),
    "models.unet": ("build_unet",),
    "models.unetpp": ("build_unetpp",),
    "models.pix2pix": ("Pix2Pix", "build_discriminator", "build_generator"),
    "training.config": ("TrainingConfig",),
    "training.runs": ("load_run",),
    "training.train": ("train",),
    "segment.network": ("export_onnx",),
    "segment.predict": ("load_predictions", "predict_split"),
    "evaluation.metrics": ("assd", "dice", "hd95", "iou"),
    "segment.postprocess": ("clean_mask",),
    "evaluation.scoring": ("score_run",),
    "segment.segmenter": ("Segmenter",),
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
