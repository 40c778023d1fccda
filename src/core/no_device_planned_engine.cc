// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "core/buffer_engine.h"

namespace flexep {
namespace {

[[noreturn]] void refuse(const ElasticBufferConfig& config) {
  throw InvalidArgument(
      "device", fmt::format("device is {}, but this build of flexep has no CUDA", config.device.to_string()));
}

}  // namespace

std::unique_ptr<BufferEngine> make_device_planned_engine(const Communicator&,
                                                         const ElasticBufferConfig& config) {
  refuse(config);
}

std::shared_ptr<StagedDevice> make_staged_device(const ElasticBufferConfig& config) {
  refuse(config);
}

}  // namespace flexep
