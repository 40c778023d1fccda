// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "core/buffer_engine.h"

namespace flexep {

std::unique_ptr<BufferEngine> make_device_planned_engine(const Communicator&,
                                                         const ElasticBufferConfig& config) {
  throw InvalidArgument(
      "device", fmt::format("device is {}, but this build of flexep has no CUDA", config.device.to_string()));
}

}  // namespace flexep
