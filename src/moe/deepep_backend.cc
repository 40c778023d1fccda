// SPDX-License-Identifier: Apache-2.0
//
// The `deepep` backend, with the semantics of DeepEP's first interface: one row for each token and rank, in
// the order of source ranks and tokens; ranks summed in rank order; an even number of SMs, 20 by default.
#include "common/check.h"
#include "moe/expert_alignment.h"
#include "moe/flex_backends.h"
#include "moe/topk_backend.h"

namespace flexep::moe {
namespace {

class DeepEpBackend final : public TopkBackend {
 public:
  DeepEpBackend(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group)
      : TopkBackend(config, group,
                    make_compact_rows(group->buffer(), config.num_local_experts(), router_alignment(config)),
                    {.skips_zero_probs = config.expert_capacity_factor().has_value(), .is_by_expert = true}) {
  }

  Tokens dispatch(const Tokens& tokens, const AsyncOptions& options) override {
    check(options);
    return TopkBackend::dispatch(tokens, options);
  }
  Tensor combine(const Tensor& received, const AsyncOptions& options) override {
    check(options);
    return TopkBackend::combine(received, options);
  }

 private:
  static void check(const AsyncOptions& options) {
    require_argument(options.async_finish || !options.allocate_on_comm_stream, "allocate_on_comm_stream",
                     "allocate_on_comm_stream needs async_finish with moe_flex_dispatcher_backend deepep");
  }
};

}  // namespace

std::unique_ptr<FlexBackend> make_deepep_backend(const MoeConfig& config,
                                                 std::shared_ptr<ExpertParallelGroup> group) {
  return std::make_unique<DeepEpBackend>(config, group);
}

}  // namespace flexep::moe
