// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace flexep {

class Transport;

struct CommunicatorOptions {
  /// How long an operation waits for a peer before it throws TimeoutError, 1 ms to 10 years;
  /// 0 = FLEXEP_TIMEOUT_SECS, else 300 s.
  std::chrono::milliseconds timeout{0};
  /// Ranks of a domain, which load and store each other's memory; ranks of different domains send each other
  /// messages. 0 = FLEXEP_SCALEUP_SIZE, else all that share memory. For in_process: a smaller number lets
  /// threads play several domains. Has to divide the number of ranks.
  int num_scaleup_ranks = 0;
};

/// Processes of one machine that have agreed, in some way of their own, on a name for a group and on who is
/// which rank.
struct LocalJob {
  /// The same text in all of them, and in no other group of the user's: a random one is best.
  std::string id;
  int rank = 0;
  int num_ranks = 1;
};

/// A group of ranks that communicate. Cheap to copy; copies are the same group.
///
/// Every member function that is marked collective is called by all ranks in the same order. One group is
/// used by one thread at a time; distinct groups (see split) are independent and may be used from distinct
/// threads. A rank that leaves (its last copy is destroyed, its process ends, its thread returns) while
/// others wait for it makes them throw TransportError that names it.
class Communicator {
 public:
  /// The group that the environment describes: RANK and WORLD_SIZE (as torchrun, `flexep launch` and
  /// schedulers set them) give processes of one machine that share memory; else a launcher of MPI (mpirun,
  /// srun) gives its processes on any number of machines (docs/mpi.md), and none of them gives a group of
  /// one. Collective over the processes of the job: blocks until all have come.
  /// @throws InvalidArgument (variable missing or out of range; no MPI here; domains of different sizes),
  /// TimeoutError (ranks that did not come), TransportError.
  static Communicator from_environment(const CommunicatorOptions& options = {});

  /// The group of the processes of `job`. Collective over them. @throws as from_environment.
  static Communicator from_job(const LocalJob& job, const CommunicatorOptions& options = {});

  /// A group of one rank.
  static Communicator self(const CommunicatorOptions& options = {});

  int rank() const;
  int num_ranks() const;
  /// "in_process", "shm" or "mpi".
  std::string_view transport_name() const;
  /// Whether asynchronous operations go on while the program does other things. False across domains where
  /// MPI was initialised with less than MPI_THREAD_MULTIPLE: they are complete when they return.
  bool supports_async() const;
  std::chrono::milliseconds timeout() const;

  /// Returns when every rank has come. Everything that a rank wrote before is visible to all ranks after.
  /// Collective.
  void barrier();

  /// Every rank's bytes, by rank; lengths may differ. Meant for small things: each rank reads all of them.
  /// Collective.
  std::vector<std::vector<std::byte>> all_gather_bytes(std::span<const std::byte> mine);

  /// Every rank's value, by rank. Collective. @throws CollectiveMismatch when ranks pass types of different
  /// sizes.
  template <typename T>
  requires std::is_trivially_copyable_v<T> std::vector<T> all_gather(const T& mine) {
    std::vector<T> all;
    for (const auto& bytes : all_gather_bytes(std::as_bytes(std::span(&mine, 1)))) {
      require_size(bytes.size(), sizeof(T));
      T value;
      std::memcpy(&value, bytes.data(), sizeof(T));
      all.push_back(value);
    }
    return all;
  }

  /// values[i] becomes the sum over ranks of values[i], added in rank order starting from rank 0's value: the
  /// same bits on every rank, transport and run. Collective; `values` has the same length everywhere
  /// (CollectiveMismatch if not).
  void all_reduce_sum(std::span<float> values);
  void all_reduce_sum(std::span<double> values);

  /// The groups of ranks that pass the same color, ordered by (key, rank). Collective.
  Communicator split(int color, int key) const;

  /// A group of the same ranks with an independent order of operations. Collective.
  Communicator duplicate() const { return split(0, rank()); }

  /// A new group of the ranks that are still there, ordered as in this one: what to do after a TimeoutError
  /// or TransportError. Collective over those ranks.
  ///
  /// Ends this group, broken or not: a rank that waits in it, or calls it later, gets TransportError. A rank
  /// that was left out gets the same when it calls this, and whatever it still writes reaches only memory of
  /// the old group. Old buffers stay unusable: make new ones.
  /// @param patience  how long to wait for ranks that may still come (slow or stopped; not for those that
  ///                  have ended or left); 0 = timeout(). Give more than the survivors are apart, and compare
  ///                  num_ranks() of the result with what the program needs: whom nobody joins in time is a
  ///                  group of one.
  /// @throws TimeoutError (operation "rebuild") or TransportError when a rank is lost meanwhile, on all ranks
  ///         that take part: they may call it again. TransportError on a rank that came too late.
  ///         OutOfMemory (TransportError on the others).
  /// A group of several domains cannot be rebuilt: TransportError.
  /// Cost: no waiting when all have come or are known to be gone, else `patience`; some 130 KB of shared
  ///       memory on each rank. in_process and shm.
  Communicator rebuild(std::chrono::milliseconds patience = std::chrono::milliseconds{0});

  /// Declares this group broken: every rank that waits in it, or calls it later, throws TransportError with
  /// `reason`. Not collective; callable from any thread.
  void abort(std::string_view reason);

  /// Internal: the engine underneath, for the parts of flexep that build on it.
  explicit Communicator(std::shared_ptr<Transport> transport) : transport_(std::move(transport)) {}
  Transport& transport() const { return *transport_; }

 private:
  static void require_size(std::size_t got, std::size_t expected);

  std::shared_ptr<Transport> transport_;
};

/// Runs `body` once for each of `num_ranks` ranks, as threads of this process, and returns when all have
/// finished.
///
/// When a rank's body throws, its group is aborted with that error's text, so that no other rank waits for
/// it; when all threads have ended, the error of the rank that failed first is rethrown here.
void in_process(int num_ranks, const std::function<void(Communicator&)>& body,
                const CommunicatorOptions& options = {});

}  // namespace flexep
