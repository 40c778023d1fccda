// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdio>
#include <sstream>

#include "doctor/probes.h"

namespace flexep::tool {
namespace {

constexpr const char* kCpus = "sys/devices/system/cpu";

/// The value of the first line "key : value".
std::string field_of(const std::string& text, std::string_view key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::optional<int> list_size(const MachineRoot& root, const std::string& file) {
  const auto list = root.text(file);
  return list ? size_of_list(*list) : std::nullopt;
}

std::vector<Cache> caches_of(const MachineRoot& root) {
  std::vector<Cache> caches;
  const auto folder = fmt::format("{}/cpu0/cache", kCpus);
  for (const std::string& name : root.names_in(folder)) {
    const auto cache = fmt::format("{}/{}", folder, name);
    const auto level = root.number(cache + "/level");
    const auto size = root.text(cache + "/size");
    if (!level || !size) continue;
    caches.push_back({.level = static_cast<int>(*level),
                      .type = root.text(cache + "/type").value_or(""),
                      .size = *size,
                      .num_sharing = list_size(root, cache + "/shared_cpu_list")});
  }
  return caches;
}

std::vector<int> numa_cores_of(const MachineRoot& root) {
  std::vector<int> cores;
  for (const std::string& name : root.names_in("sys/devices/system/node")) {
    if (!name.starts_with("node") || !to_number(std::string_view(name).substr(4))) continue;
    // A node may be memory alone.
    cores.push_back(list_size(root, fmt::format("sys/devices/system/node/{}/cpulist", name)).value_or(0));
  }
  return cores;
}

/// "max 100000", or microseconds of a period that may be used: version 2; else the two files of version 1.
std::optional<double> quota_of(const MachineRoot& root) {
  long long quota = 0, period = 0;
  if (const auto text = root.text("sys/fs/cgroup/cpu.max")) {
    if (std::sscanf(text->c_str(), "%lld %lld", &quota, &period) != 2) return std::nullopt;
  } else {
    quota = root.number("sys/fs/cgroup/cpu/cpu.cfs_quota_us").value_or(0);
    period = root.number("sys/fs/cgroup/cpu/cpu.cfs_period_us").value_or(0);
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<double>(quota) / static_cast<double>(period);
}

}  // namespace

CpuFacts probe_cpu(const MachineRoot& root) {
  const std::string status = root.text("proc/self/status").value_or("");
  return {.model = field_of(root.text("proc/cpuinfo").value_or(""), "model name"),
          .num_cores = list_size(root, fmt::format("{}/online", kCpus)),
          .num_usable = size_of_list(field_of(status, "Cpus_allowed_list")),
          .quota_cores = quota_of(root),
          .caches = caches_of(root),
          .numa_cores = numa_cores_of(root)};
}

}  // namespace flexep::tool
