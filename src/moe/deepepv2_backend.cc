// SPDX-License-Identifier: Apache-2.0
//
// The `deepepv2` backend: the ElasticBuffer as it is. With moe_permute_fusion rows arrive grouped by expert.
#include "moe/expert_alignment.h"
#include "moe/flex_backends.h"
#include "moe/topk_backend.h"

namespace flexep::moe {
namespace {

std::unique_ptr<ReceivedRows> make_rows(const MoeConfig& config, ExpertParallelGroup& group) {
  const int alignment = router_alignment(config);
  if (config.moe_permute_fusion) return make_expanded_rows(group.buffer(), alignment);
  return make_compact_rows(group.buffer(), config.num_local_experts(), alignment);
}

class DeepEpV2Backend final : public TopkBackend {
 public:
  DeepEpV2Backend(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group)
      : TopkBackend(config, group, make_rows(config, *group),
                    {.skips_zero_probs = config.expert_capacity_factor().has_value()}) {}
};

}  // namespace

std::unique_ptr<FlexBackend> make_deepepv2_backend(const MoeConfig& config,
                                                   std::shared_ptr<ExpertParallelGroup> group) {
  return std::make_unique<DeepEpV2Backend>(config, group);
}

}  // namespace flexep::moe
