# SPDX-License-Identifier: Apache-2.0
"""PyTorch tensors to flexep's and back, by sharing memory; its devices and streams, as flexep names them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from . import Event, Tensor, has_cuda

_MOVED = {
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}
# Dispatch moves bits: any other type travels as integers of its size.
_PAYLOAD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# From 2.10 on flexep reads and makes PyTorch's tensors, and asks for its current stream, without a line of Python.
_HAS_EXCHANGE_API = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


def to_core(tensor: torch.Tensor | None) -> Any:
    """The same memory, as flexep reads it once. What is no tensor, or has elements of no such size, is for flexep to refuse by name."""
    if tensor is None:
        return None
    try:
        if tensor.dtype not in _MOVED:
            tensor = tensor.detach().view(_PAYLOAD[tensor.element_size()])
    except (AttributeError, KeyError):
        return tensor
    return tensor if _HAS_EXCHANGE_API else to_dlpack(tensor)


def to_torch(tensor: Tensor | None) -> torch.Tensor | None:
    """The same memory, as PyTorch reads it. Waits for no stream."""
    if tensor is None or _HAS_EXCHANGE_API:
        return None if tensor is None else tensor.to_library(torch.Tensor)
    return from_dlpack(tensor.__dlpack__(stream=-1))


def dispatched(result: Any) -> tuple[torch.Tensor | None, ...]:
    """(x, topk_idx, topk_weights, sf) of a dispatch."""
    if _HAS_EXCHANGE_API:
        return result.tensors(torch.Tensor)
    return tuple(to_torch(tensor) for tensor in (result.x, result.topk_idx, result.topk_weights, result.sf))


def combined(result: Any) -> tuple[torch.Tensor | None, ...]:
    """(x, topk_weights) of a combine."""
    if _HAS_EXCHANGE_API:
        return result.tensors(torch.Tensor)
    return to_torch(result.x), to_torch(result.topk_weights)


def default_device() -> str:
    """The GPU that is PyTorch's current one, where flexep can use it."""
    return f"cuda:{torch.cuda.current_device()}" if has_cuda and torch.cuda.is_available() else "cpu"


def current_stream() -> int | None:
    """The handle of PyTorch's current stream; None while the process uses no GPU."""
    return torch.cuda.current_stream().cuda_stream if has_cuda and torch.cuda.is_initialized() else None


def operation_stream() -> int | None:
    """The `stream` of an operation on PyTorch's tensors: None where flexep asks PyTorch itself."""
    return None if _HAS_EXCHANGE_API else current_stream()


def let_current_stream_wait(event: Event) -> None:
    """On the CPU the current stream is the calling thread."""
    stream = current_stream()
    if stream is None:
        event.wait()
    else:
        event.wait_on(stream)
