// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace flexep::tool {

/// How many cases have passed and failed, in memory that the ranks' processes share with the one that started
/// them: what a rank has counted survives its death.
class Tally {
 public:
  struct Counts {
    std::atomic<std::int64_t> num_passed{0};
    std::atomic<std::int64_t> num_failed{0};
    std::int64_t num_cases = 0;  ///< asked for
  };

  /// @throws std::system_error.
  static Tally create(std::int64_t num_cases);
  /// The tally of the process that started us, by its path(). @throws as create.
  static Tally open(const std::string& path);

  Tally(Tally&&) noexcept;
  Tally& operator=(Tally&&) = delete;
  ~Tally();

  /// Where other processes of this machine find it, while this one lives.
  std::string path() const;
  Counts& counts() const { return *counts_; }
  std::int64_t num_run() const { return counts_->num_passed + counts_->num_failed; }

 private:
  explicit Tally(int fd);

  int fd_ = -1;
  Counts* counts_ = nullptr;
};

/// Says on stderr how far the check is: a line that is rewritten on a terminal, a line now and then
/// elsewhere.
class ProgressLine {
 public:
  ProgressLine();
  /// Removes the line, so that other text can be written.
  ~ProgressLine() { clear(); }

  void show(const Tally& tally);
  void clear();

 private:
  bool is_terminal_;
  bool is_shown_ = false;
  std::int64_t next_ns_;
};

}  // namespace flexep::tool
