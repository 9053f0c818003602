"""Settings of a training: what `fit` does with a model and a data set."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST = 10**8  # steps; no training known takes a hundredth of them


class TrainConfig(BaseModel):
    """Settings of one training. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # How long, how fast
    epochs: int = Field(default=100, ge=0, le=1_000_000)  # passes over the training images
    steps: int = Field(default=0, ge=0, le=LONGEST)  # where not 0, instead of epochs
    batch_size: int = Field(default=128, gt=0, le=2**20)  # images of one step, over all processes
    optimizer: Literal["adamw", "sgd"] = "adamw"  # what makes a step of a gradient
    lr: float = Field(default=1e-3, gt=0)  # at its peak
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd; beta 1 of adamw
    warmup_epochs: float = Field(default=5, ge=0, le=1_000_000)  # linear from 0 to lr
    warmup_steps: int = Field(default=0, ge=0, le=LONGEST)  # where not 0, instead of warmup_epochs
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up
    final_lr: float = Field(default=0.01, ge=0, le=1)  # share of lr that is left at the end
    weight_decay: float = Field(default=0.05, ge=0, le=1e6)  # of matrices only
    clip_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)  # of the gradient over all parameters; inf: none
    ema: float = Field(default=0.999, ge=0, lt=1)  # decay per step of the averaged weights that are kept; 0: the last

    # Fine-tuning
    head_lr: float = Field(default=1.0, gt=0)  # factor on the learning rate of the head
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # factor on the learning rate, once for each block above
    freeze: bool = False  # only the head learns

    # Loss
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)  # share of a label that goes to all classes alike
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"  # focal: sure images count less
    focal_gamma: float = Field(default=2.0, ge=0, le=1000)  # how much less an image counts the surer the model is
    class_weights: bool = False  # an image counts in inverse proportion to the size of its class
    ohem: float = Field(default=1.0, gt=0, le=1)  # share of each batch that counts: the images of highest loss
    sampling: Literal["uniform", "balanced"] = "uniform"  # balanced: every class is drawn equally often

    # Augmentation
    crop_padding: int = Field(default=4, ge=0, le=256)  # pixels
    crop_scale: float = Field(default=1.0, gt=0, le=1)  # least share of the area that a resized crop keeps; 1: none
    flip: bool = True  # left to right
    randaugment: int = Field(default=0, ge=0, le=100)  # operations on each image
    magnitude: float = Field(default=9.0, ge=0, le=10)  # of RandAugment, plus noise of 0.5
    erasing: float = Field(default=0.0, ge=0, le=1)  # probability of random erasing
    mixup: float = Field(default=0.0, ge=0, le=1000)  # alpha; 0: none
    cutmix: float = Field(default=0.0, ge=0, le=1000)  # alpha; 0: none. With both, each batch takes one of them
    repeats: int = Field(default=1, gt=0, le=1000)  # copies of an image in a batch, each augmented differently

    # Numbers
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 where the device multiplies it in hardware
    matmul: Literal["highest", "high", "medium"] = "high"  # of fp32 products: high allows TF32
    compile: bool = False  # torch.compile of the forward and backward pass
    channels_last: bool = True  # memory format of images and convolutions

    # Which weights are kept
    validation: float = Field(
        default=0.0, ge=0, le=0.95
    )  # share of the training images that chooses the epoch; 0: the last
    chosen_by: Literal["top1", "recall"] = "top1"  # of validation images; recall: mean over the classes
