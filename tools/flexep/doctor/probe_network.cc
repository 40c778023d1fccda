// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "doctor/probes.h"

namespace flexep::tool {
namespace {

constexpr std::int64_t kLoopbackType = 772;  // ARPHRD_LOOPBACK

NetworkDevice device_of(const MachineRoot& root, const std::string& name) {
  const auto folder = fmt::format("sys/class/net/{}", name);
  NetworkDevice device{.name = name,
                       .state = root.text(folder + "/operstate").value_or("unknown"),
                       .megabits = root.number(folder + "/speed"),
                       .mtu = root.number(folder + "/mtu"),
                       .is_loopback = root.number(folder + "/type") == kLoopbackType};
  // A link that is down, or has no speed, says -1.
  if (device.megabits && *device.megabits <= 0) device.megabits.reset();
  return device;
}

}  // namespace

NetworkFacts probe_network(const MachineRoot& root) {
  NetworkFacts facts;
  for (const std::string& name : root.names_in("sys/class/net")) {
    // The folder may hold a file of the bonding driver's.
    if (name != "bonding_masters") facts.devices.push_back(device_of(root, name));
  }
  for (const std::string& device : root.names_in("sys/class/infiniband")) {
    const auto ports = fmt::format("sys/class/infiniband/{}/ports", device);
    for (const std::string& port : root.names_in(ports)) {
      const auto folder = fmt::format("{}/{}", ports, port);
      facts.infiniband.push_back({.device = device,
                                  .port = port,
                                  .state = root.text(folder + "/state").value_or("unknown"),
                                  .rate = root.text(folder + "/rate").value_or("unknown")});
    }
  }
  return facts;
}

}  // namespace flexep::tool
