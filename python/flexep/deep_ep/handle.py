# SPDX-License-Identifier: Apache-2.0
"""What a dispatch decided, with the fields of DeepEP's EPHandle."""

from __future__ import annotations

from functools import cached_property

import torch

from .. import DispatchHandle, Event
from .._torch_tensor import to_torch


class EPHandle:
    """Made by ElasticBuffer.dispatch, for combine and cached dispatches. Symbols as in docs/layouts.md.

    Tensors are shared with the dispatch, not copied, except counts on a GPU, which are the host's. Without host sync the
    sizes are bounds, and whoever reads a count waits for the dispatch.
    """

    # Staging of DeepEP's hybrid kernels: flexep has none, and a cached dispatch needs none.
    token_metadata_at_forward = channel_linked_list = None

    def __init__(self, core: DispatchHandle, num_scaleup_ranks: int, event: Event | None = None) -> None:
        self.core = core
        self._num_scaleup_ranks = num_scaleup_ranks
        self._event = event  # after which counts are known, if that is not now
        self.do_expand: bool = core.do_expand
        self.num_experts: int = core.num_experts
        self.expert_alignment: int = core.expert_alignment
        self.num_max_tokens_per_rank: int = core.num_max_tokens_per_rank
        self.num_sms: int = core.num_sms
        self.num_recv_tokens: int = core.num_recv_tokens
        self.num_expanded_tokens: int = core.num_expanded_tokens

    @cached_property
    def num_recv_tokens_per_expert_list(self) -> list[int]:
        """[El], aligned counts; empty without host sync."""
        return self.core.num_recv_tokens_per_expert_list

    @cached_property
    def topk_idx(self) -> torch.Tensor:
        """[T, K], the ids that were dispatched; -1 where a limit dropped the pair."""
        return to_torch(self.core.topk_idx)

    @cached_property
    def psum_num_recv_tokens_per_scaleup_rank(self) -> torch.Tensor:
        """int32 [SU], inclusive prefix sum of tokens by scale-up index of their source, over all domains; the last is M.

        Rows are in the order of source ranks: over several domains this counts rows and does not delimit them.
        """
        by_rank = self.psum_num_recv_tokens_per_rank
        if len(by_rank) == self._num_scaleup_ranks:
            return by_rank
        counts = by_rank.diff(prepend=by_rank.new_zeros(1)).view(-1, self._num_scaleup_ranks)
        return counts.sum(dim=0).cumsum(dim=0).int()

    @cached_property
    def psum_num_recv_tokens_per_rank(self) -> torch.Tensor:
        """int32 [R], inclusive prefix sum of tokens by source rank."""
        return self._counts("psum_num_recv_tokens_per_rank")

    @cached_property
    def psum_num_recv_tokens_per_expert(self) -> torch.Tensor:
        """int32 [El]. Compact: inclusive prefix sum of aligned counts. Expanded: end of expert i's rows."""
        return self._counts("psum_num_recv_tokens_per_expert")

    @cached_property
    def num_unaligned_recv_tokens_per_expert(self) -> torch.Tensor:
        """int32 [El], pairs that local expert i received."""
        return self._counts("num_recv_tokens_per_expert")

    @cached_property
    def num_dropped_tokens(self) -> torch.Tensor:
        """int32 [El], pairs that a limit dropped."""
        return self._counts("num_dropped_tokens")

    @cached_property
    def recv_src_metadata(self) -> torch.Tensor:
        """int32 [M, K + 2]: source index, an opaque column, and in the expanded layout the row of each column."""
        return to_torch(self.core.recv_src_metadata)

    @cached_property
    def dst_buffer_slot_idx(self) -> torch.Tensor:
        """int32 [T, K], opaque; equal for cached dispatches."""
        return to_torch(self.core.dst_buffer_slot_idx)

    def _counts(self, name: str) -> torch.Tensor:
        if self._event:
            self._event.wait()
        return to_torch(getattr(self.core, name)).to(self.topk_idx.device)
