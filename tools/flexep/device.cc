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

}  // namespace flexep::tool
