// SPDX-License-Identifier: Apache-2.0
#include "launcher/launcher.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <optional>
#include <random>
#include <system_error>

#include "launcher/child_process.h"
#include "launcher/output.h"
#include "launcher/signals.h"

namespace flexep {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kTimeToTerminate{1};
constexpr std::chrono::seconds kTimeToFlush{1};

std::string unique_job_id() {
  std::random_device random;
  return fmt::format("launch-{}-{:08x}{:08x}", getpid(), random(), random());
}

/// A stream that our caller closed must not become the number of a file that we open.
void open_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", O_RDWR);  // gets the lowest free number: fd
  }
}

SpawnOptions spawn_options(const LaunchOptions& options, const std::string& job_id, int rank,
                           const sigset_t& mask) {
  const auto rank_text = std::to_string(rank);
  const auto num_ranks_text = std::to_string(options.num_ranks);
  return {.command = options.command,
          .environment = {{"RANK", rank_text},
                          {"WORLD_SIZE", num_ranks_text},
                          {"LOCAL_RANK", rank_text},
                          {"LOCAL_WORLD_SIZE", num_ranks_text},
                          {"FLEXEP_JOB_ID", job_id}},
          .signal_mask = mask,
          .capture_output = options.prefix_output};
}

/// The running job: one loop that waits for output, signals and deadlines.
class Job {
 public:
  explicit Job(const LaunchOptions& options) : options_(options) {}

  void start();
  int wait();

 private:
  /// What has been done about a failed rank's peers.
  enum class Phase { kAllWell, kGrace, kTerminating, kKilling };

  int num_running() const;
  bool has_pending_output() const { return out_.has_pending() || err_.has_pending(); }
  void poll_once();
  void handle_signals();
  void reap();
  void note_failure(int rank, const ExitStatus& status);
  void enforce_deadline();
  void send_to_all(int signal) const;
  void say(std::string_view text) { err_.append_line("launch: ", text); }

  const LaunchOptions& options_;
  SignalQueue signals_;
  OutputSink out_{STDOUT_FILENO};
  OutputSink err_{STDERR_FILENO};
  std::vector<ChildProcess> ranks_;
  std::vector<RankStream> streams_;
  Phase phase_ = Phase::kAllWell;
  Clock::time_point deadline_ = Clock::time_point::max();
  std::optional<ExitStatus> first_failure_;
  bool was_interrupted_ = false;
};

void Job::start() {
  const std::string job_id = unique_job_id();
  for (int rank = 0; rank < options_.num_ranks; ++rank) {
    ranks_.push_back(ChildProcess::spawn(spawn_options(options_, job_id, rank, signals_.original_mask())));
    if (!options_.prefix_output) continue;
    const auto prefix = fmt::format("[{}] ", rank);
    streams_.emplace_back(std::move(ranks_.back().out()), prefix, out_);
    streams_.emplace_back(std::move(ranks_.back().err()), prefix, err_);
  }
}

int Job::wait() {
  while (num_running() > 0) {
    poll_once();
    enforce_deadline();
  }
  for (auto& stream : streams_) stream.drain_and_close();
  const auto give_up_at = Clock::now() + kTimeToFlush;
  while (has_pending_output() && !(was_interrupted_ && Clock::now() > give_up_at)) poll_once();
  return first_failure_ ? first_failure_->shell_code() : 0;
}

int Job::num_running() const {
  return static_cast<int>(
      std::count_if(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank.is_running(); }));
}

void Job::poll_once() {
  std::vector<pollfd> files = {{signals_.fd(), POLLIN, 0},
                               {out_.has_pending() ? out_.fd() : -1, POLLOUT, 0},
                               {err_.has_pending() ? err_.fd() : -1, POLLOUT, 0}};
  for (const auto& stream : streams_)
    files.push_back({stream.sink().is_congested() ? -1 : stream.fd(), POLLIN, 0});

  // At most 200 ms, so that no wake-up that got lost can cost more than that.
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
  if (poll(files.data(), files.size(), static_cast<int>(std::clamp<long>(left + 1, 0, 200))) < 0 &&
      errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }

  if (files[1].revents != 0) out_.write_some();
  if (files[2].revents != 0) err_.write_some();
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    if (files[i + 3].revents != 0) streams_[i].read_some();
  }
  handle_signals();
  reap();
}

void Job::handle_signals() {
  for (const int signal : signals_.take()) {
    if (signal == SIGCHLD) continue;  // reap() looks at every rank anyway
    was_interrupted_ = true;
    send_to_all(signal);
  }
}

void Job::reap() {
  std::vector<std::pair<int, ExitStatus>> failures;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    const auto status = ranks_[static_cast<std::size_t>(rank)].try_reap();
    if (status && status->failed()) failures.emplace_back(rank, *status);
  }
  // Of those found together a killed one comes first: the others may have ended because of it.
  std::stable_partition(failures.begin(), failures.end(),
                        [](const auto& failure) { return failure.second.signal != 0; });
  for (const auto& [rank, status] : failures) note_failure(rank, status);
}

void Job::note_failure(int rank, const ExitStatus& status) {
  const auto how = status.signal != 0
                       ? fmt::format("was killed by signal {} ({})", status.signal, strsignal(status.signal))
                       : fmt::format("ended with exit code {}", status.code);
  if (first_failure_) {
    say(fmt::format("rank {} {}", rank, how));
    return;
  }
  first_failure_ = status;
  phase_ = Phase::kGrace;
  deadline_ = Clock::now() + options_.grace;
  say(num_running() == 0 ? fmt::format("rank {} {}", rank, how)
                         : fmt::format("rank {} {}; the others have {} s to report", rank, how,
                                       std::chrono::duration<double>(options_.grace).count()));
}

void Job::enforce_deadline() {
  if (num_running() == 0 || Clock::now() < deadline_) return;
  switch (phase_) {
    case Phase::kAllWell:
    case Phase::kKilling:
      return;
    case Phase::kGrace:
      phase_ = Phase::kTerminating;
      deadline_ = Clock::now() + kTimeToTerminate;
      return send_to_all(SIGTERM);
    case Phase::kTerminating:
      phase_ = Phase::kKilling;
      deadline_ = Clock::time_point::max();
      return send_to_all(SIGKILL);
  }
}

void Job::send_to_all(int signal) const {
  for (const auto& rank : ranks_) rank.send(signal);
}

}  // namespace

int launch(const LaunchOptions& options) {
  open_standard_streams();
  Job job(options);
  try {
    job.start();
  } catch (const CannotExecute& error) {
    fmt::print(stderr, "launch: {}\n", error.what());
    return error.code() == std::errc::no_such_file_or_directory ? 127 : 126;
  }
  return job.wait();
}

std::string own_executable() {
  std::array<char, PATH_MAX> path;
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length < 0) throw std::system_error(errno, std::generic_category(), "/proc/self/exe");
  return {path.data(), static_cast<std::size_t>(length)};
}

std::vector<std::string> own_command(int argc, const char* const* argv) {
  std::vector<std::string> command = {own_executable()};
  command.insert(command.end(), argv + 1, argv + argc);
  return command;
}

}  // namespace flexep
