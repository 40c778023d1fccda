// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device_memory.h"
#include "flexep/cuda.h"
#include "flexep/tensor.h"
#include "gpus.h"
#include "kernels/cuda/kernels.h"

namespace flexep::testing {

/// A stream of the test's own. Made while no operation runs: see prepare_stream.
class TestStream {
 public:
  TestStream() {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
    require(cuda::prepare_stream(stream_), "use a stream");
  }
  ~TestStream() { cudaStreamDestroy(stream_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// What `body` gives a stream, captured, ready to be launched again and again on that stream.
class CapturedGraph {
 public:
  template <typename Body>
  CapturedGraph(cudaStream_t stream, Body body) : stream_(stream) {
    // Other threads are other ranks, and do what they like meanwhile.
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin a capture");
    body();
    require(cudaStreamEndCapture(stream, &graph_), "end a capture");
    require(cudaGraphInstantiate(&executable_, graph_, 0), "instantiate a graph");
    require(cudaGraphUpload(executable_, stream), "upload a graph");
    require(cudaStreamSynchronize(stream), "upload a graph");
  }
  ~CapturedGraph() {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  void launch() const { require(cudaGraphLaunch(executable_, stream_), "launch a graph"); }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

/// A matrix, or a vector, with a copy in pinned host memory: copies between them wait for nothing but their
/// stream.
class PinnedTensor {
 public:
  PinnedTensor(const Shape& shape, DType dtype)
      : own_(cuda::empty(shape, dtype, this_gpu())), on_device_(own_) {
    require(cudaHostAlloc(reinterpret_cast<void**>(&host_), num_bytes(), cudaHostAllocPortable),
            "pin memory");
  }
  ~PinnedTensor() { cudaFreeHost(host_); }
  PinnedTensor(const PinnedTensor&) = delete;
  PinnedTensor& operator=(const PinnedTensor&) = delete;

  const Tensor& on_device() const { return on_device_; }
  /// From now on the tensor is this one, without its ownership. Frees nothing, which no capture allows.
  void lies_at(const Tensor& tensor) {
    on_device_ = Tensor::from_memory(tensor.data(), tensor.shape(), tensor.dtype(), nullptr, tensor.device());
  }

  template <typename T, typename ValueAt>
  void fill(ValueAt value_at) {
    for (int row = 0; row < static_cast<int>(on_device_.size(0)); ++row) {
      for (int column = 0; column < num_columns(); ++column) at<T>(row, column) = value_at(row, column);
    }
  }
  template <typename T>
  T& at(int row, int column) const {
    return reinterpret_cast<T*>(host_)[row * num_columns() + column];
  }

  void upload(cudaStream_t stream) const {
    require(cudaMemcpyAsync(on_device_.data(), host_, num_bytes(), cudaMemcpyHostToDevice, stream), "upload");
  }
  void download(cudaStream_t stream) const {
    require(cudaMemcpyAsync(host_, on_device_.data(), num_bytes(), cudaMemcpyDeviceToHost, stream),
            "download");
  }
  void poison(cudaStream_t stream) const {
    require(cudaMemsetAsync(on_device_.data(), kPoison, num_bytes(), stream), "poison");
  }
  bool is_poisoned() const {
    return std::all_of(host_, host_ + num_bytes(), [](std::byte byte) { return byte == std::byte{kPoison}; });
  }

 private:
  static constexpr unsigned char kPoison = 0xC3;

  std::size_t num_bytes() const { return on_device_.num_bytes(); }
  int num_columns() const { return on_device_.num_dims() == 1 ? 1 : static_cast<int>(on_device_.size(1)); }

  Tensor own_;
  Tensor on_device_;
  std::byte* host_ = nullptr;
};

}  // namespace flexep::testing
