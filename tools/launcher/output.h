// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "launcher/file_descriptor.h"

namespace flexep {

/// Our own stdout or stderr. Never blocks for long: signals must be forwarded although nobody reads our
/// output.
class OutputSink {
 public:
  explicit OutputSink(int fd) : fd_(fd) {}

  int fd() const { return fd_; }
  bool has_pending() const { return !pending_.empty(); }
  /// Too much is pending: read no more until it is written.
  bool is_congested() const;
  void append_line(std::string_view prefix, std::string_view line);
  /// Writes some of what is pending. Call it when poll says that fd() is writable.
  void write_some();

 private:
  int fd_;
  std::string pending_;
};

/// One stream of one rank: cuts it into lines and gives each, with its prefix, to a sink.
class RankStream {
 public:
  /// @param pipe  the read end.
  RankStream(FileDescriptor pipe, std::string prefix, OutputSink& sink)
      : pipe_(std::move(pipe)), prefix_(std::move(prefix)), sink_(&sink) {}

  int fd() const { return pipe_.get(); }
  bool is_open() const { return pipe_.is_open(); }
  const OutputSink& sink() const { return *sink_; }
  /// Reads once. Call it when poll says that fd() is readable. At the end of the stream an unfinished line is
  /// finished.
  void read_some();
  /// Reads what is there now and closes, whoever may still hold the other end.
  void drain_and_close();

 private:
  void take(std::string_view bytes);
  void finish();

  FileDescriptor pipe_;
  std::string prefix_;
  OutputSink* sink_;
  std::string unfinished_line_;
};

}  // namespace flexep
