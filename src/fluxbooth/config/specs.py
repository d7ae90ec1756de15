"""What data.toml asks for, every key resolved: plain values that the other rooms read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaptionSpec:
    """How a visit's caption is made of what was written; in the order in which it happens."""

    prefix: str = ""
    """Before the caption, with a space between."""
    suffix: str = ""
    """Behind it, with a space between."""
    dropout_rate: float = 0.0
    """Share of the visits, 0 to 1, that see no caption at all."""
    dropout_every_n_epochs: int = 0
    """Every so many epochs no visit sees a caption; 0 for never."""
    wildcard: bool = False
    """A visit sees one line of several, and one of `{a|b}`."""
    keep_tokens_separator: str = ""
    """What divides a caption into fixed tags, tags that change, and perhaps fixed tags again."""
    keep_tokens: int = 0
    """Leading tags that stay in place, where no separator says so."""
    warmup_min: int = 1
    """Tags behind the fixed ones that the first step sees."""
    warmup_step: float = 0.0
    """Optimizer steps until a caption has all of its tags; below 1 a share of the run."""
    shuffle: bool = False
    """Every visit sees the tags behind the fixed ones in another order."""
    tag_dropout_rate: float = 0.0
    """Share of the tags behind the fixed ones, 0 to 1, that a visit does not see."""
    separator: str = ","
    """What parts a caption into tags."""
    secondary_separator: str = ""
    """What stands for `separator` inside a tag, so that its parts stay together."""


@dataclass(frozen=True)
class PictureSpec:
    """How a visit's picture is made of the file."""

    flip_aug: bool = False
    """Half of the visits see the picture mirrored."""
    random_crop: bool = False
    """A variant cuts the bucket out of the picture anywhere, not at its centre."""
    color_aug: bool = False
    """A variant has another hue, saturation and brightness."""
    variants: int = 1
    """Variants of a picture that are encoded; 1 where nothing about it changes."""
    interpolation: str = ""
    """How a picture is resized: one of PIL's filters by kohya's name; empty for kohya's own choice."""
    alpha_mask: bool = False
    """Transparent parts of a picture do not count in the loss."""
    mask_dir: Path | None = None
    """Folder with a mask for each picture, of the same name: white counts in the loss, black does not."""


@dataclass(frozen=True)
class ConceptSpec:
    """One thing to learn: one `[[datasets.subsets]]`, every key resolved."""

    image_dir: Path
    class_tokens: str
    """The caption of a picture that has no caption file."""
    num_repeats: int | None
    """Times a picture appears in an epoch; None for as often as makes it even with the other concepts."""
    is_reg: bool
    """Regularization pictures: they hold the class as it is, at `prior_loss_weight`."""
    caption_extension: str
    """Caption file of a picture: its name with this ending."""
    caption: CaptionSpec
    picture: PictureSpec
    where: str
    """Place in the file, for messages."""
    validation_split: float = 0.0
    """Share of the pictures, 0 to below 1, that is held out of the training."""
    validation_seed: int = 0
    """Which pictures these are."""


@dataclass(frozen=True)
class DatasetSpec:
    """One `[[datasets]]`: concepts that share sizes and batch size. All sizes in pixels."""

    width: int
    height: int
    """What a picture becomes without buckets; with buckets their product is the target area."""
    batch_size: int
    enable_bucket: bool
    min_bucket_reso: int
    max_bucket_reso: int
    bucket_reso_steps: int
    bucket_no_upscale: bool
    concepts: tuple[ConceptSpec, ...]
