"""The base weights as files: their names in ComfyUI's folders, and where FLUX.1-dev comes from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.memory import available_bytes
from fluxbooth.host.page_cache import ReadAhead

FLUX_DEV = "flux-dev"
MINIATURE = "miniature"
FLUX_REPOSITORY = "black-forest-labs/FLUX.1-dev"
REFUSAL_FILE = "download-refused.txt"
"""In the models folder: why the download before a training got nothing. `train` repeats it."""


@dataclass(frozen=True)
class HubFile:
    """One file to fetch from the hub into the models folder."""

    path: str
    """Where it goes, relative to the models folder."""
    repository: str
    file: str
    """Its path inside the repository."""
    bytes: int | None = None
    sha256: str | None = None
    """What the right file has; None for small files that have no pinned digest."""


FLUX_DEV_FILES = (
    HubFile(
        "checkpoints/flux1-dev.safetensors",
        FLUX_REPOSITORY,
        "flux1-dev.safetensors",
        23_802_932_552,
        "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7",
    ),
    HubFile(
        "vae/ae.safetensors",
        FLUX_REPOSITORY,
        "ae.safetensors",
        335_304_388,
        "afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
    ),
    HubFile(
        "text_encoders/clip_l.safetensors",
        "comfyanonymous/flux_text_encoders",
        "clip_l.safetensors",
        246_144_152,
        "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    ),
    HubFile(
        "text_encoders/t5xxl_fp16.safetensors",
        "comfyanonymous/flux_text_encoders",
        "t5xxl_fp16.safetensors",
        9_787_841_024,
        "6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635",
    ),
    *(
        HubFile(f"text_encoders/tokenizer/{name}", FLUX_REPOSITORY, f"tokenizer/{name}")
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    ),
    *(
        HubFile(f"text_encoders/tokenizer_2/{name}", FLUX_REPOSITORY, f"tokenizer_2/{name}")
        for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    ),
)


@dataclass(frozen=True)
class BaseWeights:
    """The four parts and two tokenizer folders that together are one FLUX model."""

    name: str
    transformer: Path
    vae: Path
    clip: Path
    t5: Path
    clip_tokenizer: Path
    t5_tokenizer: Path
    in_diffusers_layout: bool = False
    """The four are folders with safetensors files under diffusers' key names, not single files under ComfyUI's."""

    def missing(self) -> list[Path]:
        """What is not there, files and folders."""
        parts = (self.transformer, self.vae, self.clip, self.t5)
        tokenizers = (self.clip_tokenizer, self.t5_tokenizer)
        there = Path.is_dir if self.in_diffusers_layout else Path.is_file
        return [part for part in parts if not there(part)] + [folder for folder in tokenizers if not folder.is_dir()]


# T5 as ComfyUI's users have it, the most exact first; "scaled" has a factor a matrix and so loses less.
_T5_FILES = (
    "t5xxl_fp16.safetensors",
    "t5xxl_fp8_e4m3fn_scaled.safetensors",
    "t5xxl_fp8_e4m3fn.safetensors",
)


def flux_dev_weights(models: Path) -> BaseWeights:
    """FLUX.1-dev in ComfyUI's folders below `models`; the files need not be there.

    T5 is the most exact of the files that are there.
    """
    encoders = models / "text_encoders"
    t5_files = [encoders / name for name in _T5_FILES]
    return BaseWeights(
        name=FLUX_DEV,
        transformer=models / "checkpoints/flux1-dev.safetensors",
        vae=models / "vae/ae.safetensors",
        clip=encoders / "clip_l.safetensors",
        t5=next((file for file in t5_files if file.is_file()), t5_files[0]),
        clip_tokenizer=encoders / "tokenizer",
        t5_tokenizer=encoders / "tokenizer_2",
    )


def weights_in_folder(folder: Path) -> BaseWeights:
    """A model in a folder of ComfyUI's layout, whatever its files are called, or in one of diffusers' layout.

    Raises:
        UserError: when checkpoints/, vae/ or text_encoders/ hold none or several files that could be meant.
    """
    if not folder.is_dir():
        raise UserError(
            Problem(
                f"'{folder}' is not a model",
                where="--model",
                allowed=f"{FLUX_DEV}, {MINIATURE}, or a folder with checkpoints/, text_encoders/ and vae/ in it, "
                "or one of diffusers' with model_index.json",
            )
        )
    if (folder / "model_index.json").is_file():
        return BaseWeights(
            name=folder.name,
            transformer=folder / "transformer",
            vae=folder / "vae",
            clip=folder / "text_encoder",
            t5=folder / "text_encoder_2",
            clip_tokenizer=folder / "tokenizer",
            t5_tokenizer=folder / "tokenizer_2",
            in_diffusers_layout=True,
        )
    encoders = folder / "text_encoders"
    return BaseWeights(
        name=folder.name,
        transformer=_only_one(folder / "checkpoints", "*.safetensors"),
        vae=_only_one(folder / "vae", "*.safetensors"),
        clip=_only_one(encoders, "*clip*.safetensors"),
        t5=_only_one(encoders, "*t5*.safetensors"),
        clip_tokenizer=encoders / "tokenizer",
        t5_tokenizer=encoders / "tokenizer_2",
    )


def read_transformer_ahead(model: str, models: Path, cache: Path) -> ReadAhead | None:
    """Let the transformer be read into the page cache while libraries are imported and the run is checked.

    Nothing happens where no picture was encoded before: other models are read first then. A quarter of the memory that
    is available is taken at most, and given back as the file is read.

    Args:
        model: the name that the user has given, models: ComfyUI's folders, cache: of what was encoded.
    """
    if model == MINIATURE or not any((cache / "latents").glob("*")):
        return None
    with suppress(UserError):  # which is said when the weights are looked for
        weights = flux_dev_weights(models) if model == FLUX_DEV else weights_in_folder(Path(model))
        if weights.transformer.is_file():
            return ReadAhead(weights.transformer, (available_bytes() or 0) // 4)
    return None


def _only_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    raise UserError(
        Problem(
            f"{len(found)} files fit {pattern} ({names})",
            where=str(folder),
            allowed="exactly one",
            do="Keep the one that is meant",
        )
    )
