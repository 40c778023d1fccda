// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "flexep/event.h"
#include "flexep/tensor.h"

/// What the bindings need of CUDA. A build without the backend links streams_without_cuda.cc, where there are
/// no streams.
namespace flexep::python {

/// A stream of CUDA by its handle, as PyTorch's Stream.cuda_stream and the protocol of DLPack pass it; 0 and
/// 1 are the legacy default stream, 2 is that of the thread.
using StreamHandle = std::uintptr_t;

bool has_cuda();
/// Runs `work` with `stream` as the stream that operations follow.
void run_on(StreamHandle stream, const std::function<void()>& work);
/// The moment at which everything is done that `stream` has been given so far.
Event capture_on(StreamHandle stream);
/// What `stream` is given from now on starts after the event; blocks if it is no event of CUDA.
void let_wait(StreamHandle stream, const Event& event);
/// What `stream` is given from now on finds the tensor, whose memory goes back behind it.
void let_use(StreamHandle stream, const Tensor& tensor);
/// The memory goes back behind what the stream has been given by then.
void record_stream(const Tensor& tensor, StreamHandle stream);
/// On which operations of the buffers run that this thread makes; 0 where there is none.
StreamHandle communication_stream(Device device);

}  // namespace flexep::python
