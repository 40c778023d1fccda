// SPDX-License-Identifier: Apache-2.0
#include "moe/device_rules.h"

#include "common/check.h"

namespace flexep::moe {
namespace {

void require_on_cuda(bool holds, const char* name, const char* needed) {
  require_argument(holds, name, "not supported on cuda yet: {} must be {}", name, needed);
}

}  // namespace

void check_runs_on(Device device, const MoeConfig& config) {
  if (device.is_host()) return;
  const auto backend = config.flex_dispatcher_backend();
  require_on_cuda(config.moe_token_dispatcher_type == TokenDispatcherType::kFlex, "moe_token_dispatcher_type",
                  "flex");
  require_on_cuda(backend != FlexDispatcherBackend::kDeepEp, "moe_flex_dispatcher_backend",
                  "deepepv2, hybridep or ncclep");
  require_on_cuda(backend != FlexDispatcherBackend::kDeepEpV2 || config.moe_permute_fusion,
                  "moe_permute_fusion", "true");
  require_on_cuda(config.moe_input_jitter_eps.value_or(0) == 0, "moe_input_jitter_eps", "none");
  require_on_cuda(!config.moe_shared_expert_overlap, "moe_shared_expert_overlap", "false");
}

}  // namespace flexep::moe
