// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/moe_block.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "moe_lm/layer_memory.h"

namespace moe_lm {
namespace {

/// Sends what is meant for each expert half way around the table: no expert keeps its tokens.
std::vector<int> shuffled_experts(int num_experts) {
  std::vector<int> permutation;
  for (int e = 0; e < num_experts; ++e) permutation.push_back((e + num_experts / 2) % num_experts);
  return permutation;
}

template <typename T>
void add(const flexep::Tensor& x, const flexep::Tensor& y, const flexep::Tensor& out) {
  std::ranges::transform(x.values<T>(), y.values<T>(), out.values<T>().begin(), std::plus<T>());
}

/// A layer's tensors, or their gradients, that every rank has: always in the same order, without those that
/// the configuration does not have.
template <typename T>
std::vector<Parameter> replicated_tensors(const std::string& name, const flexep::moe::MoeParameters<T>& all) {
  const auto& shared = all.shared_expert;
  std::vector<Parameter> tensors = {{.name = name + ".router", .value = all.router_weight},
                                    {.name = name + ".latent_down", .value = all.latent.down},
                                    {.name = name + ".latent_up", .value = all.latent.up},
                                    {.name = name + ".shared_fc1", .value = shared.fc1},
                                    {.name = name + ".shared_fc2", .value = shared.fc2},
                                    {.name = name + ".shared_gate", .value = shared.gate}};
  std::erase_if(tensors, [](const Parameter& parameter) { return !parameter.value; });
  return tensors;
}

/// The host's copies.
std::vector<Parameter> on_host(std::vector<Parameter> parameters) {
  for (Parameter& parameter : parameters) parameter.value = to_host(parameter.value);
  return parameters;
}

}  // namespace

template <typename T>
MoeBlock<T>::MoeBlock(const std::string& name, const flexep::moe::MoeConfig& config,
                      std::shared_ptr<flexep::moe::ExpertParallelGroup> group, std::int64_t max_samples,
                      std::uint64_t seed)
    : norm_(name + ".norm", config.hidden_size),
      device_(group->device()),
      moe_(config, std::move(group), seed),
      replicated_(on_host(replicated_tensors(name, moe_.parameters()))),
      fc1_{.name = name + ".fc1", .value = to_host(moe_.parameters().experts.fc1)},
      fc2_{.name = name + ".fc2", .value = to_host(moe_.parameters().experts.fc2)},
      normed_(flexep::Tensor::zeros({max_samples, config.hidden_size}, flexep::kDTypeOf<T>)) {}

template <typename T>
typename MoeBlock<T>::Statistics MoeBlock<T>::forward(const flexep::Tensor& hidden, const flexep::Tensor& out,
                                                      Ablation ablation, bool is_training) {
  const flexep::Tensor normed = normed_.rows(0, hidden.size(0));
  norm_.forward(hidden, normed);
  flexep::moe::MoeForwardOptions options = {.is_training = is_training};
  if (ablation == Ablation::kShuffledExperts) {
    options.expert_permutation = shuffled_experts(moe_.config().num_moe_experts);
  }
  flexep::moe::MoeForward moe = moe_.forward(to_layer(normed, device_), options);
  if (ablation == Ablation::kZeroMoe) {
    std::ranges::copy(hidden.values<T>(), out.values<T>().begin());
  } else {
    add<T>(hidden, to_host(moe.output), out);
  }
  context_ = std::move(moe.context);
  return {.aux_loss = moe.aux_loss, .tokens_per_expert = std::move(moe.tokens_per_expert)};
}

template <typename T>
void MoeBlock<T>::backward(const flexep::Tensor& hidden, const flexep::Tensor& grad_out,
                           const flexep::Tensor& grad_hidden) {
  flexep::moe::MoeGradients moe =
      moe_.backward(std::move(*context_), {.output = to_layer(grad_out, device_), .aux_loss = 1.0});
  context_.reset();
  const std::vector<Parameter> grads = on_host(replicated_tensors("", moe.parameters));
  for (std::size_t i = 0; i < grads.size(); ++i) replicated_[i].grad = grads[i].value;
  fc1_.grad = to_host(moe.parameters.experts.fc1);
  fc2_.grad = to_host(moe.parameters.experts.fc2);
  std::ranges::copy(grad_out.values<T>(), grad_hidden.values<T>().begin());
  norm_.backward(hidden, to_host(moe.hidden), grad_hidden);
}

template <typename T>
void MoeBlock<T>::append_parameters(ParameterList& list) {
  list.replicated.push_back(&norm_.gain);
  for (Parameter& parameter : replicated_) list.replicated.push_back(&parameter);
  list.sharded.insert(list.sharded.end(), {&fc1_, &fc2_});
}

template <typename T>
void MoeBlock<T>::finish_step() {
  const auto layers_own = replicated_tensors("", moe_.parameters());
  for (std::size_t i = 0; i < layers_own.size(); ++i)
    copy_to_layer(replicated_[i].value, layers_own[i].value);
  copy_to_layer(fc1_.value, moe_.parameters().experts.fc1);
  copy_to_layer(fc2_.value, moe_.parameters().experts.fc2);
  moe_.update_expert_bias();
  moe_.reset_global_aux_loss_tracker();
}

template class MoeBlock<float>;
template class MoeBlock<double>;

}  // namespace moe_lm
