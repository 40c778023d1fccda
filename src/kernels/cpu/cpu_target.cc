// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_target.h"

#include <algorithm>
#include <cctype>

#include "common/check.h"
#include "hwy/targets.h"

namespace flexep::cpu {
namespace {

/// Highway calls AVX-512 "AVX3" and emulated vectors "EMU128"; users know them as avx512 and scalar.
std::string name_of_target(std::int64_t target) {
  if (target == HWY_EMU128 || target == HWY_SCALAR) return "scalar";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.starts_with("avx3")) name.replace(0, 4, "avx512");
  return name;
}

/// Detected once, before anything was forced. Highway orders targets best first.
const std::vector<std::int64_t>& available_targets() {
  static const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  return targets;
}

std::string comma_separated(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return list;
}

}  // namespace

std::vector<std::string> available_cpu_targets() {
  std::vector<std::string> names;
  for (const std::int64_t target : available_targets()) names.push_back(name_of_target(target));
  return names;
}

std::string cpu_target() {
  available_targets();
  return name_of_target(hwy::SupportedAndGeneratedTargets().front());
}

void force_cpu_target(std::string_view name) {
  const auto& targets = available_targets();
  if (name.empty()) return hwy::SetSupportedTargetsForTest(0);
  const auto target = std::find_if(targets.begin(), targets.end(),
                                   [&](std::int64_t each) { return name_of_target(each) == name; });
  require_argument(target != targets.end(), "cpu_target",
                   "instruction set '{}' is not available here; this machine has {}", name,
                   comma_separated(available_cpu_targets()));
  hwy::SetSupportedTargetsForTest(*target);
}

}  // namespace flexep::cpu
