// SPDX-License-Identifier: Apache-2.0
#include "flexep/communicator.h"

#include <fmt/format.h>

#include <mutex>

#include "common/check.h"
#include "core/mpi_job.h"
#include "core/timeout.h"
#include "flexep/env.h"
#include "flexep/error.h"
#include "transport/in_process/in_process_fabric.h"
#include "transport/open_transport.h"
#include "transport/shm/shm_fabric.h"

namespace flexep {
namespace {

int require_set(const std::optional<int>& value, const char* name, const char* because) {
  require_argument(value.has_value(), name, "{} is not set, but {} is: a job needs both", name, because);
  return *value;
}

ShmJob job_of(const Environment& env) {
  const int num_ranks = require_set(env.world_size, "WORLD_SIZE", "RANK");
  const int rank = require_set(env.rank, "RANK", "WORLD_SIZE");
  require_argument(num_ranks >= 1, "WORLD_SIZE", "WORLD_SIZE is {}, but a job has at least 1 rank",
                   num_ranks);
  require_argument(0 <= rank && rank < num_ranks, "RANK", "RANK is {}, outside [0, WORLD_SIZE = {})", rank,
                   num_ranks);
  const int num_local = env.local_world_size.value_or(num_ranks);
  require_argument(num_local == num_ranks, "LOCAL_WORLD_SIZE",
                   "LOCAL_WORLD_SIZE is {} and WORLD_SIZE is {}: ranks on several machines need MPI, start "
                   "them with mpirun or srun",
                   num_local, num_ranks);
  require_argument(num_ranks == 1 || env.job_id.has_value(), "FLEXEP_JOB_ID",
                   "nothing names the job: set FLEXEP_JOB_ID to the same text in its {} processes",
                   num_ranks);
  return {.id = env.job_id.value_or("single"), .rank = rank, .num_ranks = num_ranks};
}

// Groups made by the same processes one after the other must not meet each other's sockets, and those that
// try again after a failure must: only groups that were opened count.
std::shared_ptr<Transport> open_next_group(ShmJob job, std::chrono::milliseconds timeout) {
  static std::mutex mutex;
  static int num_groups = 0;
  const std::lock_guard lock(mutex);
  job.id = fmt::format("{}#{}", job.id, num_groups);
  auto group = open_shm_group(job, timeout);
  ++num_groups;
  return group;
}

}  // namespace

Communicator Communicator::from_environment(const CommunicatorOptions& options) {
  const Environment env = Environment::read();
  if (!env.rank && !env.world_size) {
    return env.mpi_num_ranks.value_or(1) > 1 ? from_mpi_launcher(options, env) : self(options);
  }
  const ShmJob job = job_of(env);
  if (job.num_ranks == 1) return self(options);
  return Communicator(open_next_group(job, resolve_timeout(options, env)));
}

Communicator Communicator::from_job(const LocalJob& job, const CommunicatorOptions& options) {
  require_argument(!job.id.empty(), "id", "the job has no id");
  require_argument(0 <= job.rank && job.rank < job.num_ranks, "rank",
                   "rank is {}, outside [0, num_ranks = {})", job.rank, job.num_ranks);
  if (job.num_ranks == 1) return self(options);
  const auto timeout = resolve_timeout(options, Environment::read());
  return Communicator(open_shm_group({.id = job.id, .rank = job.rank, .num_ranks = job.num_ranks}, timeout));
}

Communicator Communicator::self(const CommunicatorOptions& options) {
  const auto timeout = resolve_timeout(options, Environment::read());
  return Communicator(open_in_process_group(std::make_shared<InProcessWorld>(1), {}, timeout).front());
}

int Communicator::rank() const {
  return transport_->rank();
}
int Communicator::num_ranks() const {
  return transport_->num_ranks();
}
std::string_view Communicator::transport_name() const {
  return transport_->name();
}
bool Communicator::supports_async() const {
  return transport_->can_work_in_background();
}
std::chrono::milliseconds Communicator::timeout() const {
  return transport_->timeout();
}

Communicator Communicator::split(int color, int key) const {
  return Communicator(transport_->split(color, key));
}

Communicator Communicator::rebuild(std::chrono::milliseconds patience) {
  return Communicator(transport_->rebuild(resolve_patience(patience, timeout())));
}

void Communicator::abort(std::string_view reason) {
  transport_->abort(reason);
}

}  // namespace flexep
