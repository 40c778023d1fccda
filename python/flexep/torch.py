# SPDX-License-Identifier: Apache-2.0
"""Dispatch and combine as PyTorch operations with gradients.

Dispatch is a linear map D of rows and of router probabilities; combine on the same handle is its transpose. So each is
the other's backward, and both can be differentiated again. Backward is as collective as forward: all ranks run it, also
those without tokens, and in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from . import DispatchHandle, ElasticBuffer, InvalidArgument
from . import record_stream as _record_stream
from ._torch_tensor import combined, dispatched, operation_stream, to_core, to_torch

__all__ = ["Dispatched", "combine", "dispatch", "record_stream"]


class Dispatched(NamedTuple):
    """What a rank received; shapes as in docs/layouts.md."""

    x: torch.Tensor  # [M, H], or [rows, H] expanded, alignment gaps zero
    topk_idx: torch.Tensor | None  # [M, K], local experts or -1; None in the expanded layout
    topk_weights: torch.Tensor | None  # [M, K], or [rows] expanded
    handle: DispatchHandle


# torch.compile breaks its graph around the operations. The public way imports the compiler at once, which takes seconds; PyTorch
# has another for itself, which imports it when a call is compiled.
_outside_graphs = getattr(torch, "_disable_dynamo", None) or torch.compiler.disable


@_outside_graphs
def dispatch(
    buffer: Any,
    x: torch.Tensor,
    topk_idx: torch.Tensor | None = None,
    topk_weights: torch.Tensor | None = None,
    *,
    num_experts: int = 0,
    handle: DispatchHandle | None = None,
    **options: Any,
) -> Dispatched:
    """Sends each row of x [T, H] to the ranks of its experts. Gradients: x, topk_weights.

    `buffer` is a flexep.ElasticBuffer or a flexep.deep_ep.ElasticBuffer. Give topk_idx and num_experts, or the handle of an
    earlier dispatch. `options` are further arguments of ElasticBuffer.dispatch that change no order of execution:
    do_expand, expert_alignment, num_max_tokens_per_rank, max_recv_tokens, num_sms.
    """
    unknown = options.keys() - _DISPATCH_OPTIONS
    if unknown:
        raise InvalidArgument(f"flexep.torch.dispatch has no option {', '.join(sorted(unknown))}", "options")
    if handle is None:
        # A gap that was not zeroed would put whatever lies there into the weight gradients of the experts.
        options["do_zero_padding"] = bool(options.get("do_expand"))
    options |= {"num_experts": num_experts, "handle": _core_handle(handle)}
    return Dispatched(*_Dispatch.apply(_core_buffer(buffer), x, topk_idx, topk_weights, options))


@_outside_graphs
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
    return _Combine.apply(_core_buffer(buffer), x, topk_weights, bias, _core_handle(handle), num_sms)


def record_stream(tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
    """`stream` uses the tensor, too: a buffer's memory goes back behind what the stream has been given by then.

    What PyTorch's own Tensor.record_stream says of memory of its own, and has no effect on other.
    """
    _record_stream(to_core(tensor), stream.cuda_stream)


_DISPATCH_OPTIONS = {"do_expand", "expert_alignment", "num_max_tokens_per_rank", "max_recv_tokens", "num_sms"}


def _core_buffer(buffer: Any) -> ElasticBuffer:
    return getattr(buffer, "runtime", buffer)


def _core_handle(handle: Any) -> DispatchHandle | None:
    return getattr(handle, "core", handle)


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
        received = buffer.dispatch(
            _readable(x),
            topk_idx=to_core(topk_idx),
            topk_weights=to_core(_contiguous(topk_weights)),
            stream=operation_stream(),
            **options,
        )
        ctx.buffer, ctx.handle, ctx.has_weights = buffer, received.handle, topk_weights is not None
        recv_x, recv_idx, recv_weights, _ = dispatched(received)
        if recv_idx is not None:
            ctx.mark_non_differentiable(recv_idx)
        if options.get("handle") is not None:
            # The handle's own dispatch may have left its gaps as they were.
            _zero_gaps(recv_x, received.handle)
            _zero_gaps(recv_weights, received.handle)
        return recv_x, recv_idx, recv_weights, received.handle

    @staticmethod
    def backward(ctx: Any, grad_x: torch.Tensor, _idx: Any, grad_weights: torch.Tensor | None, _handle: Any) -> tuple:
        weights = grad_weights if ctx.has_weights else None
        grad_x, grad_weights = _Combine.apply(ctx.buffer, grad_x, weights, None, ctx.handle, 0)
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
        result = buffer.combine(
            _readable(x),
            handle=handle,
            topk_weights=to_core(_contiguous(topk_weights)),
            bias=to_core(_contiguous(bias)),
            num_sms=num_sms,
            stream=operation_stream(),
        )
        ctx.buffer, ctx.handle, ctx.num_rows = buffer, handle, x.size(0)
        ctx.has_weights, ctx.has_bias = topk_weights is not None, bias is not None
        return combined(result)

    @staticmethod
    def backward(ctx: Any, grad_x: torch.Tensor, grad_weights: torch.Tensor | None) -> tuple:
        weights = grad_weights if ctx.has_weights else None
        grad_rows, _, grad_row_weights, _ = _Dispatch.apply(
            ctx.buffer, grad_x, None, weights, {"handle": ctx.handle}
        )
        grad_rows, grad_row_weights = (_extended(t, ctx.num_rows) for t in (grad_rows, grad_row_weights))
        return None, grad_rows, grad_row_weights, grad_x if ctx.has_bias else None, None, None


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _readable(x: torch.Tensor) -> torch.Tensor:
    # Expanded and transposed gradients come from sums and matrix products.
    return to_core(x.contiguous())


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
