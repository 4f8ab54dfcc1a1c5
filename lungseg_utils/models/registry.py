"""Networks by name, with their options checked before anything is built.

Importing this takes no Keras, so that whoever only needs the names is light.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from lungseg_utils.errors import InvalidValueError, check_known

if TYPE_CHECKING:
    import keras


class Architecture(NamedTuple):
    """Where a network is built and where it is trained.

    Args:
        module: The module of its builder: imported when asked for, as Keras takes seconds to load.
        builder: The function there.
        notebook: The notebook that trains it.
    """

    module: str
    builder: str
    notebook: str


NETWORKS = {
    "unet": Architecture("lungseg_utils.models.unet", "build_unet", "04_train_unet"),
    "unetpp": Architecture("lungseg_utils.models.unetpp", "build_unetpp", "05_train_unetpp"),
    "pix2pix": Architecture("lungseg_utils.models.pix2pix", "build_pix2pix", "06_train_pix2pix"),
}


def model_options(name: str) -> dict[str, Any]:
    """Return the options of a network with their defaults.

    Args:
        name: One of `NETWORKS`.

    Raises:
        InvalidValueError: There is no such network.
    """
    parameters = inspect.signature(_builder(name)).parameters
    return {key: value.default for key, value in parameters.items() if key != "size"}


def build_model(name: str, size: int, options: Mapping[str, Any] | None = None) -> keras.Model:
    """Build a network by name.

    Args:
        name: One of `NETWORKS`.
        size: Height and width of the input in pixels.
        options: Arguments of the network's builder other than the size; see `model_options`.

    Returns:
        A model: float32 (N, size, size, 1) in [0, 1] to probability, float32 (N, size, size, 1).

    Raises:
        InvalidValueError: No such network, no such option, or an option out of its range.
    """
    options = dict(options or {})
    check_known(options, model_options(name), f"An option of {name!r}")
    return _builder(name)(size=size, **options)


def build_architecture(
    name: str, size: int, options: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build a network whose weights are about to be loaded, so that no pretrained ones are read.

    Args:
        name: One of `NETWORKS`.
        size: Height and width of the input in pixels.
        options: As for `build_model`; `encoder_weights` is left out.
    """
    options = {key: value for key, value in (options or {}).items() if key != "encoder_weights"}
    return build_model(name, size, options)


def _builder(name: str) -> Callable[..., keras.Model]:
    if name not in NETWORKS:
        raise InvalidValueError(
            f"The model must be one of {', '.join(map(repr, NETWORKS))}.", repr(name), "Pass one."
        )
    network = NETWORKS[name]
    return getattr(import_module(network.module), network.builder)
