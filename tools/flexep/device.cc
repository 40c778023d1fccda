// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <fmt/format.h>

#include "command.h"
#include "cuda_devices.h"

namespace flexep::tool {

Device device_of(const std::string& name) {
  if (name == "cpu") return Device::host();
  if (name != "cuda") throw UsageError(fmt::format("--device {}: not one of cpu, cuda", name));
  const std::string reason = why_no_cuda_device();
  if (!reason.empty()) throw NotAvailable(fmt::format("--device cuda: {}", reason));
  return Device::cuda(0);
}

std::string_view name_of(const Device& device) {
  return device.is_host() ? "cpu" : "cuda";
}

ArenaMemory arena_memory_of(const std::string& name) {
  if (name == "device") return ArenaMemory::kDevice;
  if (name == "pinned_host") return ArenaMemory::kPinnedHost;
  throw UsageError(fmt::format("--memory {}: not one of device, pinned_host", name));
}

std::string_view name_of(ArenaMemory memory) {
  return memory == ArenaMemory::kDevice ? "device" : "pinned_host";
}

}  // namespace flexep::tool
