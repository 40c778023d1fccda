// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "common/check.h"
#include "core/timeout.h"
#include "core/topology.h"
#include "flexep/communicator.h"
#include "flexep/env.h"
#include "flexep/error.h"
#include "transport/in_process/in_process_fabric.h"
#include "transport/open_transport.h"

namespace flexep {
namespace {

/// Keeps the error to report: the first one, except that a cause replaces a consequence. When a rank leaves
/// because of its own error, the others fail with TransportError, perhaps before that error gets here.
class FirstFailure {
 public:
  void record(std::exception_ptr error, bool is_consequence) {
    const std::lock_guard lock(mutex_);
    if (error_ && (is_consequence || !is_consequence_)) return;
    error_ = error;
    is_consequence_ = is_consequence;
  }
  void rethrow_if_any() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  bool is_consequence_ = false;
};

void run_rank(Communicator comm, const std::function<void(Communicator&)>& body, FirstFailure& failure) {
  try {
    body(comm);
  } catch (const TransportError& error) {
    failure.record(std::current_exception(), true);
    comm.abort(error.what());
  } catch (const std::exception& error) {
    failure.record(std::current_exception(), false);
    comm.abort(error.what());
  } catch (...) {
    failure.record(std::current_exception(), false);
    comm.abort("an exception of unknown type");
  }
}

// Starts a thread for each rank. When the system has no more, those that run are told.
std::vector<std::thread> start_ranks(const std::shared_ptr<InProcessWorld>& world,
                                     const std::function<void(Communicator&)>& body,
                                     const CommunicatorOptions& options, FirstFailure& failure) {
  const Environment env = Environment::read();
  auto group = open_in_process_group(world, resolve_topology(world->num_ranks(), options, env),
                                     resolve_timeout(options, env));
  std::vector<std::thread> threads;
  threads.reserve(group.size());
  try {
    for (auto& transport : group) {
      threads.emplace_back([comm = Communicator(transport), world, &body, &failure]() mutable {
        const int rank = comm.rank();
        run_rank(std::move(comm), body, failure);
        world->mark_ended(rank);
      });
    }
  } catch (const std::system_error& error) {
    const TransportError cause(
        fmt::format("only {} of {} ranks could start: {}", threads.size(), group.size(), error.what()));
    failure.record(std::make_exception_ptr(cause), false);
    group.front()->abort(cause.what());
  }
  return threads;
}

}  // namespace

void in_process(int num_ranks, const std::function<void(Communicator&)>& body,
                const CommunicatorOptions& options) {
  require_argument(num_ranks >= 1, "num_ranks", "in_process needs at least 1 rank, not {}", num_ranks);
  FirstFailure failure;
  for (auto& thread : start_ranks(std::make_shared<InProcessWorld>(num_ranks), body, options, failure)) {
    thread.join();
  }
  failure.rethrow_if_any();
}

}  // namespace flexep
