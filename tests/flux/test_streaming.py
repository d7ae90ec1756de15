"""Blocks that wait in the machine's memory are brought in time, and nothing is computed differently for it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from builders import velocity
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.flow import predict_velocity
from fluxbooth.flux.lora import (
    ALL_BLOCKS,
    Blocks,
    add_lora,
    apply_lora,
    as_base,
    lora_of_file,
    lora_tensors,
    without_lora,
)
from fluxbooth.flux.parts import load_transformer
from fluxbooth.flux.projection import Projection
from fluxbooth.flux.stored import StorageForm
from fluxbooth.flux.streaming import BlockStream, stream_blocks, streamed_blocks
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights

CPU = torch.device("cpu")


@given(
    double=st.integers(0, 19),
    single=st.integers(0, 38),
    share=st.floats(0, 1),
    beside=st.sets(st.integers(0, 56)),
)
def test_as_many_blocks_are_streamed_as_are_asked_for_single_ones_first(
    double: int, single: int, share: float, beside: set[int]
) -> None:
    left = set(range(double + single)) - beside
    count = round(share * len(left))
    chosen = streamed_blocks(double, single, count, beside)
    assert len(chosen) == count
    assert chosen <= left
    if any(number < double for number in chosen):
        assert chosen >= {number for number in left if number >= double}


def test_streamed_blocks_lie_apart() -> None:
    assert sorted(streamed_blocks(19, 38, 4)) == [19 + 4, 19 + 14, 19 + 23, 19 + 33]


class Numbers:
    """Holds one tensor, which says of which block it is."""

    def __init__(self, number: int) -> None:
        self.tensor = torch.full((3, 5), float(number))

    def held(self) -> list[Tensor]:
        return [self.tensor]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        (self.tensor,) = tensors


@given(
    blocks=st.sets(st.integers(0, 9), min_size=1),
    asked_for=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30),
)
def test_in_whatever_order_blocks_are_asked_for_they_are_there(
    blocks: set[int], asked_for: list[tuple[int, bool]]
) -> None:
    """Asked for are also blocks that are not streamed, between the others."""
    holders = {number: Numbers(number) for number in blocks}
    stream = BlockStream({number: [holder] for number, holder in holders.items()}, CPU)
    for number, backward in asked_for:
        stream.bring(number, backward=backward)
        if number in holders:
            assert (holders[number].tensor == number).all()


class Trained:
    """The miniature with a LoRA that has an effect, some of its blocks streamed."""

    def __init__(
        self,
        weights: BaseWeights,
        architecture: Architecture,
        streamed: int,
        form: StorageForm = "full",
        recomputed: int = 0,
        fp8_products: bool = False,
        blocks: Blocks = ALL_BLOCKS,
    ) -> None:
        dtype = torch.bfloat16 if fp8_products else torch.float32
        self.transformer = load_transformer(weights, architecture, dtype, CPU, form, streamed)
        self.parameters = add_lora(self.transformer, 4, 4, seed=0, blocks=blocks)
        draw = torch.Generator().manual_seed(1)
        for parameter in self.parameters:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
        self.training_pass = use_training_pass(self.transformer, recomputed, streamed, fp8_products)
        width, pooled = (architecture.transformer[key] for key in ("joint_attention_dim", "pooled_projection_dim"))
        self._latents = torch.randn(1, 16, 12, 12, generator=draw)
        self._text = torch.randn(1, architecture.t5_tokens, width, generator=draw)
        # CLIP is trained, too: its vector's gradient goes through the modulations' matrices.
        self.pooled = torch.randn(1, pooled, generator=draw).requires_grad_()

    def velocity(self) -> Tensor:
        sigmas = torch.tensor([0.5])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.transformer.dtype is torch.bfloat16):
            return predict_velocity(self.transformer, self._latents, sigmas, self._text, self.pooled, 1.0).float()

    def step(self) -> list[Tensor]:
        """The velocity and every gradient of its mean square."""
        velocity = self.velocity()
        velocity.square().mean().backward()
        leaves = [*self.parameters, self.pooled]
        gradients = [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]
        assert len(gradients) == len(leaves)
        for leaf in leaves:
            leaf.grad = None
        return [velocity.detach(), *gradients]


@pytest.mark.parametrize("form", ["full", "fp8", "nf4"])
@pytest.mark.parametrize("recomputed", [0, 99], ids=["all kept", "all recomputed"])
def test_a_step_has_the_same_bits_however_many_blocks_are_streamed(
    weights: BaseWeights, architecture: Architecture, form: StorageForm, recomputed: int
) -> None:
    shapes = architecture.transformer
    blocks = shapes["num_layers"] + shapes["num_single_layers"]
    plain = Trained(weights, architecture, 0, form, recomputed)
    expected = [plain.step() for _ in range(2)]
    for streamed in (1, blocks - 1, blocks):
        trained = Trained(weights, architecture, streamed, form, recomputed)
        for same in expected:
            assert all(torch.equal(*pair) for pair in zip(trained.step(), same, strict=True))


@pytest.fixture
def gone_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies where it waits, and not in a room, is no number: as a GPU could not compute with it."""
    hold = Projection.hold
    waiting_places: WeakKeyDictionary[Projection, int] = WeakKeyDictionary()

    def hold_as_on_a_gpu(self: Projection, tensors: Sequence[Tensor]) -> None:
        place = tensors[0].untyped_storage().data_ptr()
        waits = waiting_places.setdefault(self, place) == place  # which is where it is put first
        hold(self, [_gone(own) for own in tensors] if waits else tensors)

    monkeypatch.setattr(Projection, "hold", hold_as_on_a_gpu)


def _gone(tensor: Tensor) -> Tensor:
    """No number in bfloat16 and float32, nor in fp8, which is held as bytes."""
    return torch.full_like(tensor, torch.nan if tensor.is_floating_point() else 255)


@pytest.mark.parametrize("recomputed", [0, 99], ids=["all kept", "all recomputed"])
@pytest.mark.parametrize(
    "blocks",
    [ALL_BLOCKS, Blocks(single=()), Blocks(double=()), Blocks(double=(1,), single=(0, 2))],
    ids=["all", "double", "single", "some"],
)
@pytest.mark.usefixtures("gone_where_it_waits")
def test_no_block_is_left_before_its_backward_pass_is_done(
    weights: BaseWeights, architecture: Architecture, recomputed: int, blocks: Blocks
) -> None:
    plain = Trained(weights, architecture, 0, recomputed=recomputed, blocks=blocks)
    streamed = Trained(weights, architecture, 99, recomputed=recomputed, blocks=blocks)
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(streamed.step(), plain.step(), strict=True))
        with torch.no_grad():
            assert torch.equal(streamed.velocity(), plain.velocity())


@pytest.mark.parametrize("recomputed", [0, 99], ids=["all kept", "all recomputed"])
@pytest.mark.usefixtures("gone_where_it_waits")
def test_a_pass_that_ended_half_way_changes_nothing_of_the_next(
    weights: BaseWeights, architecture: Architecture, recomputed: int
) -> None:
    """As where the memory was full, and the step is done again."""

    def fill_memory(_: Tensor) -> None:
        raise torch.OutOfMemoryError

    plain, streamed = (Trained(weights, architecture, count, recomputed=recomputed) for count in (0, 99))
    for number in (0, len(streamed.parameters) // 2, -1):
        full = streamed.parameters[number].register_hook(fill_memory)
        with pytest.raises(torch.OutOfMemoryError):
            streamed.step()
        full.remove()
        for leaf in (*streamed.parameters, streamed.pooled):
            leaf.grad = None
        assert all(torch.equal(*pair) for pair in zip(streamed.step(), plain.step(), strict=True))


@pytest.mark.parametrize("form", ["full", "fp8"])
@pytest.mark.parametrize("begun_with", [0, 1, 3])
@pytest.mark.usefixtures("gone_where_it_waits")
def test_more_blocks_can_be_streamed_between_two_steps(
    weights: BaseWeights, architecture: Architecture, begun_with: int, form: StorageForm
) -> None:
    """Single blocks, then double ones as well, for which the rooms are too small."""
    plain, streamed = (Trained(weights, architecture, count, form) for count in (0, begun_with))
    for more in (1, 2, 99):
        assert all(torch.equal(*pair) for pair in zip(streamed.step(), plain.step(), strict=True))
        before = streamed.training_pass.streamed
        streamed.training_pass.stream_more(more)
        assert streamed.training_pass.streamed == min(before + more, streamed.training_pass.blocks)
    assert all(torch.equal(*pair) for pair in zip(streamed.step(), plain.step(), strict=True))
    with torch.no_grad(), without_lora(streamed.transformer), without_lora(plain.transformer):
        assert torch.equal(streamed.velocity(), plain.velocity())


def test_rooms_that_are_too_small_are_given_up() -> None:
    def in_memory(size: int) -> int:
        tensors = [tensor for tensor in gc.get_objects() if issubclass(type(tensor), Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return len({storage.data_ptr() for storage in storages if storage.nbytes() == size})

    small, large = Numbers(0), Numbers(1)
    small.tensor, large.tensor = torch.zeros(64 * 101), torch.ones(64 * 103)
    stream = BlockStream({0: [small]}, CPU)
    stream.bring(0)
    assert in_memory(256 * 101) == 3, "two rooms, and what waits"
    stream.let_wait({1: [large]})
    for number, holder in enumerate((small, large)):
        stream.bring(number)
        assert (holder.tensor == number).all()
    assert in_memory(256 * 101) == 1
    assert in_memory(256 * 103) == 3


def test_products_in_fp8_have_the_same_bits_too(weights: BaseWeights, architecture: Architecture) -> None:
    """What is brought is turned round for each of them, where plain ones hold it turned until they let go of it."""
    plain = Trained(weights, architecture, 0, "fp8", fp8_products=True)
    expected = plain.step()
    for more in (0, 2, 99):
        assert plain.training_pass.hold_none_turned() == (more == 0)
        plain.training_pass.stream_more(more)
        assert all(torch.equal(*pair) for pair in zip(plain.step(), expected, strict=True))
    for streamed in (2, 99):
        trained = Trained(weights, architecture, streamed, "fp8", fp8_products=True)
        for _ in range(2):
            assert all(torch.equal(*pair) for pair in zip(trained.step(), expected, strict=True))


@pytest.mark.usefixtures("gone_where_it_waits")
def test_drawing_and_comparing_between_two_steps_changes_nothing(
    weights: BaseWeights, architecture: Architecture
) -> None:
    plain, streamed = Trained(weights, architecture, 0), Trained(weights, architecture, 4)
    for _ in range(2):
        with torch.no_grad(), without_lora(streamed.transformer), without_lora(plain.transformer):
            assert torch.equal(streamed.velocity(), plain.velocity())
        assert all(torch.equal(*pair) for pair in zip(streamed.step(), plain.step(), strict=True))


def test_the_device_has_room_for_two_blocks_and_the_others_wait_unharmed(
    weights: BaseWeights, architecture: Architecture
) -> None:
    plain, streamed = (Trained(weights, architecture, count) for count in (0, 99))
    streamed.step()
    lie_in: dict[int, int] = {}
    for own, same in zip(
        streamed.transformer.single_transformer_blocks, plain.transformer.single_transformer_blocks, strict=True
    ):
        ours, theirs = own.proj_out.base_layer.weight, same.proj_out.base_layer.weight
        assert torch.equal(ours, theirs)
        place = ours.untyped_storage().data_ptr()
        lie_in[place] = lie_in.get(place, 0) + 1
    assert set(lie_in.values()) == {1}


@pytest.mark.usefixtures("gone_where_it_waits")
def test_with_a_lora_file_diffusers_own_pass_draws_the_same(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    """Checkpoints are judged with the transformer that is being trained, by the files that were written."""
    plain, streamed = Trained(weights, architecture, 0), Trained(weights, architecture, 99)
    file = tmp_path / "lora.safetensors"
    save_tensors(file, lora_tensors(plain.transformer, torch.float32), {})
    velocities = []
    for trained in (plain, streamed):
        with torch.no_grad(), lora_of_file(trained.transformer, file, strength=0.7):
            velocities.append(trained.velocity())
        with torch.no_grad(), as_base(trained.transformer):
            velocities.append(trained.velocity())
    with_lora, base, with_lora_streamed, base_streamed = velocities
    assert torch.equal(with_lora, with_lora_streamed)
    assert torch.equal(base, base_streamed)
    assert not torch.equal(with_lora, base)


@pytest.mark.usefixtures("gone_where_it_waits")
def test_a_transformer_that_is_not_trained_is_streamed_with_what_was_added_to_its_weights(
    weights: BaseWeights, architecture: Architecture, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    save_tensors(file, lora_tensors(Trained(weights, architecture, 0).transformer, torch.float32), {})
    drawn = []
    for streamed in (0, 5, 99):
        transformer = load_transformer(weights, architecture, torch.float32, CPU, streamed=streamed)
        apply_lora(transformer, file, 0.7)
        stream_blocks(transformer, streamed)
        drawn += [velocity(transformer), velocity(transformer)]
    assert all(torch.equal(one, drawn[0]) for one in drawn)
