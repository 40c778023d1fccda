# SPDX-License-Identifier: Apache-2.0
"""DeepEP's older Buffer, normal mode, on the same engine as ElasticBuffer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import Communicator, DispatchHandle, InvalidArgument
from .. import ElasticBuffer as CoreBuffer
from .._torch_tensor import default_device, let_current_stream_wait, operation_stream, to_core, to_torch
from .config import Config, require_even
from .elastic import comm_stream_of
from .event import EventHandle, EventOverlap, core_event
from .luggage import Luggage, OwnExperts, Received


class BufferHandle(NamedTuple):
    """What Buffer.dispatch decided, for combine and cached dispatches. What is None is of DeepEP's kernels only."""

    rank_prefix_matrix: torch.Tensor  # int32 [R, R]: (i, this rank) is what ranks 0 to i sent here; -1 elsewhere
    channel_prefix_matrix: None
    recv_channel_prefix_matrix: None
    recv_src_idx: None
    is_token_in_rank: torch.Tensor  # bool [T, R]
    send_head: None
    core: DispatchHandle


class Buffer:
    """Sends tokens to the ranks of their experts and sums what comes back, with the interface of DeepEP before V2.

    `group` is a torch.distributed process group of any backend and size. Sums are over ranks in ascending order, in fp32,
    bias first. Sizes, chunks and `num_sms` are accepted and limit nothing.
    """

    num_sms: int = 20

    def __init__(
        self,
        group: Any,
        num_nvl_bytes: int = 0,
        num_rdma_bytes: int = 0,
        low_latency_mode: bool = False,
        num_qps_per_rank: int = 24,
        allow_nvlink_for_low_latency_mode: bool = True,
        allow_mnnvl: bool = False,
        explicitly_destroy: bool = False,
        enable_shrink: bool = False,
        comm: Any = None,
    ) -> None:
        if group is None and comm is None:
            raise ValueError("either group or comm must be given")
        if group is None:
            raise NotImplementedError("flexep meets over a torch.distributed group: pass group instead of comm")
        if low_latency_mode or enable_shrink:
            self._low_latency()
        self.group = group
        self.num_nvl_bytes = num_nvl_bytes
        self.num_rdma_bytes = num_rdma_bytes
        self.low_latency_mode = low_latency_mode
        self.explicitly_destroy = explicitly_destroy
        self.runtime = CoreBuffer(
            Communicator.from_process_group(group), device=default_device(), explicitly_destroy=explicitly_destroy
        )
        self.rank: int = self.runtime.rank
        self.group_size: int = self.runtime.num_ranks

    def destroy(self) -> None:
        """Ends the buffer, which was made with explicitly_destroy, once all ranks have come here."""
        self.runtime.destroy()

    @staticmethod
    def is_sm90_compiled() -> bool:
        return False

    @staticmethod
    def set_num_sms(new_num_sms: int) -> None:
        """What `get_dispatch_config` and `get_combine_config` say from now on."""
        require_even(new_num_sms)
        Buffer.num_sms = new_num_sms

    @staticmethod
    def get_dispatch_config(num_ranks: int) -> Config:
        return Config(Buffer.num_sms)

    @staticmethod
    def get_combine_config(num_ranks: int) -> Config:
        return Config(Buffer.num_sms)

    @staticmethod
    def capture() -> EventOverlap:
        """An event for what the current stream has been given so far."""
        return EventOverlap(EventHandle())

    def get_comm_stream(self) -> torch.cuda.Stream:
        """The stream that operations run on. All buffers of a process share it."""
        return comm_stream_of(self.runtime)

    def get_dispatch_layout(
        self,
        topk_idx: torch.Tensor,
        num_experts: int,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, EventOverlap]:
        """(num_tokens_per_rank [R], None, num_tokens_per_expert [E], is_token_in_rank [T, R], event); counts are int32."""
        _check_streams(previous_event, async_finish, allocate_on_comm_stream)
        _let_current_stream_wait(previous_event)
        if num_experts <= 0 or num_experts % self.group_size != 0:
            raise InvalidArgument(
                f"num_experts is {num_experts}, not a positive multiple of the {self.group_size} ranks", "num_experts"
            )
        is_routed = topk_idx >= 0
        owners = torch.div(topk_idx, num_experts // self.group_size, rounding_mode="floor")
        is_token_in_rank = owners.new_zeros((len(topk_idx), self.group_size + 1), dtype=torch.bool)
        # Ids that are not routed mark a column of their own.
        is_token_in_rank.scatter_(1, owners.where(is_routed, self.group_size).long(), True)
        is_token_in_rank = is_token_in_rank[:, :-1].contiguous()
        # Unlike bincount and a selection, this does not make the host wait for a GPU.
        num_tokens_per_expert = owners.new_zeros(num_experts + 1, dtype=torch.int32)
        experts = topk_idx.where(is_routed, num_experts).flatten().long()
        num_tokens_per_expert.index_add_(0, experts, torch.ones_like(experts, dtype=torch.int32))
        return (
            is_token_in_rank.sum(dim=0, dtype=torch.int32),
            None,
            num_tokens_per_expert[:-1],
            is_token_in_rank,
            EventOverlap(EventHandle() if async_finish else None),
        )

    def dispatch(
        self,
        x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        handle: BufferHandle | None = None,
        num_tokens_per_rank: torch.Tensor | None = None,
        num_tokens_per_rdma_rank: torch.Tensor | None = None,
        is_token_in_rank: torch.Tensor | None = None,
        num_tokens_per_expert: torch.Tensor | None = None,
        topk_idx: torch.Tensor | None = None,
        topk_weights: torch.Tensor | None = None,
        expert_alignment: int = 1,
        num_worst_tokens: int = 0,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Any, torch.Tensor | None, torch.Tensor | None, list[int] | None, BufferHandle | None, EventOverlap]:
        """(recv_x or (recv_x, scales), recv_topk_idx, recv_topk_weights, aligned counts by local expert, handle, event).

        Without ids, tokens go where is_token_in_rank says. With a handle: (recv_x, None, None, None, None, event).
        What the event announces includes ids and weights: wait through EventOverlap.
        """
        _check_streams(previous_event, async_finish, allocate_on_comm_stream)
        if (topk_idx is None) != (topk_weights is None):
            raise InvalidArgument("topk_idx and topk_weights are given both or not at all", "topk_idx")
        rows, scales = x if isinstance(x, tuple) else (x, None)
        luggage = Luggage(scales, topk_idx, topk_weights)
        if handle is None or scales is not None:
            previous_event = _let_current_stream_wait(previous_event)
        moved = {"sf": to_core(luggage.packed())} | _stream_options(previous_event, async_finish)
        if handle is not None:
            if topk_idx is not None:
                raise InvalidArgument("a handle has its own ids: give no topk_idx", "topk_idx")
            result = self.runtime.dispatch(to_core(rows), handle=handle.core, **moved)
            received = Received(result, luggage, OwnExperts(0, 0), rows.dtype)
            return received.x_and_scales, None, None, None, None, _finish(result.event, received, x)

        if is_token_in_rank is None:
            raise InvalidArgument("a first dispatch needs what get_dispatch_layout returns", "is_token_in_rank")
        if topk_idx is None:
            ranks = torch.arange(self.group_size, device=is_token_in_rank.device)
            num_experts, ids = self.group_size, ranks.where(is_token_in_rank, -1)
        else:
            if num_tokens_per_expert is None:
                raise InvalidArgument("num_tokens_per_expert is missing", "num_tokens_per_expert")
            # Combine adds in the order of columns: by expert, that is the order of ranks.
            num_experts, ids = num_tokens_per_expert.numel(), topk_idx.sort(dim=1).values
        result = self.runtime.dispatch(
            to_core(rows),
            topk_idx=to_core(ids),
            num_experts=num_experts,
            expert_alignment=expert_alignment,
            **moved,
        )
        num_local = num_experts // self.group_size
        own = OwnExperts(self.rank * num_local, num_local)
        num_rows = _num_output_rows(result.handle.num_recv_tokens, num_worst_tokens)
        received = Received(result, luggage, own, rows.dtype, num_rows)
        has_counts = topk_idx is not None and num_worst_tokens == 0
        counts = result.handle.num_recv_tokens_per_expert_list if has_counts else []
        made = self._handle(result.handle, is_token_in_rank)
        event = _finish(result.event, received, x, topk_idx, topk_weights)
        return received.x_and_scales, received.topk_idx, received.topk_weights, counts, made, event

    def combine(
        self,
        x: torch.Tensor,
        handle: BufferHandle,
        topk_weights: torch.Tensor | None = None,
        bias: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, EventOverlap]:
        """(sums of rows [T, H], sums of weights [T, K], event): both over ranks, and neither multiplied by the other."""
        _check_streams(previous_event, async_finish, allocate_on_comm_stream)
        if topk_weights is not None:
            previous_event = _let_current_stream_wait(previous_event)
        streams = _stream_options(previous_event, async_finish)
        num_rows = handle.core.num_rows
        weights = None
        if topk_weights is not None:
            # Rows of 16 bytes, as combine takes them.
            padded = torch.nn.functional.pad(topk_weights[:num_rows].float(), (0, -topk_weights.size(1) % 4))
            weights = self.runtime.combine(to_core(padded), handle=handle.core, **streams)
        result = self.runtime.combine(
            to_core(x[:num_rows]),
            handle=handle.core,
            bias=tuple(to_core(rows) for rows in bias) if isinstance(bias, tuple) else to_core(bias),
            **streams,
        )
        combined_weights = None if weights is None else to_torch(weights.x)[:, : topk_weights.size(1)]
        return to_torch(result.x), combined_weights, _finish(result.event, None, x, topk_weights, bias)

    def _handle(self, core: DispatchHandle, is_token_in_rank: torch.Tensor) -> BufferHandle:
        matrix = torch.full(
            (self.group_size, self.group_size), -1, dtype=torch.int32, device=is_token_in_rank.device
        )
        matrix[:, self.rank] = to_torch(core.psum_num_recv_tokens_per_rank)
        return BufferHandle(matrix, None, None, None, is_token_in_rank, None, core)

    # What DeepEP has and flexep has not.

    @staticmethod
    def _low_latency(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "flexep has no low-latency mode: use ElasticBuffer, whose dispatch with do_expand=True groups rows by expert "
            "and with do_cpu_sync=False never waits for counts"
        )

    low_latency_dispatch = low_latency_combine = clean_low_latency_buffer = _low_latency
    low_latency_update_mask_buffer = low_latency_query_mask_buffer = low_latency_clean_mask_buffer = _low_latency
    get_low_latency_rdma_size_hint = get_next_low_latency_combine_buffer = _low_latency


def _check_streams(previous_event: Any, async_finish: bool, allocate_on_comm_stream: bool) -> None:
    if allocate_on_comm_stream and (previous_event is None or not async_finish):
        raise InvalidArgument("allocate_on_comm_stream needs previous_event and async_finish", "allocate_on_comm_stream")


def _let_current_stream_wait(previous_event: Any) -> None:
    """For operations whose inputs are prepared on the current stream, which they then follow."""
    event = core_event(previous_event)
    if event is not None:
        let_current_stream_wait(event)


def _stream_options(previous_event: Any, async_finish: bool) -> dict[str, Any]:
    event = core_event(previous_event)
    # V2's rule, which the engine has, is the opposite: who gives an event allocates on the communication stream.
    return {
        "previous_event": event,
        "allocate_on_comm_stream": event is not None,
        "async_with_compute_stream": async_finish,
        "stream": operation_stream(),
    }


def _finish(event: Any, received: Received | None, *tensors: Any) -> EventOverlap:
    """The event of an operation, which completes `received` when it is waited for; without one, that happens at once."""
    fill = None if received is None else received.fill
    if event:
        return EventOverlap(EventHandle(event), tensors, fill)
    if fill is not None:
        fill()
    return EventOverlap(None)


def _num_output_rows(num_recv_tokens: int, num_worst_tokens: int) -> int:
    if num_worst_tokens == 0:
        return num_recv_tokens
    if num_recv_tokens > num_worst_tokens:
        raise InvalidArgument(
            f"{num_recv_tokens} tokens arrived, more than num_worst_tokens = {num_worst_tokens}", "num_worst_tokens"
        )
    return num_worst_tokens
