// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <csignal>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launcher/file_descriptor.h"

namespace flexep {

/// How a process ended.
struct ExitStatus {
  int code = 0;    ///< what it passed to exit
  int signal = 0;  ///< what killed it, 0 if nothing did

  bool failed() const { return code != 0 || signal != 0; }
  /// As a shell says it.
  int shell_code() const { return signal != 0 ? 128 + signal : code; }
};

/// The program itself could not be run; code() is exec's errno.
class CannotExecute : public std::system_error {
 public:
  using std::system_error::system_error;
};

struct SpawnOptions {
  std::vector<std::string> command;
  /// Set over what this process has.
  std::vector<std::pair<std::string, std::string>> environment;
  sigset_t signal_mask{};
  /// Give its stdout and stderr to us, instead of ours to it.
  bool capture_output = true;
};

/// A process that leads a process group of its own and that the kernel kills when this process dies.
class ChildProcess {
 public:
  /// Starts it; returns once it runs its program.
  /// @throws CannotExecute, and std::system_error when there is no process or pipe to be had.
  static ChildProcess spawn(const SpawnOptions& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  /// Kills what is still running.
  ~ChildProcess();

  bool is_running() const { return pid_ > 0; }
  FileDescriptor& out() { return out_; }
  FileDescriptor& err() { return err_; }
  /// To its whole group: a rank may be a shell script.
  void send(int signal) const;
  /// Its status, once, when it has ended; does not wait. What a failed process leaves in its group is killed.
  std::optional<ExitStatus> try_reap();

 private:
  ChildProcess(pid_t pid, FileDescriptor out, FileDescriptor err)
      : pid_(pid), out_(std::move(out)), err_(std::move(err)) {}

  pid_t pid_ = -1;
  FileDescriptor out_;
  FileDescriptor err_;
};

}  // namespace flexep
