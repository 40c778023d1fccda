# SPDX-License-Identifier: Apache-2.0
"""What travels beside the rows of the older Buffer: its ids and weights keep their columns, whatever the order of sums needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .._torch_tensor import dispatched


class OwnExperts(NamedTuple):
    first: int
    num_experts: int


class Luggage(NamedTuple):
    """[T, P] scales, [T, K] ids and weights of this rank's tokens, each or none."""

    scales: torch.Tensor | None
    topk_idx: torch.Tensor | None
    topk_weights: torch.Tensor | None

    @property
    def num_packs(self) -> int:
        return 0 if self.scales is None else self.scales.size(1)

    def packed(self) -> torch.Tensor | None:
        """int32 [T, P + 2 K], as dispatch moves scaling factors."""
        parts = [] if self.scales is None else [self.scales.view(torch.int32)]
        if self.topk_idx is not None:
            parts += [self.topk_idx.int(), self.topk_weights.float().view(torch.int32)]
        return torch.cat(parts, dim=1) if parts else None


class Received:
    """Outputs of a dispatch. Those that are not the engine's own are there after `fill`, which needs the rows to have arrived."""

    def __init__(self, result: Any, luggage: Luggage, own: OwnExperts, dtype: torch.dtype, num_rows: int = 0) -> None:
        arrived, _, _, self._packed = dispatched(result)
        self._arrived = arrived if arrived.dtype == dtype else arrived.view(dtype)
        self._num_packs, self._own = luggage.num_packs, own
        self._num_arrived = len(self._arrived)
        num_rows = max(num_rows, self._num_arrived)
        is_whole = num_rows == self._num_arrived
        self.x = self._arrived if is_whole else self._arrived.new_empty(num_rows, self._arrived.size(1))
        self.scales = self.topk_idx = self.topk_weights = None
        if luggage.scales is not None:
            self.scales = luggage.scales.new_empty(num_rows, self._num_packs)
        if luggage.topk_idx is not None:
            num_topk = luggage.topk_idx.size(1)
            self.topk_idx = luggage.topk_idx.new_full((num_rows, num_topk), -1)
            self.topk_weights = luggage.topk_weights.new_zeros((num_rows, num_topk), dtype=torch.float32)

    @property
    def x_and_scales(self) -> Any:
        return self.x if self.scales is None else (self.x, self.scales)

    def fill(self) -> None:
        if self.x is not self._arrived:
            self.x[: self._num_arrived] = self._arrived
        if self.scales is not None:
            self.scales[: self._num_arrived] = self._packed[:, : self._num_packs].view(self.scales.dtype)
        if self.topk_idx is not None:
            ids, weights = self._packed[:, self._num_packs :].chunk(2, dim=1)
            local = ids - self._own.first
            is_own = (local >= 0) & (local < self._own.num_experts)
            self.topk_idx[: self._num_arrived] = local.where(is_own, -1)
            self.topk_weights[: self._num_arrived] = weights.view(torch.float32).where(is_own, 0)
