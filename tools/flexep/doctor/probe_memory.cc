// SPDX-License-Identifier: Apache-2.0
#include <sstream>

#include "doctor/probes.h"

namespace flexep::tool {
namespace {

/// "MemTotal:       16384 kB"
std::optional<std::int64_t> meminfo(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, value;
    if (words >> name >> value && name == key + ":") return to_number(value);
  }
  return std::nullopt;
}

}  // namespace

MemoryFacts probe_memory(const MachineRoot& root) {
  const std::string info = root.text("proc/meminfo").value_or("");
  auto limit = root.number("sys/fs/cgroup/memory.max");
  if (!limit) limit = root.number("sys/fs/cgroup/memory/memory.limit_in_bytes");
  // Version 1 says "none" as nearly 2^63.
  if (limit && *limit > std::int64_t{1} << 60) limit.reset();
  return {.total_kib = meminfo(info, "MemTotal"),
          .available_kib = meminfo(info, "MemAvailable"),
          .limit_bytes = limit,
          .thp = chosen_word(root.text("sys/kernel/mm/transparent_hugepage/enabled")),
          .thp_shmem = chosen_word(root.text("sys/kernel/mm/transparent_hugepage/shmem_enabled")),
          .huge_pages = meminfo(info, "HugePages_Total"),
          .huge_page_kib = meminfo(info, "Hugepagesize")};
}

}  // namespace flexep::tool
