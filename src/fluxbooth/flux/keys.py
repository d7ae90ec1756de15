"""Where each parameter of diffusers' classes lies in ComfyUI's single files.

Names on the left are parameters of FluxTransformer2DModel and AutoencoderKL; names on the right are keys of
flux1-dev.safetensors (black-forest-labs/flux, model.py) and of ae.safetensors (CompVis/latent-diffusion, model.py).
The same tables write the miniature's files and read everybody's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A tensor's place in a single file."""

    key: str
    first_row: int = 0
    """Where several matrices lie stacked in one tensor: the row at which this one begins."""
    swap_halves: bool = False
    """The two halves of the rows change places: (shift, scale) in the file, (scale, shift) in diffusers."""


_EMBEDDERS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_DOUBLE_BLOCK = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_SINGLE_BLOCK = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
# Matrices that lie stacked in one: file's name, then the diffusers names from the top row down.
_DOUBLE_STACKS = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE_STACK = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}
_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)\.(weight|bias)")


def transformer_source(name: str, width: int) -> Source:
    """Return where FluxTransformer2DModel's parameter `name` lies in a file with black-forest-labs' keys.

    Args:
        name: for instance "transformer_blocks.0.attn.to_k.weight".
        width: features of a token inside the network (3072 in FLUX.1-dev).

    Raises:
        KeyError: for a name that FluxTransformer2DModel does not have.
    """
    block = _BLOCK.fullmatch(name)
    if block is None:
        module, _, leaf = name.rpartition(".")
        if module == "norm_out.linear":
            return Source(f"final_layer.adaLN_modulation.1.{leaf}", swap_halves=True)
        return Source(f"{_EMBEDDERS[module]}.{leaf}")

    single, index, module, leaf = block.groups()
    prefix = f"single_blocks.{index}" if single else f"double_blocks.{index}"
    for stack, members in (_SINGLE_STACK if single else _DOUBLE_STACKS).items():
        if module in members:
            return Source(f"{prefix}.{stack}.{leaf}", first_row=members.index(module) * width)
    target = (_SINGLE_BLOCK if single else _DOUBLE_BLOCK)[module]
    if "norm." in target:
        leaf = "scale"
    return Source(f"{prefix}.{target}.{leaf}")


def stacked_modules(kind: str, index: int, module: str) -> tuple[str, ...]:
    """Return diffusers' names of the matrices that lie in one of black-forest-labs', from the top row down.

    Args:
        kind: "double_blocks" or "single_blocks".
        module: its name with "_" for ".", as kohya's LoRA files have it: "img_attn_qkv", "linear1", "img_mlp_0".

    Returns:
        One name, or three or four; none where there is no such matrix.
    """
    single = kind == "single_blocks"
    prefix = f"{'single_' if single else ''}transformer_blocks.{index}."
    stacks = _SINGLE_STACK if single else _DOUBLE_STACKS
    for target, names in stacks.items():
        if target.replace(".", "_") == module:
            return tuple(prefix + name for name in names)
    for name, target in (_SINGLE_BLOCK if single else _DOUBLE_BLOCK).items():
        if target.replace(".", "_") == module and "norm." not in target:
            return (prefix + name,)
    return ()


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_source(name: str, levels: int) -> Source:
    """Return where AutoencoderKL's parameter `name` lies in a file with latent-diffusion's keys.

    Args:
        name: for instance "decoder.up_blocks.0.resnets.1.conv_shortcut.weight".
        levels: number of resolutions (4 in FLUX.1's VAE); the file counts the decoder's from the finest.

    Raises:
        KeyError: for an attention parameter that AutoencoderKL does not have.
    """
    half, _, rest = name.partition(".")
    rest = re.sub(r"^conv_norm_out", "norm_out", rest)
    if found := re.match(r"down_blocks\.(\d+)\.(.+)", rest):
        rest = f"down.{found[1]}.{found[2]}"
    elif found := re.match(r"up_blocks\.(\d+)\.(.+)", rest):
        rest = f"up.{levels - 1 - int(found[1])}.{found[2]}"
    elif found := re.match(r"mid_block\.resnets\.(\d+)\.(.+)", rest):
        rest = f"mid.block_{int(found[1]) + 1}.{found[2]}"
    elif found := re.match(r"mid_block\.attentions\.0\.(.+)\.(weight|bias)", rest):
        rest = f"mid.attn_1.{_VAE_ATTENTION[found[1]]}.{found[2]}"
    rest = rest.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
    rest = re.sub(r"(down|up)samplers\.0\.", r"\1sample.", rest)
    return Source(f"{half}.{rest}")


def clip_source(name: str) -> Source:
    """Return where CLIPTextModel's parameter `name` lies in clip_l.safetensors.

    transformers 5 dropped the level "text_model" that the files and ComfyUI have.
    """
    return Source(f"text_model.{name.removeprefix('text_model.')}")


def t5_source(name: str) -> Source:
    """Return where T5EncoderModel's parameter `name` lies in t5xxl_fp16.safetensors: the names are the same."""
    return Source("shared.weight" if name == "encoder.embed_tokens.weight" else name)
