"""What a training run is made with: one record for all three networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace

from lungseg_utils.errors import InvalidValueError
from lungseg_utils.models.registry import NETWORKS
from lungseg_utils.preparation.augmentation import Augmentation
from lungseg_utils.preparation.imaging import Preprocessing

CHOICES = {
    "model": tuple(NETWORKS),
    "loss": ("dice", "bce", "bce_dice"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine"),
    "precision": ("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    "distribute": ("none", "mirrored"),
}
_LEAST = {"size": 16, "batch_size": 1, "epochs": 1, "half_size_epochs": 0, "patience": 1, "seed": 0}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run learns.

    Args:
        model: `unet`, `unetpp` or `pix2pix`.
        size: Side of the square input in pixels.
        model_options: Passed on to the network's builder, such as `base_filters`.
        loss: `dice`, `bce` or `bce_dice`; Pix2Pix brings its own.
        optimizer: `adam` or `adamw`.
        learning_rate: Initial learning rate.
        beta_1: Adam's decay of the first moment; 0.5 for Pix2Pix (Isola et al. 2017).
        schedule: `constant`, or `cosine` down to zero over all epochs.
        weight_decay: AdamW's decay, not applied to biases and normalisation.
        batch_size: Images a step.
        epochs: Passes over the training images at most.
        half_size_epochs: Train first for so many epochs on images of half the size, which cost a
            quarter, and go on from the best weights (progressive resizing, Howard 2018); 0: train
            at full size from the start.
        half_size_learning_rate: Initial learning rate of that stage.
        patience: Epochs without a better validation Dice before training stops.
        precision: `auto` takes bfloat16 on GPUs that have it natively, float16 on other
            GPUs (the T4) and float32 on a CPU.
        distribute: `mirrored` trains on all GPUs of the machine (TensorFlow only).
        seed: Decides initial weights, batch order, augmentation and dropout.
        augmentation: Random changes of image and mask together.
        preprocessing: What is done to every image before it enters the network.

    Raises:
        InvalidValueError: A value is out of its range.
    """

    model: str = "unet"
    size: int = 256
    model_options: dict = field(default_factory=dict)
    loss: str = "bce_dice"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    schedule: str = "constant"
    weight_decay: float = 0.0
    batch_size: int = 16
    epochs: int = 50
    half_size_epochs: int = 0
    half_size_learning_rate: float = 1e-3
    patience: int = 10
    precision: str = "auto"
    distribute: str = "none"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidValueError(
                    f"{name} is one of {', '.join(choices)}.",
                    repr(getattr(self, name)),
                    f"Choose one of them for {name}.",
                )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidValueError(
                    f"{name} is a whole number of at least {least}.",
                    repr(value),
                    f"Raise {name}.",
                )
        rates = self.learning_rate, self.half_size_learning_rate
        if not all(rate > 0 for rate in rates) or self.weight_decay < 0 or not 0 <= self.beta_1 < 1:
            raise InvalidValueError(
                "Learning rates are above 0, weight_decay at least 0 and beta_1 in [0, 1).",
                f"learning_rate {rates[0]}, half_size_learning_rate {rates[1]}, "
                f"weight_decay {self.weight_decay}, beta_1 {self.beta_1}",
                "Choose values in these ranges, such as 0.001, 0.0001 and 0.9.",
            )

        if self.half_size_epochs and self.size % 2:
            raise InvalidValueError(
                "Only an even size has a half.",
                f"size {self.size} with half_size_epochs {self.half_size_epochs}",
                "Choose an even size, or 0 for half_size_epochs.",
            )

    def half_size(self) -> TrainingConfig:
        """The first stage of a training with `half_size_epochs`, as a training of its own."""
        return replace(
            self,
            size=self.size // 2,
            learning_rate=self.half_size_learning_rate,
            epochs=self.half_size_epochs,
            patience=self.half_size_epochs,
            half_size_epochs=0,
        )

    def to_dict(self) -> dict:
        """The configuration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> TrainingConfig:
        """Read back what `to_dict` wrote.

        Raises:
            InvalidValueError: A name is unknown.
        """
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise InvalidValueError(
                "A training configuration holds known names only.",
                ", ".join(sorted(unknown)),
                "Use the version of lungseg_utils that wrote this run.",
            )
        nested = {"augmentation": Augmentation, "preprocessing": Preprocessing}
        read = {
            name: kind.from_dict(values[name]) for name, kind in nested.items() if name in values
        }
        return cls(**values | read)
