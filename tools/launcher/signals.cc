// SPDX-License-Identifier: Apache-2.0
#include "launcher/signals.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <system_error>

namespace flexep {
namespace {

sigset_t queued_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}

}  // namespace

SignalQueue::SignalQueue() {
  const sigset_t set = queued_signals();
  fd_ = FileDescriptor(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_.is_open()) throw std::system_error(errno, std::generic_category(), "signalfd");
  // Who started us may have ignored SIGCHLD, and then the kernel would throw exit codes away.
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &by_default, &original_child_action_);
  sigprocmask(SIG_BLOCK, &set, &original_mask_);
}

SignalQueue::~SignalQueue() {
  take();  // what came too late has nobody left to go to
  sigprocmask(SIG_SETMASK, &original_mask_, nullptr);
  sigaction(SIGCHLD, &original_child_action_, nullptr);
}

std::vector<int> SignalQueue::take() {
  std::vector<int> signals;
  signalfd_siginfo info;
  while (read(fd_.get(), &info, sizeof(info)) == sizeof(info))
    signals.push_back(static_cast<int>(info.ssi_signo));
  return signals;
}

}  // namespace flexep
