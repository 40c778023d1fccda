// SPDX-License-Identifier: Apache-2.0
//
// Trains a byte-level mixture-of-experts language model whose experts are spread over several ranks.
// README.md is its manual.
#include <cblas.h>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>

#include "flexep/communicator.h"
#include "flexep/env.h"
#include "flexep/error.h"
#include "launcher/launcher.h"
#include "moe_lm/report.h"
#include "moe_lm/trainer.h"

namespace moe_lm {
namespace {

enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2 };

Corpus load_corpus(Options& options) {
  try {
    if (options.text_files.empty()) options.text_files = default_text_files();
    return split_text(read_text(options.text_files, options.text_bytes));
  } catch (const flexep::InvalidArgument& error) {
    throw UsageError(error.what());
  }
}

/// Prints a line at once, though stdout may be a pipe.
void print(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

void train(flexep::Communicator& comm, const Options& options, const Corpus& corpus) {
  const bool is_reporter = comm.rank() == 0;
  const double unigram_bpb = unigram_bits_per_byte(corpus.heldout);
  if (is_reporter) {
    print(fmt::format("{} ranks ({}), {} bytes to train on, {} held out", comm.num_ranks(),
                      comm.transport_name(), corpus.train.size(), corpus.heldout.size()));
    for (const std::string& warning : options.moe.warnings())
      fmt::print(stderr, "moe_lm: warning: {}\n", warning);
  }
  Trainer trainer(comm, options, corpus);
  const TrainingResult result = trainer.run([&](const Progress& progress) {
    if (is_reporter) print(progress_line(progress, options));
  });
  if (is_reporter) {
    print(summary(result, unigram_bpb));
    if (!options.json_file.empty()) write_json(options, result, unigram_bpb);
  }
}

/// Says which rank an error comes from.
void train_as_rank(flexep::Communicator& comm, const Options& options, const Corpus& corpus) {
  try {
    train(comm, options, corpus);
  } catch (const std::exception& error) {
    throw flexep::Error(fmt::format("rank {}: {}", comm.rank(), error.what()));
  }
}

/// A launcher of MPI tells a rank its number only in the group.
flexep::Communicator join_group() {
  try {
    return flexep::Communicator::from_environment();
  } catch (const flexep::Error& error) {
    const auto rank = flexep::Environment::read().rank;
    if (!rank) throw;
    throw flexep::Error(fmt::format("rank {}: {}", *rank, error.what()));
  }
}

/// Trains with ranks that are threads, or as one rank of several processes, or starts these processes.
int start(const Options& options, const Corpus& corpus, int argc, const char* const* argv) {
  openblas_set_num_threads(1);  // a rank is a core's worth of work, and one thread adds in one order
  if (options.transport == "in_process") {
    flexep::in_process(options.num_ranks,
                       [&](flexep::Communicator& comm) { train_as_rank(comm, options, corpus); });
    return kOk;
  }
  if (options.is_rank_of_a_job || options.num_ranks == 1) {
    flexep::Communicator comm = join_group();
    train_as_rank(comm, options, corpus);
    return kOk;
  }
  return flexep::launch(
      {.num_ranks = options.num_ranks, .command = flexep::own_command(argc, argv), .prefix_output = false});
}

int run(int argc, const char* const* argv) {
  try {
    Options options = parse_options(argc, argv);
    const Corpus corpus = load_corpus(options);
    return start(options, corpus, argc, argv);
  } catch (const HelpRequested& help) {
    fmt::print("{}", help.what());
    return kOk;
  } catch (const UsageError& error) {
    fmt::print(stderr, "moe_lm: {}\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kFailed;
  }
}

}  // namespace
}  // namespace moe_lm

int main(int argc, char** argv) {
  return moe_lm::run(argc, argv);
}
