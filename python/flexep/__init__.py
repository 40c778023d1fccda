# SPDX-License-Identifier: Apache-2.0
"""Expert parallelism everywhere: moves the tokens of mixture-of-experts layers between ranks.

Names and arguments are those of the C++ interface (include/flexep). Tensors come and go through DLPack without
copies. With PyTorch: `flexep.torch` has gradients, `flexep.moe` a token dispatcher, `flexep.deep_ep` is DeepEP's interface.
"""

from ._command import bench, check
from ._core import (
    BufferCounters,
    CombineResult,
    Communicator,
    DispatchHandle,
    DispatchResult,
    ElasticBuffer,
    Event,
    OperationCounters,
    RegisteredMemory,
    Tensor,
    __version__,
    get_buffer_size_hint,
    get_theoretical_num_qps,
    get_theoretical_num_sms,
    has_cuda,
    record_stream,
)
from .errors import (
    CollectiveMismatch,
    CudaError,
    Error,
    InvalidArgument,
    OutOfMemory,
    PeerError,
    TimeoutError,
    TransportError,
)

__all__ = [
    "BufferCounters",
    "CollectiveMismatch",
    "CombineResult",
    "Communicator",
    "CudaError",
    "DispatchHandle",
    "DispatchResult",
    "ElasticBuffer",
    "Error",
    "Event",
    "InvalidArgument",
    "OperationCounters",
    "OutOfMemory",
    "PeerError",
    "RegisteredMemory",
    "Tensor",
    "TimeoutError",
    "TransportError",
    "__version__",
    "bench",
    "check",
    "get_buffer_size_hint",
    "get_theoretical_num_qps",
    "get_theoretical_num_sms",
    "has_cuda",
    "record_stream",
]
