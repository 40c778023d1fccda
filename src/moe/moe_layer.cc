// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_layer.h"

#include <algorithm>
#include <chrono>

#include "common/check.h"
#include "moe/budgeted_dispatch.h"
#include "moe/config_agreement.h"
#include "moe/counter_random.h"
#include "moe/expert_permutation.h"
#include "moe/experts_on_device.h"
#include "moe/flatten.h"
#include "moe/gemm.h"
#include "moe/initial_parameters.h"
#include "moe/layer_arguments.h"
#include "moe/projection.h"
#include "moe/rank_agreement.h"
#include "moe/router_on_device.h"
#include "moe/shared_expert.h"

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

// The same for a step of the router, whose matrix products are counted apart, too.
template <typename Step>
auto timed_router(MoeSeconds& seconds, Step&& step) {
  const double gemms_before = seconds_in_gemms();
  auto result = timed(seconds.router, std::forward<Step>(step));
  seconds.router_gemms += seconds_in_gemms() - gemms_before;
  return result;
}

// Ranks agree on the configuration before any of them judges it, so that a bad one is an error on all.
const MoeConfig& checked(const MoeConfig& config, ExpertParallelGroup& group, std::uint64_t seed) {
  require_agreement(group.comm(), config, seed);
  config.validate();
  return config;
}

// B of hidden [S, B, H].
std::int64_t num_sequences_of(const Tensor& hidden) {
  return hidden.num_dims() == 3 ? std::max<std::int64_t>(1, hidden.size(1)) : 1;
}

std::unique_ptr<SharedExpertForward> make_shared_expert(const ComputeDevice& device, const MoeConfig& config,
                                                        const MoeParameters<Tensor>& parameters,
                                                        const Tensor& rows) {
  if (!config.moe_shared_expert_intermediate_size) return nullptr;
  return std::make_unique<SharedExpertForward>(device, parameters.shared_expert, rows,
                                               config.moe_shared_expert_overlap);
}

// The backward of project, or of nothing where there is no weight.
ProjectionGradients project_back(const ComputeDevice& device, const Tensor& rows, const Tensor& weight,
                                 const Gradient<Tensor>& grad) {
  if (!weight) return {.rows = grad, .weight = Tensor()};
  return project_backward(device, rows, weight, grad);
}

// What the host permutes comes from there.
Tensor permuted(const ComputeDevice& device, const Tensor& columns, std::span<const int> permutation) {
  return permutation.empty() ? columns : permute_experts(device.to_host(columns), permutation);
}

MoeParameters<Tensor> from_host(const ComputeDevice& device, const MoeParameters<Tensor>& parameters) {
  const auto& [router_weight, experts, latent, shared] = parameters;
  return {.router_weight = device.from_host(router_weight),
          .experts = {.fc1 = device.from_host(experts.fc1), .fc2 = device.from_host(experts.fc2)},
          .latent = {.down = device.from_host(latent.down), .up = device.from_host(latent.up)},
          .shared_expert = {.fc1 = device.from_host(shared.fc1),
                            .fc2 = device.from_host(shared.fc2),
                            .gate = device.from_host(shared.gate)}};
}

}  // namespace

struct MoeContext::State {
  std::vector<int> expert_permutation;
  Shape hidden_shape;
  DType hidden_dtype;
  Tensor rows;            // [T, H], what latent.down took; no tensor without
  Tensor latent_output;   // [T, L], what latent.up took; no tensor without
  GroupedTokens grouped;  // what apply_probs took; empty without
  std::unique_ptr<TokenDispatcher> dispatcher;
  RouterContext router;
  ExpertsContext experts;
  ExpertsContext shared_expert;
};

MoeContext::MoeContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
MoeContext::~MoeContext() = default;
MoeContext::MoeContext(MoeContext&&) noexcept = default;
MoeContext& MoeContext::operator=(MoeContext&&) noexcept = default;

MoeLayer::MoeLayer(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group, std::uint64_t seed)
    : config_(checked(config, *group, seed)),
      group_(std::move(group)),
      seed_(seed),
      parameters_(from_host(group_->compute(), initial_parameters(config_, group_->comm().rank(), seed))),
      expert_bias_(config_.moe_router_enable_expert_bias ? static_cast<std::size_t>(config_.num_moe_experts)
                                                         : 0) {
  make_token_dispatcher(config_, group_);  // throws now, not in the first step, what does not fit the group
}

RouterForward MoeLayer::route(const Tensor& rows, std::int64_t num_sequences,
                              const MoeForwardOptions& options) {
  MoeConfig config = config_;
  if (!options.is_training) config.moe_input_jitter_eps.reset();
  auto routed = router_forward(group_->compute(), config, group_->comm(), rows, parameters_.router_weight,
                               {.expert_bias = expert_bias_,
                                .replay_topk_idx = options.replay_topk_idx,
                                .past_tokens_per_expert = past_tokens_per_expert_,
                                .num_sequences = num_sequences,
                                .random_key = mix(seed_) + num_forwards_++});
  if (options.is_training) remember_load(routed);
  return routed;
}

void MoeLayer::remember_load(const RouterForward& routed) {
  const auto accumulate = [](auto& sums, const auto& counts) {
    sums.resize(counts.size());
    std::transform(sums.begin(), sums.end(), counts.begin(), sums.begin(), std::plus<>());
  };
  accumulate(tokens_since_bias_update_, routed.tokens_per_expert);
  accumulate(past_tokens_per_expert_, routed.global_tokens_per_expert);
}

void MoeLayer::update_expert_bias() {
  if (expert_bias_.empty()) return;
  tokens_since_bias_update_.resize(expert_bias_.size());
  expert_bias_ = updated_expert_bias(config_, group_->comm(), expert_bias_, tokens_since_bias_update_);
  tokens_since_bias_update_.clear();
}

MoeForward MoeLayer::forward(const Tensor& hidden, const MoeForwardOptions& options) {
  const ComputeDevice& device = group_->compute();
  check_on_all_ranks(group_->comm(),
                     [&] { check_forward_arguments(config_, group_->device(), hidden, options); });
  const auto& permutation = options.expert_permutation;
  const Tensor rows = flatten_tokens(hidden, config_.hidden_size);
  auto routed = timed_router(seconds_, [&] { return route(rows, num_sequences_of(hidden), options); });

  const auto shared_expert = make_shared_expert(device, config_, parameters_, rows);
  if (shared_expert) shared_expert->begin_fc1();
  const bool is_latent = config_.moe_latent_size.has_value();
  const Tensor sent = is_latent ? project(device, rows, parameters_.latent.down) : rows;
  auto [dispatcher, grouped] = timed(seconds_.dispatch, [&] {
    return dispatch_within_budget(config_, group_,
                                  {.hidden = sent, .probs = permuted(device, routed.probs, permutation)},
                                  permuted(device, routed.routing_map, permutation));
  });

  const bool on_input = config_.moe_apply_probs_on_input;
  auto experts = timed(seconds_.experts, [&, &dispatcher = dispatcher, &grouped = grouped] {
    return experts_forward(device, parameters_.experts, on_input ? device.apply_probs(grouped) : grouped,
                           dispatcher->empty_expert_rows());
  });

  if (shared_expert) shared_expert->begin_fc2();
  const Tensor sums = timed(seconds_.combine, [&, &dispatcher = dispatcher] {
    const auto partial = dispatcher->combine_preprocess(experts.output);
    return dispatcher->combine_postprocess(dispatcher->token_combine(partial, kSynchronous));
  });
  Tensor output = is_latent ? project(device, sums, parameters_.latent.up) : sums;
  if (shared_expert)
    output = device.add(output, timed(seconds_.shared_expert, [&] { return shared_expert->finish(); }));

  const auto over_budget = dispatcher->check_over_budget();
  auto state = std::make_unique<MoeContext::State>(
      MoeContext::State{.expert_permutation = permutation,
                        .hidden_shape = hidden.shape(),
                        .hidden_dtype = hidden.dtype(),
                        .rows = is_latent ? rows : Tensor(),
                        .latent_output = is_latent ? sums : Tensor(),
                        .grouped = on_input ? grouped : GroupedTokens(),
                        .dispatcher = std::move(dispatcher),
                        .router = std::move(routed.context),
                        .experts = std::move(experts.context),
                        .shared_expert = shared_expert ? shared_expert->context() : ExpertsContext()});
  return {.output = output.reshape(hidden.shape()),
          .aux_loss = routed.aux_loss,
          .load_balancing_loss = routed.load_balancing_loss,
          .z_loss = routed.z_loss,
          .tokens_per_expert = std::move(routed.tokens_per_expert),
          .topk_idx = routed.topk_idx,
          .over_budget = over_budget,
          .context = MoeContext(std::move(state))};
}

MoeGradients MoeLayer::backward(MoeContext context, const MoeOutputGradients& grads) {
  const ComputeDevice& device = group_->compute();
  const Tensor& grad_output = grads.output;
  check_on_all_ranks(group_->comm(), [&] {
    require_argument(context.has_state(), "context", "the context has been used: a forward has one backward");
    check_backward_arguments(group_->device(), context.state().hidden_shape, context.state().hidden_dtype,
                             grad_output);
  });
  auto& state = context.state();
  auto& dispatcher = *state.dispatcher;
  const Tensor grad_rows = flatten_tokens(grad_output, config_.hidden_size);

  SharedExpertBackward shared_expert(device, config_, parameters_.shared_expert, state.shared_expert,
                                     grad_rows);
  const auto up = project_back(device, state.latent_output, parameters_.latent.up, grad_rows);
  const auto expert_output = timed(seconds_.dispatch, [&] {
    const auto sums = dispatcher.combine_postprocess_backward(up.rows);
    return dispatcher.combine_preprocess_backward(dispatcher.token_combine_backward(sums));
  });

  const auto experts = timed(seconds_.experts, [&] {
    return experts_backward(device, parameters_.experts, state.experts, expert_output,
                            dispatcher.empty_expert_rows());
  });
  const TokenGradients grouped = config_.moe_apply_probs_on_input
                                     ? device.apply_probs_backward(state.grouped, experts.tokens.hidden)
                                     : experts.tokens;

  const auto tokens = timed(seconds_.combine, [&] {
    const auto received = dispatcher.dispatch_postprocess_backward(grouped);
    return dispatcher.dispatch_preprocess_backward(dispatcher.token_dispatch_backward(received));
  });
  const auto down = project_back(device, state.rows, parameters_.latent.down, tokens.hidden);
  const auto router = timed_router(seconds_, [&] {
    return router_backward(
        device, config_, parameters_.router_weight, state.router,
        {.probs = unpermute_experts(tokens.probs, state.expert_permutation), .aux_loss = grads.aux_loss});
  });
  const auto shared = timed(seconds_.shared_expert, [&] { return shared_expert.finish(); });
  Tensor grad_hidden = device.add(down.rows, router.hidden);
  if (shared.rows.value()) grad_hidden = device.add(grad_hidden, shared.rows);
  return {.hidden = grad_hidden.reshape(state.hidden_shape),
          .parameters = {.router_weight = router.weight,
                         .experts = experts.weights,
                         .latent = {.down = down.weight, .up = up.weight},
                         .shared_expert = shared.weights}};
}

}  // namespace flexep::moe
