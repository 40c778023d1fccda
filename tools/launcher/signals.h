// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <vector>

#include "launcher/file_descriptor.h"

namespace flexep {

/// While it lives, SIGCHLD, SIGINT, SIGTERM and SIGHUP are read from a file instead of interrupting this
/// thread.
class SignalQueue {
 public:
  SignalQueue();
  ~SignalQueue();
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  /// Readable when a signal has come.
  int fd() const { return fd_.get(); }
  /// The signals that have come since the last call; does not wait.
  std::vector<int> take();
  /// What a child has to restore before it runs another program.
  const sigset_t& original_mask() const { return original_mask_; }

 private:
  sigset_t original_mask_{};
  struct sigaction original_child_action_ {};
  FileDescriptor fd_;
};

}  // namespace flexep
