// SPDX-License-Identifier: Apache-2.0
#include <sstream>

#include "doctor/probes.h"

namespace flexep::tool {
namespace {

/// Of a line "Max open files            1024                 1048576              files".
std::optional<Limit> limit_of(const std::string& limits, const std::string& name) {
  std::istringstream lines(limits);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream words(line.substr(name.size()));
    std::string soft, hard;
    if (!(words >> soft >> hard)) return std::nullopt;
    const auto is_limit = [](const std::string& word) { return word == "unlimited" || to_number(word); };
    if (!is_limit(soft) || !is_limit(hard)) return std::nullopt;
    return Limit{.name = name, .soft = to_number(soft), .hard = to_number(hard)};
  }
  return std::nullopt;
}

}  // namespace

LimitFacts probe_limits(const MachineRoot& root) {
  const std::string limits = root.text("proc/self/limits").value_or("");
  return {.locked_memory = limit_of(limits, "Max locked memory"),
          .open_files = limit_of(limits, "Max open files"),
          .processes = limit_of(limits, "Max processes"),
          .max_map_count = root.number("proc/sys/vm/max_map_count")};
}

}  // namespace flexep::tool
