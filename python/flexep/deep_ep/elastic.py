# SPDX-License-Identifier: Apache-2.0
"""DeepEP V2's ElasticBuffer on flexep."""

from __future__ import annotations

from typing import Any

import torch

from .. import Communicator, InvalidArgument, RegisteredMemory
from .. import ElasticBuffer as CoreBuffer
from .. import get_buffer_size_hint, get_theoretical_num_qps, get_theoretical_num_sms
from .._torch_tensor import combined, current_stream, default_device, dispatched, operation_stream, to_core, to_torch
from .event import EventHandle, EventOverlap, core_event
from .handle import EPHandle

_TWO_MIB = 2 << 20
_DEFAULT_CPU_TIMEOUT_SECS = 300


def _overlap(event: Any, is_async: bool, *tensors: Any) -> EventOverlap:
    return EventOverlap(EventHandle(event), tensors) if is_async else EventOverlap(None)


class ElasticBuffer:
    """Sends tokens to the ranks of their experts and sums what comes back, with DeepEP V2's interface.

    `group` is a torch.distributed process group of any backend, whose ranks are processes of one machine, perhaps on one
    GPU, or those of a launcher of MPI on any number of machines. Tensors are those of the current GPU, or the CPU's where
    there is none. Memory follows what arrives: sizes are accepted and checked, and limit nothing. Tensors stay readable
    after the buffer is gone.
    """

    def __init__(
        self,
        group: Any,
        num_bytes: int | None = None,
        num_cpu_bytes: int = 0,
        num_max_tokens_per_rank: int = 0,
        hidden: int = 0,
        num_topk: int = 0,
        use_fp8_dispatch: bool = False,
        deterministic: bool = False,
        allow_hybrid_mode: bool = True,
        allow_multiple_reduction: bool = True,
        prefer_overlap_with_compute: bool = True,
        sl_idx: int = 3,
        num_allocated_qps: int = 0,
        num_cpu_timeout_secs: int = _DEFAULT_CPU_TIMEOUT_SECS,
        num_gpu_timeout_secs: int = 100,
        explicitly_destroy: bool = False,
    ) -> None:
        if num_bytes is None and (num_max_tokens_per_rank <= 0 or hidden <= 0):
            raise InvalidArgument("without num_bytes, num_max_tokens_per_rank and hidden must be positive", "num_bytes")
        if num_cpu_bytes > 0 and num_bytes is None:
            raise InvalidArgument("num_cpu_bytes needs num_bytes", "num_cpu_bytes")
        # The default leaves the choice to FLEXEP_TIMEOUT_SECS.
        timeout = None if num_cpu_timeout_secs == _DEFAULT_CPU_TIMEOUT_SECS else num_cpu_timeout_secs
        self.group = group
        self.runtime = CoreBuffer(
            Communicator.from_process_group(group, timeout),
            device=default_device(),
            num_max_tokens_per_rank=num_max_tokens_per_rank,
            hidden=hidden,
            num_topk=num_topk,
            use_fp8_dispatch=use_fp8_dispatch,
            allow_multiple_reduction=allow_multiple_reduction,
            deterministic=deterministic,
            num_bytes=num_bytes,
            num_cpu_bytes=num_cpu_bytes,
            explicitly_destroy=explicitly_destroy,
            allow_hybrid_mode=allow_hybrid_mode,
            prefer_overlap_with_compute=prefer_overlap_with_compute,
            sl_idx=sl_idx,
            num_allocated_qps=num_allocated_qps,
        )
        self.rank_idx: int = self.runtime.rank
        self.num_ranks: int = self.runtime.num_ranks
        self.num_rdma_ranks, self.num_nvlink_ranks = self.runtime.get_physical_domain_size()
        self.num_scaleout_ranks, self.num_scaleup_ranks = self.runtime.get_logical_domain_size()
        self.scaleout_rank_idx = self.rank_idx // self.num_scaleup_ranks
        self.scaleup_rank_idx = self.rank_idx % self.num_scaleup_ranks
        self.num_bytes: int = self.runtime.num_bytes
        self.num_max_tokens_per_rank = num_max_tokens_per_rank
        self.num_allocated_qps = num_allocated_qps or (129 if allow_hybrid_mode else 17)
        self.allow_hybrid_mode = allow_hybrid_mode
        self.allow_multiple_reduction = allow_multiple_reduction
        self.prefer_overlap_with_compute = prefer_overlap_with_compute
        self.deterministic = deterministic
        self.explicitly_destroy = explicitly_destroy

    def destroy(self) -> None:
        """Ends the buffer, which was made with explicitly_destroy, once all ranks have come here."""
        self.runtime.destroy()

    @staticmethod
    def get_buffer_size_hint(
        group: Any,
        num_max_tokens_per_rank: int,
        hidden: int,
        num_topk: int = 0,
        use_fp8_dispatch: bool = False,
        allow_hybrid_mode: bool = True,
        allow_multiple_reduction: bool = True,
    ) -> int:
        """Bytes that DeepEP V2 would reserve on one machine. A buffer's `num_bytes` knows how many there are."""
        return get_buffer_size_hint(
            num_max_tokens_per_rank,
            hidden,
            num_topk,
            use_fp8_dispatch=use_fp8_dispatch,
            allow_multiple_reduction=allow_multiple_reduction,
            num_scaleup_ranks=torch.distributed.get_world_size(group),
        )

    def get_theoretical_num_sms(
        self,
        num_experts: int,
        num_topk: int,
        num_scaleout_topk: int = 0,
        rdma_gbs: float = 0,
        nvlink_gbs: float = 0,
        sm_read_gbs: float = 200,
        sm_write_gbs: float = 50,
    ) -> int:
        """DeepEP's model of a GPU. On the CPU an operation's width is chosen by `num_sms=0`, not by this."""
        if num_scaleout_topk != 0:
            raise InvalidArgument("num_scaleout_topk must be 0", "num_scaleout_topk")
        return get_theoretical_num_sms(
            num_experts,
            num_topk,
            num_scaleout_ranks=self.num_scaleout_ranks,
            num_scaleup_ranks=self.num_scaleup_ranks,
            nvlink_gbs=nvlink_gbs,
            rdma_gbs=rdma_gbs,
            sm_read_gbs=sm_read_gbs,
            sm_write_gbs=sm_write_gbs,
            prefer_overlap_with_compute=self.prefer_overlap_with_compute,
        )

    def get_theoretical_num_qps(self, num_sms: int) -> int:
        return get_theoretical_num_qps(num_sms, self.allow_hybrid_mode, self.num_allocated_qps)

    def get_physical_domain_size(self) -> tuple[int, int]:
        """(RDMA ranks, NVLink ranks)."""
        return self.num_rdma_ranks, self.num_nvlink_ranks

    def get_logical_domain_size(self) -> tuple[int, int]:
        """(scale-out ranks, scale-up ranks)."""
        return self.num_scaleout_ranks, self.num_scaleup_ranks

    def get_comm_stream(self) -> torch.cuda.Stream:
        """The stream that operations run on. All buffers of a process share it."""
        return comm_stream_of(self.runtime)

    def barrier(self, use_comm_stream: bool = True, with_cpu_sync: bool = False, sequential: bool = True) -> None:
        self.runtime.barrier()

    @staticmethod
    def capture() -> EventHandle:
        """An event for what the current stream has been given so far."""
        return EventHandle()

    def dispatch(
        self,
        x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        topk_idx: torch.Tensor | None = None,
        topk_weights: torch.Tensor | None = None,
        cumulative_local_expert_recv_stats: torch.Tensor | None = None,
        num_experts: int | None = None,
        num_max_tokens_per_rank: int | None = None,
        expert_alignment: int | None = None,
        num_sms: int = 0,
        num_qps: int = 0,
        previous_event: EventHandle | None = None,
        previous_event_before_epilogue: EventHandle | None = None,
        async_with_compute_stream: bool = False,
        allocate_on_comm_stream: bool = False,
        handle: EPHandle | None = None,
        do_handle_copy: bool = True,
        do_cpu_sync: bool | None = None,
        do_expand: bool = False,
        do_zero_padding: bool = False,
        use_tma_aligned_col_major_sf: bool = False,
    ) -> tuple[Any, torch.Tensor | None, torch.Tensor | None, EPHandle, EventOverlap]:
        """(recv_x or (recv_x, recv_sf), recv_topk_idx, recv_topk_weights, handle, event).

        With a handle, what was said at its dispatch need not be repeated; only `True` for what was not is an error.
        """
        rows, sf = x if isinstance(x, tuple) else (x, None)

        def unless_cached(flag: bool) -> bool | None:
            return flag or None if handle is not None else flag

        result = self.runtime.dispatch(
            to_core(rows),
            sf=to_core(sf),
            topk_idx=to_core(topk_idx),
            topk_weights=to_core(topk_weights),
            cumulative_local_expert_recv_stats=to_core(cumulative_local_expert_recv_stats),
            num_experts=num_experts or 0,
            num_max_tokens_per_rank=num_max_tokens_per_rank or 0,
            expert_alignment=expert_alignment or 0,
            num_sms=num_sms,
            num_qps=num_qps,
            previous_event=core_event(previous_event),
            previous_event_before_epilogue=core_event(previous_event_before_epilogue),
            async_with_compute_stream=async_with_compute_stream,
            allocate_on_comm_stream=allocate_on_comm_stream,
            handle=None if handle is None else handle.core,
            do_handle_copy=do_handle_copy,
            do_cpu_sync=do_cpu_sync,
            do_expand=unless_cached(do_expand),
            do_zero_padding=unless_cached(do_zero_padding),
            use_tma_aligned_col_major_sf=unless_cached(use_tma_aligned_col_major_sf),
            stream=operation_stream(),
        )
        recv_x, recv_topk_idx, recv_topk_weights, recv_sf = dispatched(result)
        if recv_x.dtype != rows.dtype:
            recv_x = recv_x.view(rows.dtype)
        if handle is None:
            event = result.event if do_cpu_sync is False else None
            handle = EPHandle(result.handle, self.num_scaleup_ranks, event)
        event = _overlap(result.event, async_with_compute_stream, x, topk_idx, topk_weights)
        return recv_x if sf is None else (recv_x, recv_sf), recv_topk_idx, recv_topk_weights, handle, event

    def combine(
        self,
        x: torch.Tensor,
        handle: EPHandle,
        topk_weights: torch.Tensor | None = None,
        bias: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
        num_sms: int = 0,
        num_qps: int = 0,
        previous_event: EventHandle | None = None,
        previous_event_before_epilogue: EventHandle | None = None,
        async_with_compute_stream: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, EventOverlap]:
        """(combined_x, combined_topk_weights, event)."""
        result = self.runtime.combine(
            to_core(x),
            handle=handle.core,
            topk_weights=to_core(topk_weights),
            bias=tuple(to_core(rows) for rows in bias) if isinstance(bias, tuple) else to_core(bias),
            num_sms=num_sms,
            num_qps=num_qps,
            previous_event=core_event(previous_event),
            previous_event_before_epilogue=core_event(previous_event_before_epilogue),
            async_with_compute_stream=async_with_compute_stream,
            allocate_on_comm_stream=allocate_on_comm_stream,
            stream=operation_stream(),
        )
        return *combined(result), _overlap(result.event, async_with_compute_stream, x, topk_weights, bias)

    # What flexep has and DeepEP has not.

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """Arena memory: an expert that writes its output here spares combine a copy."""
        return to_torch(self.runtime.empty(shape, _CORE_DTYPES[dtype], current_stream() or 0))

    def register_memory(self, memory: torch.Tensor) -> RegisteredMemory:
        """Lets combine read a tensor of whole pages in place, until the result ends."""
        return self.runtime.register_memory(to_core(memory))

    def check(self) -> None:
        """Raises what dispatches without host sync left to be told."""
        self.runtime.check()

    def counters(self) -> Any:
        return self.runtime.counters()

    # What DeepEP has and flexep has not.

    def _missing(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "flexep has neither Engram, pipeline-parallel nor all-gather sessions: use torch.distributed for these"
        )

    engram_write = engram_fetch = _missing
    pp_set_config = pp_send = pp_recv = _missing
    agrs_set_config = create_agrs_session = destroy_agrs_session = agrs_get_inplace_tensor = all_gather = _missing


def comm_stream_of(buffer: CoreBuffer) -> torch.cuda.Stream:
    if not buffer.comm_stream:
        raise NotImplementedError("a CPU buffer has no CUDA stream: use previous_event and asynchronous operations")
    return torch.cuda.ExternalStream(buffer.comm_stream, device=buffer.device)


_CORE_DTYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
}
