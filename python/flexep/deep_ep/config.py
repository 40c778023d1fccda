# SPDX-License-Identifier: Apache-2.0
"""Sizes that the older Buffer is made with. flexep's memory follows what arrives: they are computed and limit nothing."""

from __future__ import annotations

import dataclasses

from .. import InvalidArgument

_NVL_RANKS = 8  # ranks that DeepEP's older kernels take for one node
_MAX_TOPK = 128
_MAX_SCALES = 128
_SOURCE_META_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Multiprocessors and chunk sizes of DeepEP's kernels, for which flexep has no use."""

    num_sms: int = 20
    num_max_nvl_chunked_send_tokens: int = 6
    num_max_nvl_chunked_recv_tokens: int = 256
    num_max_rdma_chunked_send_tokens: int = 6
    num_max_rdma_chunked_recv_tokens: int = 256

    def __post_init__(self) -> None:
        require_even(self.num_sms)

    def get_nvl_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """Bytes that DeepEP would ask for in a node."""
        num_nodes, num_nvl_ranks = max(num_ranks // _NVL_RANKS, 1), min(num_ranks, _NVL_RANKS)
        token = hidden_bytes + _SOURCE_META_BYTES + _MAX_TOPK * (8 + 4) + _MAX_SCALES * 4
        lists = (2 * num_nodes + 3) * 4
        return _aligned(self._num_channels * num_nvl_ranks * (lists + self.num_max_nvl_chunked_recv_tokens * token))

    def get_rdma_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """Bytes that DeepEP would ask for between nodes; 0 in one node."""
        if num_ranks <= _NVL_RANKS:
            return 0
        token = hidden_bytes + _SOURCE_META_BYTES + _MAX_TOPK * (8 + 4) + _MAX_SCALES * 4 + 16
        lists = (2 * _NVL_RANKS + 2) * 4
        num_nodes = num_ranks // _NVL_RANKS
        return _aligned(
            2 * self._num_channels * num_nodes * (lists + self.num_max_rdma_chunked_recv_tokens * token)
        )

    @property
    def _num_channels(self) -> int:
        return self.num_sms // 2


def require_even(num_sms: int) -> None:
    """DeepEP's older kernels send with one half of the multiprocessors and receive with the other."""
    if num_sms <= 0 or num_sms % 2 != 0:
        raise InvalidArgument(f"num_sms must be even and positive, and is {num_sms}", "num_sms")


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 128) * 128
