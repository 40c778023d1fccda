# SPDX-License-Identifier: Apache-2.0
"""A flex token dispatcher in the six steps of Megatron-Core, for MoE layers of one's own.

    hidden, probs = dispatcher.dispatch_preprocess(hidden, routing_map, probs)
    hidden, probs = dispatcher.token_dispatch(hidden, probs)
    rows, tokens_per_expert, row_probs = dispatcher.dispatch_postprocess(hidden, probs)
    rows = experts(rows, tokens_per_expert, row_probs)  # weighted by row_probs there: combine only adds
    hidden = dispatcher.combine_preprocess(rows)
    hidden = dispatcher.token_combine(hidden)
    hidden = dispatcher.combine_postprocess(hidden)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from . import DispatchHandle, InvalidArgument
from .torch import combine, dispatch

__all__ = ["FlexDispatcherConfig", "FlexTokenDispatcher"]


@dataclasses.dataclass(frozen=True)
class FlexDispatcherConfig:
    """Options under their names in Megatron-Core and in flexep/moe/moe_config.h."""

    num_moe_experts: int
    moe_router_topk: int = 2
    moe_expert_capacity_factor: float | None = None  # given: pairs of probability 0, as the router's drops, do not travel
    moe_respect_routing_map: bool = False  # pairs that the map excludes do not travel
    moe_flex_dispatcher_num_sms: int = 0  # threads; 0: the buffer's
    expert_alignment: int = 1  # each expert's rows start at a multiple of it, with zeros between
    max_recv_tokens: int = 0  # most rows of this rank; what is beyond is dropped and counted in `num_dropped_tokens`


class FlexTokenDispatcher:
    """Carries one microbatch at a time to its experts and back, with gradients for rows and probabilities.

    `buffer` is a flexep.ElasticBuffer or a flexep.deep_ep.ElasticBuffer; all ranks take the same steps. As in Megatron-Core the
    `moe_router_topk` experts of largest probability are taken, whatever the routing map says, unless the options say otherwise.
    """

    def __init__(self, buffer: Any, config: FlexDispatcherConfig) -> None:
        if not 0 < config.moe_router_topk <= config.num_moe_experts:
            raise InvalidArgument(
                f"moe_router_topk is {config.moe_router_topk}, outside [1, {config.num_moe_experts}]", "moe_router_topk"
            )
        self.buffer = buffer
        self.config = config
        self._hidden_shape: torch.Size | None = None
        self._topk_idx: torch.Tensor | None = None
        self._handle: DispatchHandle | None = None

    def dispatch_preprocess(
        self, hidden: torch.Tensor, routing_map: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[..., H], [T, E], [T, E] -> ([T, H], [T, K] probabilities of the pairs that travel)."""
        config = self.config
        self._hidden_shape = hidden.shape
        hidden = hidden.reshape(-1, hidden.size(-1))
        expected = (hidden.size(0), config.num_moe_experts)
        if probs.shape != expected or routing_map.shape != expected:
            raise InvalidArgument(
                f"routing_map and probs must be {expected}, and are {tuple(routing_map.shape)} and {tuple(probs.shape)}",
                "probs",
            )
        if config.moe_respect_routing_map:
            probs = probs.masked_fill(~routing_map.bool(), 0)
        topk_probs, topk_idx = probs.topk(config.moe_router_topk, dim=1)
        if config.moe_expert_capacity_factor is not None:
            topk_idx = topk_idx.masked_fill(topk_probs == 0, -1)
        if config.moe_respect_routing_map:
            topk_idx = topk_idx.masked_fill(~routing_map.bool().gather(1, topk_idx.clamp(min=0)), -1)
        self._topk_idx = topk_idx
        return hidden, topk_probs.float()

    def token_dispatch(self, hidden: torch.Tensor, probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, H], [T, K] -> ([rows, H], [rows]), grouped by local expert."""
        config = self.config
        received = dispatch(
            self.buffer,
            hidden,
            self._topk_idx,
            probs,
            num_experts=config.num_moe_experts,
            do_expand=True,
            expert_alignment=config.expert_alignment,
            max_recv_tokens=config.max_recv_tokens,
            num_sms=config.moe_flex_dispatcher_num_sms,
        )
        self._topk_idx, self._handle = None, received.handle
        return received.x, received.topk_weights

    def dispatch_postprocess(
        self, hidden: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows, int64 [El] rows of each expert, gaps included, probabilities): they arrived in order."""
        return hidden, torch.tensor(self._handle.num_recv_tokens_per_expert_list), probs

    def combine_preprocess(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def token_combine(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, H] -> [T, H], sums over the experts of each token."""
        handle, self._handle = self._handle, None
        return combine(self.buffer, hidden, handle, num_sms=self.config.moe_flex_dispatcher_num_sms)[0]

    def combine_postprocess(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, H] -> the shape that the microbatch came in."""
        return hidden.view(self._hidden_shape)

    @property
    def num_dropped_tokens(self) -> list[int]:
        """Between dispatch and combine: pairs that max_recv_tokens dropped, by local expert."""
        return torch.from_dlpack(self._handle.num_dropped_tokens).tolist()
