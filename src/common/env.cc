// SPDX-License-Identifier: Apache-2.0
#include "flexep/env.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "common/check.h"

namespace flexep {
namespace {

std::optional<std::string> read_text(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

template <typename T>
std::optional<T> read_number(const char* name) {
  const auto text = read_text(name);
  if (!text) return std::nullopt;
  T value{};
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  require_argument(error == std::errc{} && end == text->data() + text->size(), name,
                   "environment variable {} is '{}', which is not a number", name, *text);
  return value;
}

std::optional<std::string> read_job_id() {
  if (auto id = read_text("FLEXEP_JOB_ID")) return id;
  if (auto id = read_text("TORCHELASTIC_RUN_ID"); id && *id != "none") return id;
  const auto address = read_text("MASTER_ADDR");
  const auto port = read_text("MASTER_PORT");
  if (address && port) return *address + ":" + *port;
  return std::nullopt;
}

std::optional<int> read_mpi_num_ranks() {
  if (const auto open_mpi = read_number<int>("OMPI_COMM_WORLD_SIZE")) return open_mpi;
  if (const auto pmi = read_number<int>("PMI_SIZE")) return pmi;
  if (!read_text("PMIX_RANK")) return std::nullopt;
  // The step's tasks are those that srun has started; a job's may be more.
  const auto step = read_number<int>("SLURM_STEP_NUM_TASKS");
  return step ? step : read_number<int>("SLURM_NTASKS");
}

}  // namespace

Environment Environment::read() {
  return {.rank = read_number<int>("RANK"),
          .world_size = read_number<int>("WORLD_SIZE"),
          .local_rank = read_number<int>("LOCAL_RANK"),
          .local_world_size = read_number<int>("LOCAL_WORLD_SIZE"),
          .job_id = read_job_id(),
          .timeout_secs = read_number<double>("FLEXEP_TIMEOUT_SECS"),
          .num_threads = read_number<int>("FLEXEP_NUM_THREADS"),
          .cpu_target = read_text("FLEXEP_CPU_TARGET"),
          .scaleup_size = read_number<int>("FLEXEP_SCALEUP_SIZE"),
          .mpi_num_ranks = read_mpi_num_ranks(),
          .mpi_library = read_text("FLEXEP_MPI_LIBRARY")};
}

}  // namespace flexep
