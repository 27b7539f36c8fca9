// SPDX-License-Identifier: MIT
// A workload that knows what its memory should hold. Many writers, each of another kind, fill pages with stamps
// (stamp.h); what a page should hold follows from how many steps its writer has made (Order). All pages are looked at
// all the time, and on request; one that is stale, foreign, lost or torn is told to the log (standard error) and
// counted.
//
//   memory-checker [--listen PORT] [--data FILE] [--only KIND,...] [--with KIND,...] [--rate STEPS] [--threads N]
//                  [--pages N]
//   memory-checker --make-data FILE
//
// --listen: requests come by TCP; without it, and an end of input ends the checker, from standard input. A request is a
// line, the answer a line of JSON:
//   verify              every page is looked at; counts by kind
//   counts              the same without looking
//   rest [KIND,...]     these writers, or all, stop; io_uring's close their rings, which cannot be moved
//   work [KIND,...]     they go on
//   regions             where pages are
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "place.h"

namespace mose::test {
namespace {

constexpr unsigned kRateDefault = 500, kThreadsDefault = 4;
constexpr size_t kClientsMax = 8, kLineMax = 1024;
constexpr KindMask kAll = (1u << kKinds) - 1;
constexpr KindMask bit(Kind kind) {
  return 1u << static_cast<unsigned>(kind);
}

struct Options {
  int port = 0;
  std::string data;
  KindMask kinds = kAll;
  unsigned rate = kRateDefault, threads = kThreadsDefault;
};

std::optional<KindMask> kinds_of(const std::string& text) {
  KindMask mask = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    const std::string name = text.substr(at, end - at);
    bool known = false;
    for (size_t kind = 0; kind < kKinds; ++kind) {
      if (name != to_string(static_cast<Kind>(kind))) continue;
      mask |= 1u << kind;
      known = true;
    }
    if (!known) return std::nullopt;
    at = end + 1;
  }
  return mask;
}

// Who is in one process with whom: a file that is open for direct I/O, or a ring, makes the whole process one whose
// pages cannot be tracked, and a family's children should be small.
const std::vector<std::vector<Kind>>& households() {
  static const std::vector<std::vector<Kind>> table = {
      {Kind::store, Kind::atomic, Kind::read, Kind::heap, Kind::stack, Kind::huge, Kind::file, Kind::cold,
       Kind::vm_thread, Kind::shared, Kind::segment},
      {Kind::advise, Kind::remap},
      {Kind::vm_process},
      {Kind::shared_process, Kind::memfd, Kind::locked, Kind::removed_segment},
      {Kind::direct},
      {Kind::fork},
      {Kind::ring, Kind::ring_fixed},
  };
  return table;
}

class Checker {
 public:
  explicit Checker(const Options& options) {
    for (const auto& household : households()) {
      PlaceOptions place;
      place.writers.data = options.data;
      place.steps_per_second = options.rate;
      for (Kind kind : household) {
        if ((options.kinds & bit(kind)) == 0) continue;
        if (needs_data(kind) && options.data.empty()) continue;
        place.members.push_back({kind, kind == Kind::store ? options.threads : 1});
      }
      if (!place.members.empty()) places_.push_back(Place::start(place));
    }
  }

  std::string answer(const std::string& line) {
    const size_t blank = line.find(' ');
    const std::string verb = line.substr(0, blank);
    auto kinds = blank == std::string::npos ? kAll : kinds_of(line.substr(blank + 1));
    if (!kinds) return R"({"error":"unknown kind"})";
    if (verb == "regions") return regions();
    if (verb == "verify") return counts(true);
    if (verb == "counts") return counts(false);
    if (verb != "rest" && verb != "work") return R"({"error":"requests: verify, counts, rest, work, regions"})";
    for (Place& place : places_) verb == "rest" ? place.rest(*kinds) : place.work(*kinds);
    return counts(false);
  }

 private:
  std::string counts(bool verify) {
    KindCounts sum{};
    for (Place& place : places_) {
      const KindCounts part = verify ? place.verify() : place.counts();
      for (size_t kind = 0; kind < kKinds; ++kind) {
        if (part[kind].pages != 0) sum[kind] = part[kind];  // a kind has one place
      }
    }
    std::string kinds;
    uint64_t bad = 0, pages = 0;
    for (size_t kind = 0; kind < kKinds; ++kind) {
      const Counts& c = sum[kind];
      if (c.pages == 0) continue;
      char text[320];
      snprintf(
          text, sizeof text,
          R"(%s"%s":{"pages":%lu,"steps":%lu,"checks":%lu,"stale":%lu,"ahead":%lu,"foreign":%lu,"lost":%lu,"torn":%lu})",
          kinds.empty() ? "" : ",", to_string(static_cast<Kind>(kind)), c.pages, c.steps, c.checks, c.stale, c.ahead,
          c.foreign, c.lost, c.torn);
      kinds += text;
      pages += c.pages;
      bad += c.stale + c.ahead + c.foreign + c.lost + c.torn;
    }
    return R"({"bad":)" + std::to_string(bad) + R"(,"pages":)" + std::to_string(pages) + R"(,"kinds":{)" + kinds + "}}";
  }

  std::string regions() {
    std::string list;
    for (Place& place : places_) {
      for (const RegionPlace& region : place.regions()) {
        char text[160];
        snprintf(text, sizeof text, R"(%s{"kind":"%s","pid":%d,"address":%lu,"pages":%lu})", list.empty() ? "" : ",",
                 to_string(region.kind), region.pid, region.address, region.pages);
        list += text;
      }
    }
    return R"({"regions":[)" + list + "]}";
  }

  std::vector<Place> places_;
};

// One who asks.
struct Client {
  int in, out;
  std::string text;
};

// False: it has gone.
bool serve(Client& client, Checker& checker) {
  char bytes[256];
  ssize_t got = ::read(client.in, bytes, sizeof bytes);
  if (got < 0) return errno == EINTR;
  if (got == 0) return false;
  client.text.append(bytes, static_cast<size_t>(got));
  for (size_t end; (end = client.text.find('\n')) != std::string::npos; client.text.erase(0, end + 1)) {
    const std::string reply = checker.answer(client.text.substr(0, end)) + "\n";
    for (size_t done = 0; done < reply.size();) {
      ssize_t put = ::write(client.out, reply.data() + done, reply.size() - done);
      if (put < 0 && errno != EINTR) return false;
      if (put > 0) done += static_cast<size_t>(put);
    }
  }
  return client.text.size() < kLineMax;
}

int listen_at(int port) {
  int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int one = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(socket, 8) != 0) die("listen");
  return socket;
}

int run(const Options& options) {
  signal(SIGPIPE, SIG_IGN);
  Checker checker(options);  // before any descriptor of ours
  std::vector<Client> clients;
  const int listener = options.port != 0 ? listen_at(options.port) : -1;
  if (listener < 0) clients.push_back({STDIN_FILENO, STDOUT_FILENO, {}});
  say("memory-checker: ready");
  for (;;) {
    std::vector<pollfd> waiting;
    for (const Client& client : clients) waiting.push_back({client.in, POLLIN, 0});
    if (listener >= 0) waiting.push_back({listener, POLLIN, 0});
    if (poll(waiting.data(), waiting.size(), -1) < 0) continue;
    for (size_t i = clients.size(); i-- > 0;) {
      if (waiting[i].revents == 0 || serve(clients[i], checker)) continue;
      if (listener < 0) return 0;
      close(clients[i].in);
      clients.erase(clients.begin() + static_cast<ptrdiff_t>(i));
    }
    if (listener < 0 || waiting.back().revents == 0) continue;
    int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) continue;
    if (clients.size() < kClientsMax) {
      clients.push_back({socket, socket, {}});
    } else {
      close(socket);
    }
  }
}

int usage() {
  say("usage: memory-checker [--listen PORT] [--data FILE] [--only KIND,...] [--with KIND,...] [--rate STEPS] "
      "[--threads N] [--pages N]");
  say("       memory-checker --make-data FILE");
  return 2;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  using namespace mose::test;
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 >= argc) return usage();
    const std::string value = argv[i + 1];
    if (name == "--make-data") {
      if (write_data(value)) return 0;
      die(value.c_str());
    }
    if (name == "--listen") {
      options.port = atoi(value.c_str());
    } else if (name == "--data") {
      options.data = value;
    } else if (name == "--only" || name == "--with") {
      auto kinds = kinds_of(value);
      if (!kinds) return usage();
      options.kinds = name == "--only" ? *kinds : options.kinds | *kinds;
    } else if (name == "--rate") {
      options.rate = static_cast<unsigned>(atoi(value.c_str()));
    } else if (name == "--pages") {
      const auto pages = static_cast<uint64_t>(atoll(value.c_str()));
      if (pages < 4 || (pages & (pages - 1)) != 0) return usage();
      set_pages(pages);
    } else if (name == "--threads") {
      options.threads = static_cast<unsigned>(atoi(value.c_str()));
    } else {
      return usage();
    }
  }
  return run(options);
}
