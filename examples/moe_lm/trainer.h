// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "moe_lm/adamw.h"
#include "moe_lm/evaluation.h"
#include "moe_lm/gradients.h"
#include "moe_lm/options.h"
#include "moe_lm/statistics.h"

namespace moe_lm {

/// How the run stands; the same on every rank but for times, which are means over the ranks.
struct Progress {
  std::int64_t step = 0;  ///< steps done
  double heldout_bpb = 0;
  double tokens_per_s = 0;               ///< of all ranks, since the last progress
  double expert_load_max_over_mean = 0;  ///< since the last progress, in the worse block
  double dispatch_share = 0;             ///< of the training time since the last progress
  double combine_share = 0;
  double seconds_left = 0;
};

/// What a run gives; losses are in bits per byte.
struct TrainingResult {
  std::vector<double> train_loss;  ///< of each step's global batch, before its update
  std::vector<Progress> progress;  ///< evenly spaced; the last is after the last step
  double tokens_per_s = 0;
  double ablation_zero_moe_bpb = 0;
  double ablation_shuffled_experts_bpb = 0;
};

/// Trains the model data-parallel, with its experts spread over the ranks.
class Trainer {
 public:
  /// Collective. `corpus` must outlive the trainer.
  Trainer(flexep::Communicator& comm, const Options& options, const Corpus& corpus);

  /// Collective.
  /// @param on_progress  is called on every rank.
  TrainingResult run(const std::function<void(const Progress&)>& on_progress);

 private:
  /// @return the loss of the global batch in bits per byte.
  double train_step(std::int64_t step);
  Progress measure(std::int64_t num_steps_done);

  flexep::Communicator comm_;
  Options options_;
  BatchSampler sampler_;
  Evaluator evaluator_;
  ByteModel<float> model_;
  GradientReducer reducer_;
  AdamW adamw_;
  Batch batch_;

  ExpertLoad expert_load_;
  TimeSpent window_;  ///< of this rank, since the last progress
  std::int64_t window_begin_ = 0;
  double training_seconds_ = 0;
  Stopwatch since_start_;
};

}  // namespace moe_lm
