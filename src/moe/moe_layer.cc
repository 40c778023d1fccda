// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_layer.h"

#include <chrono>

#include "common/check.h"
#include "moe/config_agreement.h"
#include "moe/expert_permutation.h"
#include "moe/flatten.h"
#include "moe/floating.h"
#include "moe/initial_parameters.h"

namespace flexep::moe {
namespace {

// Adds the seconds that `step` takes to `total`, and returns what it returns.
template <typename Step>
auto timed(double& total, Step&& step) {
  const auto start = std::chrono::steady_clock::now();
  auto result = step();
  total += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

// Ranks agree on the configuration before any of them judges it, so that a bad one is an error on all.
const MoeConfig& checked(const MoeConfig& config, ExpertParallelGroup& group, std::uint64_t seed) {
  require_agreement(group.comm(), config, seed);
  config.validate();
  return config;
}

void check_dtype(const MoeConfig& config, DType dtype) {
  const bool is_double = config.params_dtype == DType::kFloat64;
  require_argument((dtype == DType::kFloat64) == is_double, "hidden",
                   "with params_dtype {} hidden must be {}, not {}", name_of(config.params_dtype),
                   is_double ? "fp64" : "bf16, fp16 or fp32", name_of(dtype));
}

}  // namespace

struct MoeContext::State {
  std::vector<int> expert_permutation;
  Shape hidden_shape;
  std::unique_ptr<TokenDispatcher> dispatcher;
  RouterContext router;
  ExpertsContext experts;
};

MoeContext::MoeContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
MoeContext::~MoeContext() = default;
MoeContext::MoeContext(MoeContext&&) noexcept = default;
MoeContext& MoeContext::operator=(MoeContext&&) noexcept = default;

MoeLayer::MoeLayer(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group, std::uint64_t seed)
    : config_(checked(config, *group, seed)),
      group_(std::move(group)),
      parameters_(initial_parameters(config_, group_->comm().rank(), seed)) {
  make_token_dispatcher(config_, group_);  // throws now, not in the first step, what does not fit the group
}

MoeForward MoeLayer::forward(const Tensor& hidden, const MoeForwardOptions& options) {
  const auto& permutation = options.expert_permutation;
  const Tensor flat = flatten_tokens(hidden, config_.hidden_size);
  check_dtype(config_, hidden.dtype());
  check_expert_permutation(permutation, config_.num_moe_experts);

  auto routed = timed(seconds_.router, [&] {
    return router_forward(config_, group_->comm(), flat, parameters_.router_weight);
  });
  auto dispatcher = make_token_dispatcher(config_, group_);
  const auto local =
      dispatcher->dispatch_preprocess({.hidden = hidden, .probs = permute_experts(routed.probs, permutation)},
                                      permute_experts(routed.routing_map, permutation));
  const auto received =
      timed(seconds_.dispatch, [&] { return dispatcher->token_dispatch(local, kSynchronous); });
  const auto grouped = dispatcher->dispatch_postprocess(received);

  auto experts = timed(seconds_.experts, [&] {
    return experts_forward(parameters_.experts, grouped, dispatcher->empty_expert_rows());
  });

  const auto partial = dispatcher->combine_preprocess(experts.output);
  const auto combined =
      timed(seconds_.combine, [&] { return dispatcher->token_combine(partial, kSynchronous); });
  const auto output = dispatcher->combine_postprocess(combined);

  auto state = std::make_unique<MoeContext::State>(MoeContext::State{.expert_permutation = permutation,
                                                                     .hidden_shape = hidden.shape(),
                                                                     .dispatcher = std::move(dispatcher),
                                                                     .router = std::move(routed.context),
                                                                     .experts = std::move(experts.context)});
  return {.output = output,
          .aux_loss = routed.aux_loss,
          .tokens_per_expert = std::move(routed.tokens_per_expert),
          .context = MoeContext(std::move(state))};
}

MoeGradients MoeLayer::backward(MoeContext context, const MoeOutputGradients& grads) {
  auto& state = context.state();
  auto& dispatcher = *state.dispatcher;
  require_argument(grads.output.value().shape() == state.hidden_shape, "output",
                   "the gradient of a MoE layer's output must be {}, not {}", state.hidden_shape.to_string(),
                   grads.output.value().shape().to_string());

  const auto sums = dispatcher.combine_postprocess_backward(grads.output);
  const auto partial = timed(seconds_.dispatch, [&] { return dispatcher.token_combine_backward(sums); });
  const auto expert_output = dispatcher.combine_preprocess_backward(partial);

  const auto experts = timed(seconds_.experts, [&] {
    return experts_backward(parameters_.experts, state.experts, expert_output,
                            dispatcher.empty_expert_rows());
  });

  const auto received = dispatcher.dispatch_postprocess_backward(experts.tokens);
  const auto local = timed(seconds_.combine, [&] { return dispatcher.token_dispatch_backward(received); });
  const auto tokens = dispatcher.dispatch_preprocess_backward(local);
  const auto router = timed(seconds_.router, [&] {
    return router_backward(
        config_, parameters_.router_weight, state.router,
        {.probs = unpermute_experts(tokens.probs, state.expert_permutation), .aux_loss = grads.aux_loss});
  });
  return {.hidden = add(tokens.hidden, router.hidden),
          .parameters = {.router_weight = router.weight, .experts = experts.weights}};
}

}  // namespace flexep::moe
