// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace flexep::tool {

/// One kind of link of all ranks: a sender and a receiver each, that work off what comes in the order of the
/// calls and are never idle while something is there. Times are microseconds.
class LinkServers {
 public:
  /// When the first byte of something is there, and when the last one is.
  struct Interval {
    double begin = 0;
    double end = 0;
  };
  struct Rates {
    double gbs = 1;
    double latency_us = 0;
    double message_us = 0;  ///< of the sender, for each message
  };

  LinkServers(int num_ranks, const Rates& rates)
      : bytes_per_us_(1e3 * rates.gbs),
        latency_us_(rates.latency_us),
        message_us_(rates.message_us),
        senders_(static_cast<std::size_t>(num_ranks)),
        receivers_(senders_.size()),
        through_us_(senders_.size()) {}

  /// Sends what is there in `ready`; its last `last_bytes` cannot go before all of it is.
  /// @return when the sender is at it.
  Interval send(int from, double num_bytes, double num_messages, Interval ready, double last_bytes = 0) {
    const double work_us = num_bytes / bytes_per_us_ + num_messages * message_us_;
    const Interval busy = work_off(senders_[static_cast<std::size_t>(from)], work_us, ready.begin);
    return through(from, {busy.begin, std::max(busy.end, ready.end + last_bytes / bytes_per_us_)});
  }

  /// Receives what is sent in `sent`. @return when the first and the last of it are there.
  Interval receive(int to, double num_bytes, Interval sent) {
    const Interval busy = work_off(receivers_[static_cast<std::size_t>(to)], num_bytes / bytes_per_us_,
                                   sent.begin + latency_us_);
    return through(to, {busy.begin, std::max(busy.end, sent.end + latency_us_)});
  }

  /// When the rank has sent and received all.
  double through_us(int rank) const { return through_us_[static_cast<std::size_t>(rank)]; }
  /// How long the busiest sender or receiver works.
  double busiest_us() const {
    const auto less = [](const Server& a, const Server& b) { return a.worked_us < b.worked_us; };
    return std::max(std::max_element(senders_.begin(), senders_.end(), less)->worked_us,
                    std::max_element(receivers_.begin(), receivers_.end(), less)->worked_us);
  }

 private:
  struct Server {
    double free_us = 0;
    double worked_us = 0;
    Interval gap;  ///< the longest time that it had nothing to do in
  };

  /// Calls need not come in the order of time: work that was there while the server waited goes into that
  /// gap.
  static Interval work_off(Server& server, double work_us, double ready_us) {
    server.worked_us += work_us;
    Interval& gap = server.gap;
    const double gap_begin = std::max(gap.begin, ready_us);
    const double filled_us = std::clamp(gap.end - gap_begin, 0.0, work_us);
    if (filled_us > 0) gap.begin = gap_begin + filled_us;
    const double begin = std::max(server.free_us, ready_us);
    if (begin - server.free_us > gap.end - gap.begin) gap = {server.free_us, begin};
    if (filled_us == work_us) return {gap_begin, gap_begin + work_us};
    server.free_us = begin + work_us - filled_us;
    return {filled_us > 0 ? gap_begin : begin, server.free_us};
  }

  Interval through(int rank, Interval busy) {
    double& end = through_us_[static_cast<std::size_t>(rank)];
    end = std::max(end, busy.end);
    return busy;
  }

  double bytes_per_us_;
  double latency_us_;
  double message_us_;
  std::vector<Server> senders_;
  std::vector<Server> receivers_;
  std::vector<double> through_us_;
};

}  // namespace flexep::tool
