// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/// What flexep throws. The library never prints, aborts or exits; docs/errors.md says what a program can do
/// about each.
namespace flexep {

/// Base of everything that flexep throws on purpose. what() is one sentence for the person who reads the log.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument that this rank passed is wrong. Thrown before anything is written; the group stays usable.
class InvalidArgument : public Error {
 public:
  /// @param argument  name of the argument, as the public interface spells it ("topk_idx", "x").
  InvalidArgument(std::string argument, const std::string& what)
      : Error(what), argument_(std::move(argument)) {}
  const std::string& argument() const { return argument_; }

 private:
  std::string argument_;
};

/// Ranks called the same operation with arguments that must agree and do not. Thrown on every rank; the group
/// stays usable.
class CollectiveMismatch : public Error {
 public:
  CollectiveMismatch(std::string field, std::vector<std::string> values, const std::string& what)
      : Error(what), field_(std::move(field)), values_(std::move(values)) {}
  /// Name of the first field that differs ("hidden", "num_experts", ...).
  const std::string& field() const { return field_; }
  /// The value that each rank passed, by rank.
  const std::vector<std::string>& values() const { return values_; }

 private:
  std::string field_;
  std::vector<std::string> values_;
};

/// Another rank could not take part and said why. Thrown in the exchange phase, on all ranks but that one;
/// the group stays usable.
class PeerError : public Error {
 public:
  PeerError(int rank, const std::string& what) : Error(what), rank_(rank) {}
  /// The rank whose own error this is.
  int rank() const { return rank_; }

 private:
  int rank_;
};

/// A deadline ran out. The group is poisoned: its later calls throw at once.
class TimeoutError : public Error {
 public:
  TimeoutError(std::vector<int> missing_ranks, std::string operation, unsigned long long sequence_number,
               const std::string& what)
      : Error(what),
        missing_ranks_(std::move(missing_ranks)),
        operation_(std::move(operation)),
        sequence_number_(sequence_number) {}
  /// The ranks that were not heard from.
  const std::vector<int>& missing_ranks() const { return missing_ranks_; }
  const std::string& operation() const { return operation_; }
  unsigned long long sequence_number() const { return sequence_number_; }

 private:
  std::vector<int> missing_ranks_;
  std::string operation_;
  unsigned long long sequence_number_;
};

/// The group is broken: a rank's process ended, a rank left or aborted, or the operating system refused a
/// resource that the group needs. The group is poisoned: its later calls throw at once.
class TransportError : public Error {
 public:
  explicit TransportError(const std::string& what, std::vector<int> failed_ranks = {})
      : Error(what), failed_ranks_(std::move(failed_ranks)) {}
  /// The ranks that are gone; empty when no rank is to blame.
  const std::vector<int>& failed_ranks() const { return failed_ranks_; }

 private:
  std::vector<int> failed_ranks_;
};

/// The CUDA driver or runtime refused something that is not memory, or a kernel failed. The GPU may be
/// unusable for this process.
class CudaError : public Error {
 public:
  using Error::Error;
};

/// Memory could not be had; what() says what was asked for and what would fit.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace flexep
