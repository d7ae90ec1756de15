"""The transformer's pass as training runs it: the same weights, the same numbers to rounding, less work and memory.

B samples, L image tokens, S text tokens, F features of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fluxbooth.flux.attention import attend, scaled
from fluxbooth.flux.fused import Source, gated_project, norm_project, project
from fluxbooth.flux.projection import Projection, has_plain_lora
from fluxbooth.flux.rotary import rotations
from fluxbooth.flux.streaming import BlockStream, stream_blocks


def use_training_pass(
    transformer: FluxTransformer2DModel,
    recomputed: int = 0,
    streamed: int = 0,
    fp8_products: bool = False,
    turned: bool = True,
    whole: int = 0,
) -> TrainingPass:
    """Let the transformer compute by a `TrainingPass` from now on, with its LoRA on or off, and return that.

    Args:
        recomputed, streamed, fp8_products, turned, whole: as `TrainingPass` takes them.

    Raises:
        ValueError: for a LoRA that does more than two matrices (`has_plain_lora`), and for products in fp8 of matrices
            that are not held in it.
    """
    if not has_plain_lora(transformer):
        raise ValueError("a LoRA with dropout, or one that is no plain LoRA, is computed by diffusers' pass")
    training_pass = TrainingPass(transformer, recomputed, streamed, fp8_products, turned, whole)
    transformer.forward = training_pass
    return training_pass


class TrainingPass:
    """Does what `FluxTransformer2DModel.forward` does, of the arguments that training gives it."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        recomputed: int = 0,
        streamed: int = 0,
        fp8_products: bool = False,
        turned: bool = True,
        whole: int = 0,
    ) -> None:
        """Join the matrices that read the same input.

        Args:
            recomputed: blocks, the double ones first, that keep their inputs alone for the backward pass.
            streamed: blocks, those of `streamed_blocks`, whose matrices are brought to the transformer's device as they
                are needed, wherever they are now.
            fp8_products: multiply with the matrices inside the blocks, but for the modulations', in fp8.
            turned: with them, as `Fp8Matrix` takes it; never where blocks are streamed, which would take twice as long.
            whole: blocks, the single ones first, that keep everything for the backward pass; those that are neither
                these nor recomputed make norms, activations and turned queries and keys again.
        """
        self.recomputed = recomputed
        """May be changed between two passes."""
        self.whole = whole
        """Likewise."""
        self._transformer = transformer
        joined = partial(Projection, fp8_products=fp8_products, turned=turned and not streamed)
        self._double = [_DoubleBlock(block, joined) for block in transformer.transformer_blocks]
        *single, last = transformer.single_transformer_blocks
        self._single = [_SingleBlock(block, joined) for block in single]
        self._last = _LastBlock(last, joined)
        blocks: Sequence[_Block] = [*self._double, *self._single, self._last]
        self._projections = [block.projections for block in blocks]
        self._stream = stream_blocks(transformer, streamed, self._projections)

    @property
    def blocks(self) -> int:
        """Double and single ones."""
        return len(self._projections)

    @property
    def streamed(self) -> int:
        """Blocks that are brought to the device as they are needed."""
        return len(self._stream.numbers) if self._stream else 0

    def stream_more(self, count: int) -> None:
        """Let so many more blocks be streamed from the next pass on; never during one."""
        self._stream = stream_blocks(self._transformer, count, self._projections, self._stream)

    def hold_none_turned(self) -> bool:
        """Let go of matrices of fp8 products that are held turned round, too; return whether there were any."""
        in_fp8 = [own.in_fp8 for of_block in self._projections for own in of_block if own.in_fp8]
        held = [matrix for matrix in in_fp8 if matrix.turned is not None]
        for matrix in held:
            matrix.turned = None
        return bool(held)

    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """(B, L, 64) noisy tokens -> (B, L, 64) velocity; the arguments are those of diffusers' class."""
        model = self._transformer
        times = (timestep * 1000, *(() if guidance is None else (guidance * 1000,)))
        condition = model.time_text_embed(*times, pooled_projections)
        image, text = model.x_embedder(hidden_states), model.context_embedder(encoder_hidden_states)
        turns = rotations(*model.pos_embed(torch.cat([txt_ids, img_ids])))
        activated = F.silu(condition).to(image.dtype)
        with torch.autocast(image.device.type, enabled=False):
            for number, double_block in enumerate(self._double):
                text, image = self._run(number, double_block, activated, text, image, turns)
            tokens = torch.cat([text, image], dim=1)
            for number, single_block in enumerate(self._single, len(self._double)):
                (tokens,) = self._run(number, single_block, activated, tokens, turns)
            (image,) = self._run(self.blocks - 1, self._last, activated, tokens, tokens[:, text.shape[1] :], turns)
        outputs = model.norm_out(image, condition)
        return (model.proj_out(outputs),)

    def _run(self, number: int, block: _Block, condition: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self._stream is not None:
            self._stream.bring(number)
        inputs = *tensors, *block.modulations(condition)
        if number < self.recomputed and torch.is_grad_enabled():
            again = partial(block, recomputed=True)
            outputs: tuple[Tensor, ...] = checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            outputs = block(*inputs, whole=number >= self.blocks - self.whole)
        if self._stream is not None:
            self._bring_for_backward(number, self._stream, outputs)
        return outputs

    @staticmethod
    def _bring_for_backward(number: int, stream: BlockStream, outputs: Sequence[Tensor]) -> None:
        """Bring a block again as soon as the first gradient of what came out of it is there."""
        for output in outputs:
            if output.requires_grad:
                output.register_hook(lambda _: stream.bring(number, backward=True))


class _Block(Protocol):
    """A block of the transformer, with the matrices that read the same input joined."""

    @property
    def projections(self) -> Sequence[Projection]:
        """All of its matrices."""

    def modulations(self, condition: Tensor) -> tuple[Tensor, ...]:
        """What the noise level, the guidance and CLIP's vector, (B, F), make of the block."""

    def __call__(self, *tensors: Tensor, recomputed: bool = False, whole: bool = False) -> tuple[Tensor, ...]:
        """Tokens, turns and modulations -> tokens; the last block takes the image's tokens, too, which alone it gives.

        Args:
            recomputed: it is done again for the backward pass.
            whole: keep everything for that.
        """


class _Heads:
    """A block's attention, which divides features among heads."""

    def __init__(self, query_norms: Sequence[nn.RMSNorm], key_norms: Sequence[nn.RMSNorm]) -> None:
        self._query_weights = [scaled(norm.weight) for norm in query_norms]
        self._key_weights = [norm.weight.float() for norm in key_norms]

    def attend(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], turns: Tensor, *, whole: bool
    ) -> Tensor:
        """`attend` of (B, n, F) each: (B, n of the queries, F)."""
        by_head = (-1, len(self._key_weights[0]))
        queries, keys, values = ([own.unflatten(-1, by_head) for own in each] for each in (queries, keys, values))
        return attend(queries, keys, values, self._query_weights, self._key_weights, turns, whole=whole)


class _DoubleBlock:
    """Text and image with weights of their own; they meet in attention."""

    def __init__(self, block: FluxTransformerBlock, joined: Callable[[Sequence[nn.Module]], Projection]) -> None:
        attention = block.attn
        self._image_qkv = joined([attention.to_q, attention.to_k, attention.to_v])
        self._text_qkv = joined([attention.add_q_proj, attention.add_k_proj, attention.add_v_proj])
        self._image_out, self._text_out = joined([attention.to_out[0]]), joined([attention.to_add_out])
        self._image_up, self._image_down = joined([block.ff.net[0].proj]), joined([block.ff.net[2]])
        self._text_up, self._text_down = (
            joined([block.ff_context.net[0].proj]),
            joined([block.ff_context.net[2]]),
        )
        self._heads = _Heads([attention.norm_added_q, attention.norm_q], [attention.norm_added_k, attention.norm_k])
        self._image_modulation = Projection([block.norm1.linear])
        self._text_modulation = Projection([block.norm1_context.linear])
        self.projections: Sequence[Projection] = [own for own in vars(self).values() if isinstance(own, Projection)]

    def modulations(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Twelve (B, F): shift, scale and gate of attention and of the feed-forward, of the image and of the text."""
        both = self._image_modulation, self._text_modulation
        return tuple(value for own in both for value in project(condition, own).chunk(6, -1))

    def __call__(self, *tensors: Tensor, recomputed: bool = False, whole: bool = False) -> tuple[Tensor, ...]:
        text, image, turns, *modulations = tensors
        of_image, of_text = modulations[:6], modulations[6:]
        image_qkv = norm_project(image, of_image[1], of_image[0], self._image_qkv, whole=whole)
        text_qkv = norm_project(text, of_text[1], of_text[0], self._text_qkv, whole=whole)
        queries, keys, values = zip(text_qkv, image_qkv, strict=True)
        seen = self._heads.attend(queries, keys, values, turns, whole=recomputed or whole)
        seen_by_text, seen_by_image = seen.split([text.shape[1], image.shape[1]], dim=1)
        after = partial(_after_attention, whole=whole)
        image = after(image, seen_by_image, of_image, self._image_out, self._image_up, self._image_down)
        text = after(text, seen_by_text, of_text, self._text_out, self._text_up, self._text_down)
        return text, image


def _after_attention(
    tokens: Tensor,
    seen: Tensor,
    modulations: Sequence[Tensor],
    out: Projection,
    up: Projection,
    down: Projection,
    *,
    whole: bool,
) -> Tensor:
    """One stream's way from attention to the end of its double block: (B, n, F)."""
    _, _, gate, shift, scale, gate_of_feed_forward = modulations
    tokens = gated_project(tokens, gate, [seen], [Source(False, 0, seen.shape[-1])], out)
    (inner,) = norm_project(tokens, scale, shift, up, whole=whole)
    source = Source(True, 0, inner.shape[-1])
    return gated_project(tokens, gate_of_feed_forward, [inner], [source], down, whole=whole)


class _AnySingleBlock:
    """What all single blocks have behind the projections that tokens go into."""

    def __init__(
        self,
        block: FluxSingleTransformerBlock,
        joined: Callable[[Sequence[nn.Module]], Projection],
        into: Sequence[Projection],
    ) -> None:
        self._heads = _Heads([block.attn.norm_q], [block.attn.norm_k])
        self._out = joined([block.proj_out])
        self._modulation = Projection([block.norm.linear])
        self.projections: Sequence[Projection] = [*into, self._out, self._modulation]

    def modulations(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Three (B, F): shift, scale and gate."""
        return tuple(project(condition, self._modulation).chunk(3, -1))

    def _after_projections(
        self, tokens: Tensor, gate: Tensor, projected: Sequence[Tensor], turns: Tensor, recomputed: bool, whole: bool
    ) -> Tensor:
        """From queries, keys, values and the feed-forward to the end of the block, for `tokens`, (B, n, F)."""
        query, key, value, inner = projected
        seen = self._heads.attend([query], [key], [value], turns, whole=recomputed or whole)
        width = tokens.shape[-1]
        sources = [Source(False, 0, width), Source(True, width, width + inner.shape[-1])]
        return gated_project(tokens, gate, [seen, inner], sources, self._out, whole=whole)


class _SingleBlock(_AnySingleBlock):
    """Text and image as one row of tokens; attention and feed-forward beside each other."""

    def __init__(self, block: FluxSingleTransformerBlock, joined: Callable[[Sequence[nn.Module]], Projection]) -> None:
        self._in = joined([block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp])
        super().__init__(block, joined, [self._in])

    def __call__(self, *tensors: Tensor, recomputed: bool = False, whole: bool = False) -> tuple[Tensor, ...]:
        tokens, turns, shift, scale, gate = tensors
        projected = norm_project(tokens, scale, shift, self._in, whole=whole)
        return (self._after_projections(tokens, gate, projected, turns, recomputed, whole),)


class _LastBlock(_AnySingleBlock):
    """The last single block. Nothing reads the text behind it, of which it makes keys and values alone."""

    def __init__(self, block: FluxSingleTransformerBlock, joined: Callable[[Sequence[nn.Module]], Projection]) -> None:
        self._keys_values = joined([block.attn.to_k, block.attn.to_v])
        self._queries_up = joined([block.attn.to_q, block.proj_mlp])
        super().__init__(block, joined, [self._keys_values, self._queries_up])

    def __call__(self, *tensors: Tensor, recomputed: bool = False, whole: bool = False) -> tuple[Tensor, ...]:
        tokens, image, turns, shift, scale, gate = tensors
        key, value = norm_project(tokens, scale, shift, self._keys_values, whole=whole)
        query, inner = norm_project(image, scale, shift, self._queries_up, whole=whole)
        return (self._after_projections(image, gate, (query, key, value, inner), turns, recomputed, whole),)
