// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "moe_lm/layer_memory.h"
#include "moe_lm/schedule.h"

namespace moe_lm {
namespace {

constexpr double kMaxGradientNorm = 1.0;

ModelConfig model_config(const Options& options, int num_ranks) {
  return {.moe = options.moe,
          .num_blocks = options.num_blocks,
          .embedding_dim = options.embedding_dim,
          .max_samples = (options.batch_size + num_ranks - 1) / num_ranks,
          .seed = options.seed};
}

flexep::Device device_of(const Options& options, int rank) {
  return options.device == "cuda" ? use_gpu_of(rank) : flexep::Device::host();
}

std::vector<Parameter*> all_of(const ParameterList& parameters) {
  std::vector<Parameter*> all = parameters.replicated;
  all.insert(all.end(), parameters.sharded.begin(), parameters.sharded.end());
  return all;
}

/// What to multiply gradients by so that their norm is at most kMaxGradientNorm.
double clip_scale(double squared) {
  const double norm = std::sqrt(squared);
  return norm > kMaxGradientNorm ? kMaxGradientNorm / norm : 1.0;
}

/// Progress is due 20 times in a short run, and every 50 steps in a long one.
bool is_due(std::int64_t num_steps_done, std::int64_t num_steps) {
  const std::int64_t interval = std::clamp<std::int64_t>(num_steps / 20, 1, 50);
  return num_steps_done % interval == 0 || num_steps_done == num_steps;
}

}  // namespace

Trainer::Trainer(flexep::Communicator& comm, const Options& options, const Corpus& corpus)
    : comm_(comm),
      options_(options),
      sampler_(corpus.train, options.batch_size, options.seed),
      evaluator_(corpus.heldout, options.heldout_samples, options.batch_size),
      model_(model_config(options, comm.num_ranks()),
             std::make_shared<flexep::moe::ExpertParallelGroup>(comm, device_of(options, comm.rank()))),
      adamw_(all_of(model_.parameters()), {}) {}

TrainingResult Trainer::run(const std::function<void(const Progress&)>& on_progress) {
  TrainingResult result;
  for (std::int64_t step = 0; step < options_.num_steps; ++step) {
    result.train_loss.push_back(train_step(step));
    if (is_due(step + 1, options_.num_steps)) {
      result.progress.push_back(measure(step + 1));
      on_progress(result.progress.back());
    }
  }
  result.tokens_per_s = static_cast<double>(options_.num_steps * options_.batch_size) / training_seconds_;
  result.ablation_zero_moe_bpb = evaluator_.bits_per_byte(comm_, model_, Ablation::kZeroMoe);
  result.ablation_shuffled_experts_bpb = evaluator_.bits_per_byte(comm_, model_, Ablation::kShuffledExperts);
  return result;
}

double Trainer::train_step(std::int64_t step) {
  const Stopwatch stopwatch;
  const double dispatch_before = model_.dispatch_seconds();
  const double combine_before = model_.combine_seconds();

  // 1. This rank's share of the batch: gradients of the mean loss over the whole batch.
  sampler_.draw(step, share_of(options_.batch_size, comm_.rank(), comm_.num_ranks()), batch_);
  const double loss_scale = 1 / static_cast<double>(options_.batch_size);
  const PassResult pass = model_.train(batch_, loss_scale);
  expert_load_.add(pass.tokens_per_expert);

  // 2. Over the ranks: gradients of what all have, and the sums of what each has a part of.
  const ParameterList& parameters = model_.parameters();
  reducer_.reduce(comm_, parameters.replicated);
  std::array<double, 2> sums = {pass.loss, squared_norm(parameters.sharded)};
  comm_.all_reduce_sum(std::span<double>(sums));

  // 3. The update, which comes out the same on every rank.
  const double grad_scale = clip_scale(squared_norm(parameters.replicated) + sums[1]);
  adamw_.step(learning_rate_at(step, options_.num_steps, options_.learning_rate), grad_scale);
  model_.finish_step();

  window_.training += stopwatch.seconds();
  window_.dispatch += model_.dispatch_seconds() - dispatch_before;
  window_.combine += model_.combine_seconds() - combine_before;
  return sums[0] * loss_scale * kBitsPerNat;
}

Progress Trainer::measure(std::int64_t num_steps_done) {
  const TimeSpent spent = mean_over_ranks(comm_, std::exchange(window_, {}));
  const std::int64_t num_steps = num_steps_done - std::exchange(window_begin_, num_steps_done);
  training_seconds_ += spent.training;
  const double heldout_bpb = evaluator_.bits_per_byte(comm_, model_);
  const double seconds_per_step = since_start_.seconds() / static_cast<double>(num_steps_done);
  return {.step = num_steps_done,
          .heldout_bpb = heldout_bpb,
          .tokens_per_s = static_cast<double>(num_steps * options_.batch_size) / spent.training,
          .expert_load_max_over_mean = expert_load_.take_max_over_mean(comm_),
          .dispatch_share = spent.dispatch / spent.training,
          .combine_share = spent.combine / spent.training,
          .seconds_left = seconds_per_step * static_cast<double>(options_.num_steps - num_steps_done)};
}

}  // namespace moe_lm
