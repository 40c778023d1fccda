// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "flexep/elastic_buffer.h"

namespace flexep {

class StagedDevice;

/// What stands behind an ElasticBuffer: who counts, plans and moves. One for each way of planning.
class BufferEngine {
 public:
  virtual ~BufferEngine() = default;

  virtual const ElasticBufferConfig& config() const = 0;
  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;
  virtual DomainSize physical_domain_size() const = 0;
  virtual int num_max_tokens_per_rank() const = 0;
  virtual bool supports_async() const = 0;

  virtual DispatchResult dispatch(const DispatchArgs& args) = 0;
  virtual CombineResult combine(const CombineArgs& args) = 0;

  virtual void barrier() = 0;
  virtual void check() = 0;

  /// The registration, which ends with its last reference.
  virtual std::shared_ptr<void> register_memory(void* memory, std::size_t num_bytes) = 0;
  virtual Tensor empty(const Shape& shape, DType dtype) = 0;
  virtual BufferCounters counters() const = 0;
  virtual std::int64_t arena_bytes() const = 0;
  virtual std::int64_t trim() = 0;
};

/// The host counts, plans, and tells a Backend what to move.
std::unique_ptr<BufferEngine> make_host_planned_engine(const Communicator& comm,
                                                       const ElasticBufferConfig& config);

/// A GPU counts, plans and moves. @throws InvalidArgument in a build without CUDA.
std::unique_ptr<BufferEngine> make_device_planned_engine(const Communicator& comm,
                                                         const ElasticBufferConfig& config);

/// The host counts, plans and moves copies of the device's tensors.
std::unique_ptr<BufferEngine> make_host_staged_engine(const Communicator& comm,
                                                      const ElasticBufferConfig& config,
                                                      std::shared_ptr<StagedDevice> device);

/// The GPU of `config` for that. @throws InvalidArgument in a build without CUDA.
std::shared_ptr<StagedDevice> make_staged_device(const ElasticBufferConfig& config);

}  // namespace flexep
