// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "flexep/event.h"
#include "flexep/tensor.h"

/// Where flexep meets CUDA: streams, events and tensors in device memory. The one public header that includes
/// a header of CUDA; in builds of flexep that have the CUDA backend.
///
/// An operation of an ElasticBuffer with config.device = Device::cuda(i) takes its inputs in the order of the
/// calling thread's current stream, and that stream finds the outputs: it waits for the operation, or, if the
/// operation is asynchronous, for the event when the program says so. The operation itself runs on a
/// communication stream, one for each rank (thread) and GPU. While the current stream is captured into a CUDA
/// graph, operations without host sync are, too: docs/cuda.md. Memory goes back to the arena in stream order,
/// too: a tensor may be dropped while the stream that was current at its operation still has work for it. Who
/// uses it on another stream says so with record_stream, or keeps it until that has passed. A stream lives
/// longer than the tensors that it uses and than the operations that were given them, which their buffer may
/// hold until the next check(). Buffers of a group of several domains differ: docs/cuda.md, "Across domains".
namespace flexep::cuda {

/// The stream that this thread's operations follow. Without a StreamGuard it is the per-thread default stream
/// (cudaStreamPerThread), which is another one in each thread: a program that drops tensors on other threads
/// than it makes them on sets a stream of its own.
cudaStream_t current_stream();

/// Makes a stream of the program the current one of this thread, for as long as it lives.
class StreamGuard {
 public:
  explicit StreamGuard(cudaStream_t stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;
  StreamGuard& operator=(const StreamGuard&) = delete;

 private:
  cudaStream_t previous_;
};

/// The moment at which everything is done that the current stream has been given so far. @throws CudaError.
Event capture();
/// Whatever `stream` is given from now on starts after the event. Does not block the host, unless the event
/// is no event of CUDA. The error of a failed operation is thrown by Event::wait and by the next call of its
/// buffer, not here.
/// @throws InvalidArgument when there is no event, CudaError.
void wait(const Event& event, cudaStream_t stream = current_stream());

/// Whatever `stream` is given from now on starts after the operations that were called so far and may write
/// the tensor; across domains not after asynchronous ones, which have events. Without effect on memory that
/// is no arena's. @throws CudaError.
void wait(const Tensor& tensor, cudaStream_t stream = current_stream());
/// `stream` uses the tensor's memory, too: it goes back to its arena behind what the stream has been given by
/// then. Without effect on memory that is no arena's.
void record_stream(const Tensor& tensor, cudaStream_t stream);

/// The stream on which the operations run of the buffers that this thread makes on `device`, for as long as
/// one of them lives; null while there is none.
cudaStream_t communication_stream(Device device);

/// Device memory of our own, in the order of the current stream, which is not being captured when the last
/// copy of the tensor goes; uninitialised. Not arena memory. @throws
/// OutOfMemory, CudaError.
Tensor empty(const Shape& shape, DType dtype, Device device);
/// Copies between host and device. Where ranks are threads of a process, copy pageable memory this way, or
/// wait for the stream first: inside the driver such a copy would wait for this rank's operations with other
/// ranks' copies behind it. A dense copy of a host tensor in device memory, made on the current stream.
/// Blocks until it is made.
Tensor to_device(const Tensor& tensor, Device device);
/// The same into memory that is there: `out` is a dense tensor on a device, of the shape and type of
/// `tensor`.
/// @throws InvalidArgument that names `out`, CudaError.
void copy_to_device(const Tensor& tensor, const Tensor& out);
/// A copy of a device tensor in host memory, with its strides. Blocks until it is made, behind the current
/// stream.
/// @throws InvalidArgument for a tensor that is not on a device, CudaError.
Tensor to_host(const Tensor& tensor);
}  // namespace flexep::cuda
