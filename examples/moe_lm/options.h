// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "flexep/moe/moe_config.h"

namespace moe_lm {

struct Options {
  std::vector<std::string> text_files;  ///< empty = the C++ standard library's headers
  std::int64_t text_bytes = 6 << 20;    ///< at most so much of them

  int num_ranks = 4;
  bool is_rank_of_a_job = false;  ///< somebody else has started this process and the other ranks
  std::string transport = "shm";  ///< "shm": ranks are processes; "in_process": threads
  std::string device = "cpu";  ///< where the MoE layers are: "cpu", or "cuda": ranks take turns with the GPUs

  std::int64_t num_steps = 720;
  std::int64_t batch_size = 2048;  ///< samples of one step, over all ranks
  std::int64_t heldout_samples = 8192;
  double learning_rate = 3e-3;  ///< at its peak
  std::uint64_t seed = 1;

  int num_blocks = 2;
  int embedding_dim = 16;
  flexep::moe::MoeConfig moe;

  std::string json_file;  ///< empty = none
};

/// The command line is wrong; what() is one line that names the option.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// --help was given; what() is the text.
class HelpRequested : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Reads the command line, and the number of ranks from the environment when this process is one of several.
/// @throws UsageError, HelpRequested.
Options parse_options(int argc, const char* const* argv);

}  // namespace moe_lm
