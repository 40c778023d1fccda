// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <mutex>
#include <thread>

#include "common/check.h"
#include "core/timeout.h"
#include "flexep/communicator.h"
#include "flexep/env.h"
#include "flexep/error.h"
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

}  // namespace

void in_process(int num_ranks, const std::function<void(Communicator&)>& body,
                const CommunicatorOptions& options) {
  require_argument(num_ranks >= 1, "num_ranks", "in_process needs at least 1 rank, not {}", num_ranks);
  const auto timeout = resolve_timeout(options, Environment::read());
  auto group = open_in_process_group(num_ranks, timeout);
  FirstFailure failure;
  std::vector<std::thread> threads;
  for (auto& transport : group) {
    // The thread holds the only reference, so that a rank that returns leaves the group.
    threads.emplace_back([comm = Communicator(std::move(transport)), &body, &failure]() mutable {
      run_rank(std::move(comm), body, failure);
    });
  }
  for (auto& thread : threads) thread.join();
  failure.rethrow_if_any();
}

}  // namespace flexep
