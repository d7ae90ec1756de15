"""Muon for the matrices inside a network, AdamW for everything else: both of torch, at one learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from miniature.workers import Worker


class MuonWithAdamW:
    """Updates a network's inner matrices and convolutions by Muon, its other parameters by AdamW.

    A convolution is a matrix of (out, in x kernel) to Muon. Embeddings, the layers at a network's two ends, biases and
    gains go to AdamW, as Muon's author advises (Keller Jordan et al., "Muon", 2024). Muon's updates are scaled to the
    size of AdamW's (Liu et al., arXiv 2502.16982), so that one learning rate serves both.

    Muon's arithmetic is dear beside that of a narrow network: each worker updates its share of the matrices and the
    workers then exchange them.
    """

    def __init__(self, network: nn.Module, ends: tuple[str, ...], weight_decay: float, worker: Worker) -> None:
        """Divide the parameters. `ends` are the name parts of layers that AdamW updates whatever their shape."""
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            is_end = any(end in name for end in ends) or id(parameter) in embeddings
            (others if parameter.ndim < 2 or is_end else matrices).append(parameter)
        matrices.sort(key=Tensor.numel)  # so that every worker gets large and small ones
        self._worker, self._matrices = worker, matrices
        own = matrices[worker.rank :: worker.size]
        # A view of the same memory in two dimensions, which is all that torch's Muon takes.
        self._own = [(parameter, nn.Parameter(parameter.detach().flatten(1))) for parameter in own]
        flat = [view for _, view in self._own]
        self._muon = torch.optim.Muon(flat, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, learning_rate: float) -> None:
        """Update every parameter from its gradient and forget the gradients."""
        for parameter, view in self._own:
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for optimizer in (self._muon, self._adamw):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for parameter in self._matrices:
            parameter.grad = None
        self._worker.exchange([parameter.detach() for parameter in self._matrices])

    def state_dict(self) -> dict[str, Any]:
        """Return what this worker needs to go on later."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another process's `state_dict`."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
