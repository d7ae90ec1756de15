"""DoRA: a LoRA beside which the length of each of a matrix's rows is learned (arXiv 2402.09353).

W (O, I) is the frozen matrix and dW what the LoRA adds. What acts is magnitude * (W + dW) / |W + dW|, row by row.
A file says the same by `dora_scale`, in the form that ComfyUI reads: dora_scale * (W + dW) / |W|. ComfyUI has divided
by the base's norm since April 2025 (comfy/weight_adapter/base.py, weight_decompose; so in 0.3.64 and in August 2026,
when its #15458 proposed the paper's norm), and the scale that is written here undoes that: what is drawn is what was
trained, in float32. Of a model that it holds in part alone ComfyUI computes this in the weights' own format and adds
that format's epsilon to the norm, 0.008 in bfloat16; what depends on the machine that draws cannot be undone here.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.stored import StoredLinear


def row_norms(linear: nn.Module) -> Tensor:
    """|W| of a linear, or of the one inside PEFT's LoRA: (O, 1) float32."""
    base = linear.base_layer if isinstance(linear, LoraLinear) else linear
    weight: Tensor = base.dense() if isinstance(base, StoredLinear) else base.weight  # type: ignore[assignment]
    norms: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1, keepdim=True, dtype=torch.float32)
    return norms


def factors_of_file(dora_scale: Tensor, linear: nn.Module) -> Tensor:
    """By what a file multiplies the rows of W + dW: (O, 1) float32, as ComfyUI computes it."""
    norms = row_norms(linear)
    return dora_scale.to(norms) / (norms + torch.finfo(torch.float32).eps)


class Magnitudes(nn.Module):
    """The learned lengths of one linear's rows, where PEFT has its own layer for them."""

    def __init__(self, base_norms: Tensor) -> None:
        """Begin with the lengths that the rows have, (O,) float32."""
        super().__init__()
        self.base_norms = base_norms
        self.weight = nn.Parameter(base_norms.clone())


def magnitudes_of(linear: LoraLinear, adapter: str) -> Magnitudes | None:
    """The magnitudes of one linear; None where its LoRA is a plain one."""
    found = dict(linear.lora_magnitude_vector).get(adapter)
    return found if isinstance(found, Magnitudes) else None


@torch.no_grad()
def _changed_norms(linear: LoraLinear, adapter: str) -> Tensor:
    """|W + dW|, (O,) float32, from products with A and B.

    PEFT makes W + dW in the network's number format, and bfloat16 rounds the norms of that by up to 0.4 %. Here a
    rounding meets only what W and dW have in common.
    """
    down, up = linear.lora_A[adapter].weight, linear.lora_B[adapter].weight * linear.scaling[adapter]
    weight = linear.get_base_layer().weight
    with torch.autocast(weight.device.type, enabled=False):
        common = (weight @ down.to(weight.dtype).T).float()
        squares = linear.lora_magnitude_vector[adapter].base_norms.square()
        norms: Tensor = (squares + ((2 * common + up @ (down @ down.T)) * up).sum(dim=1)).sqrt()
    return norms


def _factors(linear: LoraLinear, adapter: str) -> Tensor:
    """By what the rows of W + dW are multiplied, (O,) float32; the norm counts as a constant (section 4.3)."""
    magnitudes: Tensor = linear.lora_magnitude_vector[adapter].weight
    return magnitudes / _changed_norms(linear, adapter)


def dora_scale_of(linear: LoraLinear, adapter: str) -> Tensor | None:
    """What a file says instead of the magnitudes: (O, 1) float32; None for a plain LoRA."""
    magnitudes = magnitudes_of(linear, adapter)
    return (_factors(linear, adapter).detach() * magnitudes.base_norms)[:, None] if magnitudes else None


@torch.no_grad()
def begin_with(linear: LoraLinear, adapter: str, dora_scale: Tensor | None) -> None:
    """Take the magnitudes that `dora_scale` of a file stands for; None leaves W + dW as long as it is."""
    factors = 1.0 if dora_scale is None else factors_of_file(dora_scale, linear).flatten()
    linear.lora_magnitude_vector[adapter].weight.copy_(_changed_norms(linear, adapter) * factors)


class _Decomposed:
    """How a linear with magnitudes computes, as PEFT asks for it in the place of its own `DoraLinearVariant`.

    Dropout, which PEFT has before W as well, takes from A's inputs alone.
    """

    @staticmethod
    def forward(module: LoraLinear, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """`result` is what W and the bias make of the inputs `x`."""
        bias = module.get_base_layer().bias
        plain = result if bias is None else result - bias
        seen = module.lora_dropout[active_adapter](x)
        low = module.lora_B[active_adapter](module.lora_A[active_adapter](seen)) * module.scaling[active_adapter]
        factors = _factors(module, active_adapter)
        # The difference comes last: where nothing has been learned it is zero to the bit.
        changed: Tensor = result + (factors * (plain + low) - plain)
        return changed


def decompose(model: nn.Module, adapter: str) -> None:
    """Let every LoRA on `model` that PEFT has made with use_dora learn and compute by `Magnitudes`.

    Raises:
        UserError: for a matrix with a row of zeros, which has no direction.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            norms = row_norms(module).flatten()
            if not norms.all():
                raise UserError(
                    Problem(
                        f"'{name}' has rows of zeros, which have no direction",
                        where="network_args use_dora",
                        do="Train a plain LoRA, or leave the layer out with network_reg_dims",
                    )
                )
            module.lora_magnitude_vector[adapter] = Magnitudes(norms)
            module.lora_variant[adapter] = _Decomposed()
