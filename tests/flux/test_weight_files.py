"""Weights are read in place, from whatever form their owner has them in, and are never in memory twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture, architecture_of, bundled_architecture
from fluxbooth.flux.keys import Source, t5_source, transformer_source
from fluxbooth.flux.miniature import MINIATURE_FOLDER
from fluxbooth.flux.model import find_weights
from fluxbooth.flux.parts import load_clip, load_t5, load_transformer, load_vae
from fluxbooth.flux.weight_files import WeightFiles, header_of
from fluxbooth.host.weights import BaseWeights, flux_dev_weights

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn


def with_part(weights: BaseWeights, **parts: Path) -> BaseWeights:
    return BaseWeights(**{**vars(weights), **parts})


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def same(ours: torch.nn.Module, others: torch.nn.Module) -> bool:
    left, right = ours.state_dict(), others.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# Loads a part and prints the bytes of its weights, and by how much the process's memory rose at its highest. Mapped
# pages of the file count, too: on unified memory they are taken from what the accelerator could have.
MEASURED = """
import sys, json
from pathlib import Path
import torch
from fluxbooth.flux.architecture import architecture_of
from fluxbooth.flux.parts import load_transformer
from fluxbooth.host.weights import BaseWeights

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))

file, here = Path(sys.argv[1]), Path(".")
weights = BaseWeights("thin", file, here, here, here, here, here)
architecture = architecture_of(file)
torch.empty(8, 8).copy_(torch.zeros(8, 8, dtype=torch.bfloat16))
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
transformer = load_transformer(weights, architecture, torch.bfloat16, torch.device("cpu"))
size = sum(parameter.nbytes for parameter in transformer.parameters())
print(json.dumps([size, (kib("VmHWM") - before) * 1024]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's highest memory")
def test_loading_takes_the_memory_of_the_weights_and_no_more(tmp_path: Path) -> None:
    """At FLUX.1-dev's width, of one double and one single block."""
    config = {**bundled_architecture("flux-dev").transformer, "num_layers": 1, "num_single_layers": 1}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    file = written(tmp_path / "thin.safetensors", _zeros(model))
    loaded = subprocess.run([sys.executable, "-c", MEASURED, str(file)], capture_output=True, text=True, check=True)
    size, rise = json.loads(loaded.stdout)
    assert size > 900 * 1024**2
    assert rise < 1.1 * size


def _zeros(model: FluxTransformer2DModel) -> dict[str, Tensor]:
    """A file's tensors of the model's shapes in bfloat16, under black-forest-labs' keys."""
    width = model.config["attention_head_dim"] * model.config["num_attention_heads"]
    shapes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        source = transformer_source(name, width)
        rows = shapes.setdefault(source.key, [0, *parameter.shape[1:]])
        rows[0] += parameter.shape[0]
    return {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}


def test_a_folder_in_diffusers_layout_is_the_same_model(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    transformer = load_transformer(weights, architecture, torch.float32, CPU)
    vae = load_vae(weights, architecture, torch.float32, CPU)
    _, clip = load_clip(weights, architecture, torch.float32, CPU)
    _, t5 = load_t5(weights, architecture, torch.float32, CPU)
    folder = tmp_path / "FLUX.1-dev"
    transformer.save_pretrained(folder / "transformer", max_shard_size="5MB")
    vae.save_pretrained(folder / "vae")
    clip.save_pretrained(folder / "text_encoder")
    t5.save_pretrained(folder / "text_encoder_2", max_shard_size="1MB")
    (folder / "tokenizer").symlink_to(weights.clip_tokenizer)
    (folder / "tokenizer_2").symlink_to(weights.t5_tokenizer)
    (folder / "model_index.json").write_text("{}")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1, "the test wants several files"

    found = find_weights(str(folder), tmp_path)

    shapes = architecture_of(found.transformer)
    assert shapes.transformer == architecture.transformer
    assert same(load_transformer(found, shapes, torch.float32, CPU), transformer)
    assert same(load_vae(found, shapes, torch.float32, CPU), vae)
    assert same(load_clip(found, shapes, torch.float32, CPU)[1], clip)
    assert same(load_t5(found, shapes, torch.float32, CPU)[1], t5)


def test_a_transformer_inside_a_whole_checkpoint_is_found(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in load_file(weights.transformer).items()}
    tensors["vae.decoder.conv_in.bias"] = torch.zeros(3)
    file = written(tmp_path / "whole.safetensors", tensors)
    assert architecture_of(file).transformer == architecture.transformer
    whole = load_transformer(with_part(weights, transformer=file), architecture, torch.float32, CPU)
    assert same(whole, load_transformer(weights, architecture, torch.float32, CPU))


def test_clips_file_may_hold_what_only_the_whole_clip_needs(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    more = {"text_projection.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(1)}
    file = written(tmp_path / "clip_l.safetensors", {**load_file(weights.clip), **more})
    _, clip = load_clip(with_part(weights, clip=file), architecture, torch.float32, CPU)
    assert same(clip, load_clip(weights, architecture, torch.float32, CPU)[1])


def fp8_of(tensors: dict[str, Tensor], scaled: bool) -> dict[str, Tensor]:
    """Matrices in fp8, as ComfyUI's users have T5; `scaled` with a factor a matrix that brings its largest to 448."""
    made: dict[str, Tensor] = {"scaled_fp8": torch.zeros(0, dtype=FP8)} if scaled else {}
    for key, tensor in tensors.items():
        if tensor.ndim != 2 or "SelfAttention.relative" in key or key == "shared.weight":
            made[key] = tensor
            continue
        scale = tensor.abs().max().float() / 448 if scaled else torch.tensor(1.0)
        made[key] = (tensor.float() / scale).to(FP8)
        if scaled:
            made[key.removesuffix("weight") + "scale_weight"] = scale
    return made


@pytest.mark.parametrize("scaled", [False, True])
def test_t5_in_fp8_is_read_as_the_numbers_it_stands_for(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path, scaled: bool
) -> None:
    original = load_file(weights.t5)
    file = written(tmp_path / "t5xxl_fp8.safetensors", fp8_of(original, scaled))
    _, t5 = load_t5(with_part(weights, t5=file), architecture, torch.float32, CPU)
    for name, source in ((name, t5_source(name).key) for name, _ in t5.named_parameters()):
        # Three bits behind the point: a sixteenth of a number; without a factor small ones are lost below 2^-10.
        least = 1e-3 * original[source].abs().max().item() if scaled else 2**-10
        assert torch.allclose(t5.get_parameter(name), original[source].float(), rtol=1 / 16, atol=least), name


def test_the_most_exact_t5_that_is_there_is_read(tmp_path: Path) -> None:
    encoders = tmp_path / "text_encoders"
    encoders.mkdir()
    assert flux_dev_weights(tmp_path).t5.name == "t5xxl_fp16.safetensors", "what the download fetches"
    for name in ("t5xxl_fp8_e4m3fn", "t5xxl_fp8_e4m3fn_scaled", "t5xxl_fp16"):
        (encoders / f"{name}.safetensors").touch()
        assert flux_dev_weights(tmp_path).t5.name == f"{name}.safetensors"


def test_files_that_are_named_win_over_the_models_own(weights: BaseWeights, tmp_path: Path) -> None:
    t5 = tmp_path / "t5xxl_fp8.safetensors"
    t5.symlink_to(weights.t5)
    found = find_weights("miniature", tmp_path, {"t5xxl": str(t5)})
    assert found == with_part(weights, t5=t5)
    with pytest.raises(UserError, match=r"ae: 'nowhere\.safetensors' is not there"):
        find_weights("miniature", tmp_path, {"ae": "nowhere.safetensors"})


def test_a_folder_named_as_the_transformer_is_the_whole_model(weights: BaseWeights, tmp_path: Path) -> None:
    found = find_weights("flux-dev", tmp_path, {"pretrained_model_name_or_path": str(MINIATURE_FOLDER)})
    assert found.transformer == weights.transformer
    assert found.vae == weights.vae


def test_a_cut_file_names_the_key_and_the_byte(weights: BaseWeights, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.transformer.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"key '[\w.]+' ends at byte {weights.transformer.stat().st_size:,}"):
        header_of(cut)


def test_a_file_that_is_cut_while_it_is_read_is_no_model(tmp_path: Path) -> None:
    file = written(tmp_path / "vae.safetensors", {"conv.weight": torch.ones(64, 64)})
    with WeightFiles(file) as files:
        os.truncate(file, file.stat().st_size - 100)
        with pytest.raises(UserError, match="ends at byte"):
            files.read_into(torch.empty(64, 64), Source("conv.weight"))


def test_numbers_that_stand_for_others_are_refused(tmp_path: Path) -> None:
    """Such as the four bits of a quantized file, which would be read as whole numbers."""
    file = written(tmp_path / "quantized.safetensors", {"conv.weight": torch.ones(4, 4, dtype=torch.uint8)})
    with WeightFiles(file) as files, pytest.raises(UserError, match=r"'conv.weight' holds no floating-point numbers"):
        files.read_into(torch.empty(4, 4), Source("conv.weight"))


def test_a_page_instead_of_a_file_is_quoted(tmp_path: Path) -> None:
    page = tmp_path / "ae.safetensors"
    page.write_text("<!doctype html><html>Access denied</html>")
    with pytest.raises(UserError, match="begins with b'<!doctyp'"):
        header_of(page)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no safetensors file in it"):
        header_of(tmp_path)
