"""Products in fp8 are those of the matrices that are held in it, to fp8's own rounding, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from flux.test_training_pass import Network, distance
from fluxbooth.flux import fp8
from fluxbooth.flux.architecture import Architecture
from fluxbooth.flux.fp8 import Fp8Matrix, scales_rows, turned_bytes
from fluxbooth.flux.stored import StorageForm, StoredLinear
from fluxbooth.flux.training_pass import use_training_pass
from fluxbooth.host.weights import BaseWeights

SIZES = [64, 32, 128]
INPUTS = [48, 80]
# What e4m3 rounds a number by at most: in a row where one of them stands out it is all that counts.
ROUNDED = 2**-4


class Matrix:
    """Three linears held in fp8, whose rows are of very different lengths, as one matrix and one by one."""

    def __init__(self, turned: bool = True, by_rows: bool | None = None) -> None:
        draw = torch.Generator().manual_seed(0)
        self._linears = [StoredLinear(sum(INPUTS), size, "fp8") for size in SIZES]
        for number, linear in enumerate(self._linears):
            lengths = 10 ** (3 * torch.rand(linear.out_features, 1, generator=draw) - 2 * number)
            linear.hold(lengths * torch.randn(linear.out_features, sum(INPUTS), generator=draw))
        self.bias = torch.randn(sum(SIZES), generator=draw).bfloat16()
        codes, scales = (torch.cat([getattr(own, name) for own in self._linears]) for name in ("codes", "scales"))
        self.in_fp8 = Fp8Matrix(codes, scales, SIZES, turned, by_rows)

    def exact(self) -> Tensor:
        """What is held, (O, I)."""
        return torch.cat([linear.codes.view(torch.float8_e4m3fn).double() * linear.scales for linear in self._linears])


def tokens(width: int, seed: int) -> Tensor:
    """37 rows whose lengths go over six powers of ten, each with a feature that stands out thirtyfold."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(37, width, generator=draw) * torch.logspace(-6, 0, 37)[:, None]
    values[:, width // 2] *= 30
    return values.bfloat16()


def largest_distance_of_a_row(ours: Tensor, exact: Tensor) -> float:
    return float(((ours.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


both_ways = pytest.mark.parametrize("by_rows", [True, False], ids=["scaled in the product", "scaled afterwards"])


@both_ways
def test_a_product_is_as_exact_as_fp8_in_every_row_and_column(by_rows: bool) -> None:
    """One scale for all rows, of the inputs or of the matrix, would lose the short ones."""
    matrix, inputs = Matrix(by_rows=by_rows), [tokens(width, seed=width) for width in INPUTS]
    exact = torch.cat(inputs, 1).double() @ matrix.exact().T
    ours = matrix.in_fp8.times(inputs, torch.zeros_like(matrix.bias))
    assert ours.dtype is torch.bfloat16
    assert distance(ours, exact) > 0.005
    assert largest_distance_of_a_row(ours, exact) < ROUNDED
    # A column has every row in it: each weighed by its own length.
    lengths = exact.norm(dim=1, keepdim=True)
    assert largest_distance_of_a_row((ours / lengths).T, (exact / lengths).T) < 2 * ROUNDED


@both_ways
@pytest.mark.parametrize("columns", [slice(None), slice(48, 128)], ids=["all", "the second input's"])
@pytest.mark.parametrize("turned", [True, False], ids=["held turned", "turned as it is used"])
def test_gradients_come_back_as_exact_as_fp8_in_every_row(turned: bool, columns: slice, by_rows: bool) -> None:
    matrix, gradients = Matrix(turned, by_rows), [1e-15 * tokens(size, seed=size) for size in SIZES]
    exact = torch.cat(gradients, 1).double() @ matrix.exact()[:, columns]
    assert largest_distance_of_a_row(matrix.in_fp8.back(gradients, columns), exact) < ROUNDED


@both_ways
def test_the_bias_is_added_as_it_is(by_rows: bool) -> None:
    matrix = Matrix(by_rows=by_rows)
    nothing = [torch.zeros(3, width, dtype=torch.bfloat16) for width in INPUTS]
    assert torch.equal(matrix.in_fp8.times(nothing, matrix.bias), matrix.bias.expand(3, -1))
    assert not matrix.in_fp8.back([torch.zeros(3, size, dtype=torch.bfloat16) for size in SIZES]).any()


@both_ways
def test_by_a_gpus_kernels_it_gives_the_same(by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton cannot be built, as here, these are the functions that they would be made of."""
    matrix, inputs = Matrix(by_rows=by_rows), [tokens(width, seed=1) for width in INPUTS]
    gradients = [tokens(size, seed=2) for size in SIZES]
    expected = matrix.in_fp8.times(inputs, matrix.bias), matrix.in_fp8.back(gradients)
    monkeypatch.setattr(fp8, "_has_kernels", lambda _: True)
    assert torch.equal(matrix.in_fp8.times(inputs, matrix.bias), expected[0])
    assert torch.equal(matrix.in_fp8.back(gradients), expected[1])


def test_both_ways_of_scaling_and_of_turning_give_the_same() -> None:
    inputs = [tokens(width, seed=1) for width in INPUTS]
    gradients = [tokens(size, seed=2) for size in SIZES]
    matrices = [Matrix(turned, by_rows) for turned in (True, False) for by_rows in (True, False)]
    products = [matrix.in_fp8.times(inputs, matrix.bias) for matrix in matrices]
    of_inputs = [matrix.in_fp8.back(gradients) for matrix in matrices]
    for made in (products, of_inputs):
        assert torch.equal(made[0], made[2])
        assert torch.equal(made[1], made[3])
        assert distance(made[1], made[0]) < 2**-8


def test_what_is_not_finite_is_not_hidden() -> None:
    matrix, inputs = Matrix(), [tokens(width, seed=1) for width in INPUTS]
    inputs[0][5, 7] = torch.inf
    product = matrix.in_fp8.times(inputs, matrix.bias)
    assert product[5].isnan().all()
    assert product[torch.arange(37) != 5].isfinite().all()


@pytest.fixture
def without_row_scales(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let products refuse a scale a row, as they do on Windows."""
    multiply = torch._scaled_mm

    def refusing(left: Tensor, right: Tensor, *, scale_a: Tensor, **arguments: Any) -> Tensor:
        if scale_a.numel() > 1:
            raise RuntimeError("Rowwise scaling is not currently supported on your device")
        return multiply(left, right, scale_a=scale_a, **arguments)

    scales_rows.cache_clear()
    monkeypatch.setattr(torch, "_scaled_mm", refusing)
    yield
    scales_rows.cache_clear()


@pytest.mark.usefixtures("without_row_scales")
def test_a_device_that_scales_no_rows_is_found_out_and_multiplies_all_the_same() -> None:
    matrix, inputs = Matrix(), [tokens(width, seed=1) for width in INPUTS]
    exact = torch.cat(inputs, 1).double() @ matrix.exact().T
    assert largest_distance_of_a_row(matrix.in_fp8.times(inputs, torch.zeros_like(matrix.bias)), exact) < ROUNDED


def test_pictures_of_other_sizes_make_no_new_kernel() -> None:
    torch._dynamo.reset()
    made = CompileCounter()
    compiled = torch.compile(fp8._gradients_in_fp8, dynamic=True, fullgraph=True, backend=made)
    for rows in (37, 64, 100):
        for width in (48, 80):
            for linears in (1, 3, 4):
                own = [torch.randn(rows, width).bfloat16() for _ in range(linears)]
                compiled(own, [torch.rand(width) for _ in own])
    assert made.frame_count == 3
    torch._dynamo.reset()


def test_sides_that_no_gpu_multiplies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sides that 16 divides, not \(32, 24\)"):
        Fp8Matrix(torch.zeros(32, 24, dtype=torch.uint8), torch.ones(32, 1), [32])


@pytest.mark.parametrize("form", ["full", "int8", "nf4"])
def test_matrices_that_are_not_held_in_fp8_are_refused(
    weights: BaseWeights, architecture: Architecture, form: StorageForm
) -> None:
    network = Network(weights, architecture, torch.bfloat16, form)
    with pytest.raises(ValueError, match="fp8 products are of matrices that are held in fp8"):
        use_training_pass(network.transformer, fp8_products=True)


def network_in_fp8(weights: BaseWeights, architecture: Architecture, recomputed: int = 0) -> Network:
    network = Network(weights, architecture, torch.bfloat16, "fp8")
    use_training_pass(network.transformer, recomputed, fp8_products=True)
    return network


def test_the_miniature_and_its_gradients_differ_by_fp8s_rounding_alone(
    weights: BaseWeights, architecture: Architecture
) -> None:
    """Held against bfloat16 products of the same matrices, which themselves are 1.4 % and 2 % off float32's."""
    held = Network(weights, architecture, torch.bfloat16, "fp8")
    use_training_pass(held.transformer)
    network = network_in_fp8(weights, architecture)
    expected, ours = held.velocity_and_gradients(), network.velocity_and_gradients()
    # CLIP's gradient has few numbers: it is from 2.5 % shorter to 2 % longer, by the noise.
    limits = ((0.08, 0.02), (0.1, 0.02), (0.1, 0.04))
    for own, theirs, (largest, longer) in zip(ours, expected, limits, strict=True):
        assert 0.01 < distance(own, theirs) < largest
        # Not only near, but neither longer nor shorter: errors that all point one way would add up over the steps.
        assert float((own * theirs).sum() / theirs.square().sum()) == pytest.approx(1, abs=longer)
    for own, theirs in zip(network.parameters, held.parameters, strict=True):
        assert own.grad is not None
        assert theirs.grad is not None
        assert F.cosine_similarity(own.grad.flatten(), theirs.grad.flatten(), 0) > 0.96


def test_recomputed_blocks_give_the_same_bits(weights: BaseWeights, architecture: Architecture) -> None:
    gradients = [network_in_fp8(weights, architecture, blocks).velocity_and_gradients()[1] for blocks in (0, 99)]
    assert torch.equal(*gradients)


def test_the_turned_matrices_take_what_is_foreseen(weights: BaseWeights, architecture: Architecture) -> None:
    """And the others no more than before: joined, they are the linears' own."""
    config = architecture.transformer
    foreseen = turned_bytes((config["num_layers"], config["num_single_layers"]), architecture.width)
    network = Network(weights, architecture, torch.bfloat16, "fp8")
    multiplied = [
        module
        for name, module in network.transformer.named_modules()
        if isinstance(module, StoredLinear) and ".norm" not in name
    ]
    assert sum(module.codes.numel() for module in multiplied) == foreseen
    use_training_pass(network.transformer, fp8_products=True)
    storages = {module.codes.untyped_storage().data_ptr(): module.codes.untyped_storage() for module in multiplied}
    assert sum(storage.nbytes() for storage in storages.values()) == foreseen
