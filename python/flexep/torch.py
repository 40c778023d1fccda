# SPDX-License-Identifier: Apache-2.0
"""Dispatch and combine as PyTorch operations with gradients.

Dispatch is a linear map D of rows and of router probabilities; combine on the same handle is its transpose. So each is
the other's backward, and both can be differentiated again. Backward is as collective as forward: all ranks run it, also
those without tokens, and in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from . import DispatchHandle, ElasticBuffer
from . import record_stream as _record_stream
from ._torch_tensor import combined, dispatched, operation_stream, to_core, to_torch

__all__ = ["Dispatched", "combine", "dispatch", "record_stream"]


class Dispatched(NamedTuple):
    """What a rank received; shapes as in docs/layouts.md."""

    x: torch.Tensor  # [M, H], or [rows, H] expanded, alignment gaps zero
    topk_idx: torch.Tensor | None  # [M, K], local experts or -1; None in the expanded layout
    topk_weights: torch.Tensor | None  # [M, K], or [rows] expanded
    handle: DispatchHandle


# torch.compile breaks its graph around the operations. The public way to say so imports the compiler at once, which takes seconds;
# PyTorch has another for itself, which imports it when a call is compiled.
_outside_graphs = getattr(torch, "_disable_dynamo", None) or torch.compiler.disable


def dispatch(
    buffer: Any,
    x: torch.Tensor,
    topk_idx: torch.Tensor | None = None,
    topk_weights: torch.Tensor | None = None,
    *,
    num_experts: int = 0,
    handle: DispatchHandle | None = None,
    do_expand: bool | None = None,
    expert_alignment: int = 0,
    num_max_tokens_per_rank: int = 0,
    max_recv_tokens: int = 0,
    num_sms: int = 0,
) -> Dispatched:
    """Sends each row of x [T, H] to the ranks of its experts. Gradients: x, topk_weights.

    `buffer` is a flexep.ElasticBuffer or a flexep.deep_ep.ElasticBuffer. Give topk_idx and num_experts, or the handle of an
    earlier dispatch. Further arguments are those of ElasticBuffer.dispatch that change no order of execution.
    """
    options = {
        "num_experts": num_experts,
        "handle": _core_handle(handle),
        "do_expand": do_expand,
        # A gap that was not zeroed would put whatever lies there into the weight gradients of the experts.
        "do_zero_padding": bool(do_expand) if handle is None else None,
        "expert_alignment": expert_alignment,
        "num_max_tokens_per_rank": num_max_tokens_per_rank,
        "max_recv_tokens": max_recv_tokens,
        "num_sms": num_sms,
    }
    run = _dispatch_outside_graphs if torch.compiler.is_compiling() else _dispatch
    return Dispatched(*run(_core_buffer(buffer), x, topk_idx, topk_weights, options))


def combine(
    buffer: Any,
    x: torch.Tensor,
    handle: DispatchHandle,
    topk_weights: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    num_sms: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sums rows by token: ([T, H], [T, K] if topk_weights were given). Gradients: x, topk_weights, bias.

    x has a row for each row of the dispatch's x; weights are brought back, never applied.
    """
    run = _combine_outside_graphs if torch.compiler.is_compiling() else _combine
    return run(_core_buffer(buffer), x, topk_weights, bias, _core_handle(handle), num_sms)


def record_stream(tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
    """`stream` uses the tensor, too: a buffer's memory goes back behind what the stream has been given by then.

    What PyTorch's own Tensor.record_stream says of memory of its own, and has no effect on other.
    """
    _record_stream(to_core(tensor), stream.cuda_stream)


def _core_buffer(buffer: Any) -> ElasticBuffer:
    return buffer if type(buffer) is ElasticBuffer else buffer.runtime


def _core_handle(handle: Any) -> DispatchHandle | None:
    return handle if handle is None or type(handle) is DispatchHandle else handle.core


def _is_recorded(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd has to know of an operation on these: apply() takes longer than many an operation."""
    if forward_ad._current_level >= 0:
        return True  # its refusal of functions without a forward derivative is apply's to say
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def _dispatch(
    buffer: ElasticBuffer,
    x: torch.Tensor,
    topk_idx: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    options: dict[str, Any],
) -> tuple:
    run = _Dispatch.apply if _is_recorded(x, topk_weights) else _send
    return run(buffer, x, topk_idx, topk_weights, options)


def _combine(
    buffer: ElasticBuffer,
    x: torch.Tensor,
    topk_weights: torch.Tensor | None,
    bias: torch.Tensor | None,
    handle: DispatchHandle,
    num_sms: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    run = _Combine.apply if _is_recorded(x, topk_weights, bias) else _sum
    return run(buffer, x, topk_weights, bias, handle, num_sms)


_dispatch_outside_graphs, _combine_outside_graphs = _outside_graphs(_dispatch), _outside_graphs(_combine)


def _send(
    buffer: ElasticBuffer,
    x: torch.Tensor,
    topk_idx: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    options: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, DispatchHandle]:
    result = buffer.dispatch(
        _readable(x),
        topk_idx=to_core(topk_idx),
        topk_weights=_readable(topk_weights),
        stream=operation_stream(),
        **options,
    )
    handle = result.handle
    recv_x, recv_idx, recv_weights, _ = dispatched(result)
    if options["handle"] is not None:
        # The handle's own dispatch may have left its gaps as they were.
        _zero_gaps(recv_x, handle)
        _zero_gaps(recv_weights, handle)
    return recv_x, recv_idx, recv_weights, handle


def _sum(
    buffer: ElasticBuffer,
    x: torch.Tensor,
    topk_weights: torch.Tensor | None,
    bias: torch.Tensor | None,
    handle: DispatchHandle,
    num_sms: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    result = buffer.combine(
        _readable(x),
        handle=handle,
        topk_weights=_readable(topk_weights),
        bias=_readable(bias),
        num_sms=num_sms,
        stream=operation_stream(),
    )
    return combined(result)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        buffer: ElasticBuffer,
        x: torch.Tensor,
        topk_idx: torch.Tensor | None,
        topk_weights: torch.Tensor | None,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, DispatchHandle]:
        received = _send(buffer, x, topk_idx, topk_weights, options)
        _, recv_idx, _, handle = received
        ctx.buffer, ctx.handle, ctx.has_weights = buffer, handle, topk_weights is not None
        if recv_idx is not None:
            ctx.mark_non_differentiable(recv_idx)
        return received

    @staticmethod
    def backward(ctx: Any, grad_x: torch.Tensor, _idx: Any, grad_weights: torch.Tensor | None, _handle: Any) -> tuple:
        weights = grad_weights if ctx.has_weights else None
        grad_x, grad_weights = _combine(ctx.buffer, grad_x, weights, None, ctx.handle, 0)
        return None, grad_x, None, grad_weights, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        buffer: ElasticBuffer,
        x: torch.Tensor,
        topk_weights: torch.Tensor | None,
        bias: torch.Tensor | None,
        handle: DispatchHandle,
        num_sms: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.buffer, ctx.handle, ctx.num_rows = buffer, handle, x.size(0)
        ctx.has_weights, ctx.has_bias = topk_weights is not None, bias is not None
        return _sum(buffer, x, topk_weights, bias, handle, num_sms)

    @staticmethod
    def backward(ctx: Any, grad_x: torch.Tensor, grad_weights: torch.Tensor | None) -> tuple:
        weights = grad_weights if ctx.has_weights else None
        grad_rows, _, grad_row_weights, _ = _dispatch(ctx.buffer, grad_x, None, weights, {"handle": ctx.handle})
        grad_rows, grad_row_weights = (_extended(t, ctx.num_rows) for t in (grad_rows, grad_row_weights))
        return None, grad_rows, grad_row_weights, grad_x if ctx.has_bias else None, None, None


def _readable(tensor: torch.Tensor | None) -> Any:
    # Expanded and transposed gradients come from sums and matrix products.
    return None if tensor is None else to_core(tensor.contiguous())


def _zero_gaps(rows: torch.Tensor | None, handle: DispatchHandle) -> None:
    """Zeroes the rows of the handle's layout that belong to no token."""
    if rows is None:
        return
    if not handle.do_expand:
        num_tokens = int(to_torch(handle.psum_num_recv_tokens_per_rank)[-1])
        if num_tokens < rows.size(0):
            rows[num_tokens:] = 0
        return
    starts = to_torch(handle.expert_start_rows).tolist()
    counts = to_torch(handle.num_recv_tokens_per_expert).tolist()
    for start, count, end in zip(starts, counts, [*starts[1:], rows.size(0)], strict=True):
        if start + count < end:
            rows[start + count : end] = 0


def _extended(rows: torch.Tensor | None, num_rows: int) -> torch.Tensor | None:
    """With zeros below: combine accepts more rows than its dispatch made."""
    if rows is None or rows.size(0) == num_rows:
        return rows
    return torch.cat([rows, rows.new_zeros(num_rows - rows.size(0), *rows.shape[1:])])
