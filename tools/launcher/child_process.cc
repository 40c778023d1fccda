// SPDX-License-Identifier: Apache-2.0
#include "launcher/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <string_view>

namespace flexep {
namespace {

struct Pipe {
  FileDescriptor read_end;
  FileDescriptor write_end;
};

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

Pipe make_pipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) throw_errno("pipe");
  return {FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

std::vector<std::string> merged_environment(const SpawnOptions& options) {
  std::vector<std::string> merged;
  for (const auto& [name, value] : options.environment) merged.push_back(name + "=" + value);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    bool is_overridden = false;
    for (const auto& [ours, value] : options.environment) is_overridden = is_overridden || ours == name;
    if (!is_overridden) merged.emplace_back(text);
  }
  return merged;
}

std::vector<char*> null_terminated(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (auto& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// What the child does between fork and exec. Only async-signal-safe calls: the parent may have had threads.
struct ChildSetup {
  pid_t parent;
  char* const* argv;
  char* const* envp;
  sigset_t signal_mask;
  int null_fd, out_fd, err_fd;  // -1: keep ours
  int report_fd;                // closed by exec; takes errno when exec fails

  [[noreturn]] void run() const {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // the parent died before the line above
    setpgid(0, 0);
    dup2(null_fd, STDIN_FILENO);
    if (out_fd >= 0) dup2(out_fd, STDOUT_FILENO);
    if (err_fd >= 0) dup2(err_fd, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, &signal_mask, nullptr);
    execvpe(argv[0], argv, envp);
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(report_fd, &error, sizeof(error));
    _exit(127);
  }
};

}  // namespace

ChildProcess ChildProcess::spawn(const SpawnOptions& options) {
  auto command = options.command;
  auto environment = merged_environment(options);
  const auto argv = null_terminated(command);
  const auto envp = null_terminated(environment);
  const FileDescriptor null_file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Pipe out = options.capture_output ? make_pipe() : Pipe{};
  Pipe err = options.capture_output ? make_pipe() : Pipe{};
  Pipe report = make_pipe();

  const ChildSetup setup{getpid(),        argv.data(),         envp.data(),         options.signal_mask,
                         null_file.get(), out.write_end.get(), err.write_end.get(), report.write_end.get()};
  const pid_t pid = fork();
  if (pid < 0) throw_errno("fork");
  if (pid == 0) setup.run();
  setpgid(pid, pid);  // in both processes, so that it holds for whoever goes on first

  ChildProcess child(pid, std::move(out.read_end), std::move(err.read_end));
  report.write_end.close();
  int error = 0;
  if (read(report.read_end.get(), &error, sizeof(error)) == sizeof(error)) {
    throw CannotExecute(error, std::generic_category(), "cannot run '" + options.command[0] + "'");
  }
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), out_(std::move(other.out_)), err_(std::move(other.err_)) {}

ChildProcess::~ChildProcess() {
  if (!is_running()) return;
  send(SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::send(int signal) const {
  if (is_running()) kill(-pid_, signal);
}

std::optional<ExitStatus> ChildProcess::try_reap() {
  siginfo_t info{};
  if (!is_running() || waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid == 0) {
    return std::nullopt;
  }
  const ExitStatus status =
      info.si_code == CLD_EXITED ? ExitStatus{.code = info.si_status} : ExitStatus{.signal = info.si_status};
  // Before the process is reaped its number cannot name anybody else's group.
  if (status.failed()) send(SIGKILL);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
  return status;
}

}  // namespace flexep
