"""The pass that training runs gives diffusers' numbers to rounding, and keeps less for the backward pass."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fluxbooth.flux import attention
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.attention import attend, scaled
from fluxbooth.flux.flow import predict_velocity
from fluxbooth.flux.lora import add_lora, without_lora
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.stored import StorageForm
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.operations import operations_per_sample

CPU = torch.device("cpu")


class Network:
    """The miniature with a LoRA that has an effect, and one micro-batch of two samples for it."""

    def __init__(
        self,
        weights: BaseWeights,
        architecture: Architecture,
        dtype: torch.dtype = torch.float32,
        form: StorageForm = "full",
    ) -> None:
        self.transformer: FluxTransformer2DModel = load_transformer(weights, architecture, dtype, CPU, form)
        self.parameters: list[nn.Parameter] = add_lora(self.transformer, 8, 4, seed=0)
        draw = torch.Generator().manual_seed(1)
        for parameter in self.parameters:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
        self._latents = torch.randn(2, 16, 12, 10, generator=draw)
        self._sigmas = torch.tensor([0.3, 0.8])
        width = architecture.transformer["joint_attention_dim"]
        self._text = torch.randn(2, architecture.t5_tokens, width, generator=draw)
        pooled = torch.randn(2, architecture.transformer["pooled_projection_dim"], generator=draw)
        self.pooled = pooled.requires_grad_()
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16)

    def velocity(self) -> Tensor:
        with self._autocast:
            return predict_velocity(
                self.transformer, self._latents, self._sigmas, self._text, self.pooled, guidance_scale=1.0
            ).float()

    def velocity_and_gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """The velocity, and the gradients of its mean square by the LoRA and by CLIP's vector."""
        velocity = self.velocity()
        velocity.square().mean().backward()
        gradients = [parameter.grad for parameter in self.parameters]
        assert all(gradient is not None for gradient in gradients)
        assert self.pooled.grad is not None
        return (
            velocity.detach(),
            torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]),
            (self.pooled.grad),
        )


def distance(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm())


kept_for_the_backward_pass = pytest.mark.parametrize(
    "kept",
    [{"whole": 99}, {"recomputed": 1, "whole": 1}, {}, {"recomputed": 99}],
    ids=["everything", "something of each", "what is dear", "inputs"],
)


@kept_for_the_backward_pass
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_velocity_and_every_gradient_are_those_of_diffusers(
    weights: BaseWeights,
    architecture: Architecture,
    kept: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    plain = Network(weights, architecture, dtype).velocity_and_gradients()
    network = Network(weights, architecture, dtype)
    use_training_pass(network.transformer, **kept)
    for ours, theirs in zip(network.velocity_and_gradients(), plain, strict=True):
        assert distance(ours, theirs) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_recomputed_has_the_same_bits(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype
) -> None:
    gradients = []
    for recomputed, whole in ((0, 99), (0, 0), (99, 0)):
        network = Network(weights, architecture, dtype)
        use_training_pass(network.transformer, recomputed, whole=whole)
        gradients.append(network.velocity_and_gradients()[1])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[1], gradients[2])


# PyTorch's counter knows neither products that are added in place nor attention on the CPU.
UNCOUNTED = {
    torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


@kept_for_the_backward_pass
def test_it_does_the_operations_that_are_foreseen_and_nothing_of_text_that_is_not_read(
    weights: BaseWeights, architecture: Architecture, kept: dict[str, Any]
) -> None:
    network = Network(weights, architecture)
    use_training_pass(network.transformer, **kept)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        network.velocity_and_gradients()
    foreseen, with_unread = (
        2 * operations_per_sample(architecture, 30, 8, kept.get("recomputed", 0), unread_left_out=left_out).total
        for left_out in (True, False)
    )
    # What a sample has once, and not by token, is not foreseen.
    assert counter.get_total_flops() == pytest.approx(foreseen, rel=0.01)
    assert with_unread > 1.06 * foreseen


def test_without_its_lora_it_is_the_base_model(weights: BaseWeights, architecture: Architecture) -> None:
    network = Network(weights, architecture)
    with torch.no_grad(), without_lora(network.transformer):
        plain = network.velocity()
        use_training_pass(network.transformer)
        assert distance(network.velocity(), plain) < 2e-6
    assert distance(network.velocity(), plain) > 1e-3


def test_a_lora_with_dropout_is_left_to_diffusers(weights: BaseWeights, architecture: Architecture) -> None:
    transformer = load_transformer(weights, architecture, torch.float32, CPU)
    add_lora(transformer, 2, 2, seed=0, dropout=0.5)
    with pytest.raises(ValueError, match="dropout"):
        use_training_pass(transformer)


def kept_bytes(network: Network) -> int:
    """Bytes of everything that autograd keeps from a forward pass, each piece of memory once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    frozen = {parameter.untyped_storage().data_ptr() for parameter in network.transformer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network.velocity()
    return sum(size for place, size in kept.items() if place not in frozen)


def test_it_keeps_little_more_than_half_for_the_backward_pass(weights: BaseWeights, architecture: Architecture) -> None:
    network = Network(weights, architecture)
    plain = kept_bytes(network)
    use_training_pass(network.transformer)
    ours = kept_bytes(network)
    use_training_pass(network.transformer, recomputed=99)
    assert kept_bytes(network) < ours / 2
    assert ours < 0.6 * plain
    use_training_pass(network.transformer, whole=99)
    assert 1.5 * ours < kept_bytes(network) < plain


def own_nodes_of(graph: Any) -> list[weakref.ref[Any]]:
    """The nodes of autograd's graph that are ours; each holds what its backward pass takes."""
    waiting, seen = [graph], {graph}
    while waiting:
        following = {node for node, _ in waiting.pop().next_functions if node is not None} - seen
        seen |= following
        waiting += following
    return [weakref.ref(node) for node in seen if isinstance(node, torch.autograd.function.BackwardCFunction)]


@kept_for_the_backward_pass
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_that_breaks_off_leaves_nothing_behind(
    weights: BaseWeights, architecture: Architecture, dtype: torch.dtype, kept: dict[str, Any]
) -> None:
    """As one does for which the memory is too small: what it held is what the next one needs."""
    network = Network(weights, architecture, dtype)
    use_training_pass(network.transformer, **kept)
    nodes = own_nodes_of(network.velocity().grad_fn)
    gc.collect()
    assert nodes
    assert not [node for node in nodes if node() is not None]


kept_of_two_heads = pytest.mark.parametrize(
    ("tokens", "kept"), [(600, 2), (600, 1), (2148, 0)], ids=["kept", "one head kept", "made again"]
)
"""Of how many heads the probabilities are kept for the backward pass."""


@kept_of_two_heads
def test_attention_in_bfloat16_on_the_cpu_is_as_exact_as_pytorchs_own(
    tokens: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64, at FLUX's head size, with logits as spread as those of a trained network."""
    monkeypatch.setattr(attention, "_KEPT_BYTES", kept * 2 * tokens**2)
    draw = torch.Generator().manual_seed(0)
    heads, features = 2, 128
    shape = (1, tokens, heads, features)
    common = torch.randn(1, 1, heads, features, generator=draw)
    query, key, value = (
        (torch.randn(shape, generator=draw) + 0.7 * common).bfloat16().requires_grad_() for _ in range(3)
    )
    gradient = torch.randn(1, tokens, heads * features, generator=draw) + 0.5
    weight = torch.full((features,), 1.5)
    turns = torch.polar(torch.ones(tokens, features // 2), torch.rand(tokens, features // 2, generator=draw))

    def reference(dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (query, key, value)]
        turned = []
        for tensor in leaves[:2]:
            exact = tensor.double()
            normed = exact * (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
            pairs = torch.view_as_complex(normed.unflatten(-1, (-1, 2)))
            turned.append(torch.view_as_real(pairs * turns[:, None].to(pairs.dtype)).flatten(-2).to(dtype))
        by_heads = [tensor.transpose(1, 2) for tensor in (*turned, leaves[2])]
        seen = F.scaled_dot_product_attention(by_heads[0], by_heads[1], by_heads[2])
        seen = seen.transpose(1, 2).flatten(2)
        return [seen.detach(), *torch.autograd.grad(seen, leaves, gradient.to(dtype))]

    exact, pytorchs = reference(torch.float64), reference(torch.bfloat16)
    seen = attend([query], [key], [value], [scaled(weight)], [weight], turns)
    ours = [seen.detach(), *torch.autograd.grad(seen, (query, key, value), gradient.bfloat16())]
    for own, theirs, true in zip(ours, pytorchs, exact, strict=True):
        assert distance(own, true) < max(1.25 * distance(theirs, true), 0.004)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@kept_of_two_heads
def test_the_last_tokens_alone_see_what_they_see_among_all(
    tokens: int, kept: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_KEPT_BYTES", kept * 2 * tokens**2)
    draw = torch.Generator().manual_seed(0)
    unread, shape = 220, (1, tokens, 2, 32)
    query, key, value = (torch.randn(shape, generator=draw).to(dtype).requires_grad_() for _ in range(3))
    weight = torch.full((32,), 1.5)
    turns = torch.polar(torch.ones(tokens, 16), torch.rand(tokens, 16, generator=draw))
    gradient = torch.randn(1, tokens, 64, generator=draw).to(dtype)
    gradient[:, :unread] = 0

    among_all = attend([query], [key], [value], [scaled(weight)], [weight], turns)
    alone = attend([query[:, unread:]], [key], [value], [scaled(weight)], [weight], turns)
    expected = torch.autograd.grad(among_all, (query, key, value), gradient)
    gradients = torch.autograd.grad(alone, (query, key, value), gradient[:, unread:])
    tolerance = 1e-6 if dtype is torch.float32 else 0.01
    for ours, theirs in zip((alone, *gradients), (among_all[:, unread:], *expected), strict=True):
        assert distance(ours, theirs) < tolerance


@kept_of_two_heads
def test_the_cpu_finds_the_few_keys_whose_logits_are_hundreds_above_all_others(
    tokens: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie between the keys that the CPU looks at first; each row is the mean of their values, and of no other."""
    monkeypatch.setattr(attention, "_KEPT_BYTES", kept * 2 * tokens**2)
    draw = torch.Generator().manual_seed(0)
    shape = (1, tokens, 2, 128)
    direction = torch.randn(1, 1, 2, 128, generator=draw).expand(shape)
    sought = torch.tensor([1, tokens // 2 + 1, tokens - 1])
    sign = torch.full((tokens, 1, 1), -1.0).index_fill(0, sought, 1.0)  # logits of about 181 and -181
    query, key, value = (
        tensor.bfloat16().requires_grad_()
        for tensor in (direction, direction * sign, torch.randn(shape, generator=draw))
    )
    weight, turns = torch.full((128,), 4.0), torch.ones(tokens, 64, dtype=torch.complex64)

    seen = attend([query], [key], [value], [scaled(weight)], [weight], turns)
    expected = value[:, sought].float().mean(1, keepdim=True).flatten(2).expand_as(seen)
    assert distance(seen, expected) < 0.004

    gradient = torch.randn(seen.shape, generator=draw).bfloat16()
    of_query, of_key, of_value = torch.autograd.grad(seen, (query, key, value), gradient)
    share = gradient.float().view(shape).sum(1) / len(sought)
    assert distance(of_value[:, sought], share[:, None].expand(1, 3, 2, 128)) < 0.004
    assert of_value.count_nonzero() == of_value[:, sought].count_nonzero()
    assert all(own.isfinite().all() for own in (of_query, of_key))
