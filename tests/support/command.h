// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <string>
#include <vector>

namespace flexep::testing {

struct CommandResult {
  int exit_code = 0;  ///< 128 + signal for a killed one
  std::string out;
  std::string err;
};

/// A program that a test starts, with its output kept in memory: nobody can hang on a pipe.
class Command {
 public:
  explicit Command(const std::vector<std::string>& arguments);
  /// Kills it if it is still running.
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  int pid() const { return pid_; }
  void send(int signal) const { kill(pid_, signal); }
  /// What it has written so far.
  std::string out() const;
  std::string err() const;
  /// Waits until out() has `num_lines` lines; false when it does not within ten seconds.
  bool wait_for_lines(int num_lines) const;
  CommandResult wait();

 private:
  int out_fd_;
  int err_fd_;
  int pid_;
};

inline CommandResult run_command(const std::vector<std::string>& arguments) {
  return Command(arguments).wait();
}

/// The lines of a text, sorted: the order of lines of different ranks means nothing.
std::vector<std::string> sorted_lines(const std::string& text);

}  // namespace flexep::testing
