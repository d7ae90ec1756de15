"""The base weights as files: what is missing, and which file in a folder is which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fluxbooth.errors import UserError
from fluxbooth.host.weights import (
    FLUX_DEV_FILES,
    BaseWeights,
    flux_dev_weights,
    read_transformer_ahead,
    weights_in_folder,
)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_downloaded_files_are_all_that_flux_dev_needs(tmp_path: Path) -> None:
    fill(tmp_path, *(file.path for file in FLUX_DEV_FILES))
    assert flux_dev_weights(tmp_path).missing() == []


def test_every_big_file_has_its_size_and_digest_pinned() -> None:
    big = [file for file in FLUX_DEV_FILES if file.path.endswith(".safetensors")]
    assert len(big) == 4
    for file in big:
        assert file.bytes is not None
        assert file.bytes > 200_000_000
        assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "")


def test_in_an_empty_folder_four_files_and_two_tokenizers_are_missing(tmp_path: Path) -> None:
    weights = flux_dev_weights(tmp_path)
    assert weights.missing() == [
        weights.transformer,
        weights.vae,
        weights.clip,
        weights.t5,
        weights.clip_tokenizer,
        weights.t5_tokenizer,
    ]
    assert weights.transformer == tmp_path / "checkpoints/flux1-dev.safetensors"


def test_a_folder_under_the_name_of_a_file_is_no_file(tmp_path: Path) -> None:
    fill(tmp_path, *(file.path for file in FLUX_DEV_FILES))
    vae = tmp_path / "vae/ae.safetensors"
    vae.unlink()
    vae.mkdir()  # what Docker makes of a bind mount whose file is not there
    assert flux_dev_weights(tmp_path).missing() == [vae]


OWN_NAMES = (
    "checkpoints/my_finetune.safetensors",
    "vae/my_vae.safetensors",
    "text_encoders/my_clip_l.safetensors",
    "text_encoders/my_t5xxl_fp8.safetensors",
)


def test_a_model_in_a_folder_may_have_files_of_any_name(tmp_path: Path) -> None:
    weights = weights_in_folder(fill(tmp_path / "mine", *OWN_NAMES))
    assert weights == BaseWeights(
        name="mine",
        transformer=tmp_path / "mine/checkpoints/my_finetune.safetensors",
        vae=tmp_path / "mine/vae/my_vae.safetensors",
        clip=tmp_path / "mine/text_encoders/my_clip_l.safetensors",
        t5=tmp_path / "mine/text_encoders/my_t5xxl_fp8.safetensors",
        clip_tokenizer=tmp_path / "mine/text_encoders/tokenizer",
        t5_tokenizer=tmp_path / "mine/text_encoders/tokenizer_2",
    )
    assert weights.missing() == [weights.clip_tokenizer, weights.t5_tokenizer]


def test_a_model_that_is_no_folder_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        weights_in_folder(tmp_path / "flux-def")
    assert "flux-def' is not a model" in str(raised.value)
    assert "Allowed: flux-dev, miniature, or a folder" in str(raised.value)


def test_a_folder_without_a_vae_is_refused_naming_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, *(name for name in OWN_NAMES if not name.startswith("vae/")))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'vae'}: 0 files fit *.safetensors (none)")):
        weights_in_folder(tmp_path)


def test_a_folder_with_two_transformers_is_refused_naming_both(tmp_path: Path) -> None:
    fill(tmp_path, *OWN_NAMES, "checkpoints/another.safetensors")
    with pytest.raises(UserError) as raised:
        weights_in_folder(tmp_path)
    assert "2 files fit *.safetensors (another.safetensors, my_finetune.safetensors)" in str(raised.value)
    assert "Allowed: exactly one" in str(raised.value)


def test_the_transformer_is_read_ahead_once_pictures_were_encoded(tmp_path: Path) -> None:
    """At a first start the text encoders and the VAE are read before it."""
    fill(tmp_path / "models", *OWN_NAMES)
    cache, models = tmp_path / "cache", str(tmp_path / "models")
    assert read_transformer_ahead(models, tmp_path, cache) is None
    (cache / "latents").mkdir(parents=True)
    (cache / "latents/picture.safetensors").touch()
    assert read_transformer_ahead(models, tmp_path, cache) is not None
    assert read_transformer_ahead("miniature", tmp_path, cache) is None
    assert read_transformer_ahead("flux-dev", tmp_path, cache) is None, "it is not there"
    assert read_transformer_ahead(str(tmp_path / "nowhere"), tmp_path, cache) is None
