# SPDX-License-Identifier: Apache-2.0
"""PyTorch tensors to flexep's and back, by sharing memory."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from . import Tensor

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


def to_core(tensor: torch.Tensor | None) -> Any:
    """The same memory, as flexep reads it once: a capsule of DLPack, which takes a tenth of the time of `__dlpack__`."""
    if tensor is None:
        return None
    if not tensor.is_cpu:
        raise NotImplementedError(
            f"flexep for Python moves CPU tensors today, and this one is on {tensor.device}: use tensor.cpu(), or the "
            "C++ interface"
        )
    return to_dlpack(tensor if tensor.dtype in _MOVED else tensor.detach().view(_PAYLOAD[tensor.element_size()]))


def to_torch(tensor: Tensor | None, dtype: torch.dtype | None = None) -> torch.Tensor | None:
    """The same memory, as PyTorch reads it; `dtype` is what the rows were before to_core."""
    if tensor is None:
        return None
    shared = from_dlpack(tensor.__dlpack__())
    return shared if dtype is None or shared.dtype == dtype else shared.view(dtype)
