// SPDX-License-Identifier: MIT
// A pager process around a provider of made-up pages, for tests that kill it.
// mpager-host ID IMAGES_DIR SOCKET CGROUP SPACE PAGES REMOTE_FROM DELAY_MS ADOPT [STANDBY]
// With STANDBY the pages come as host_fate() says, and the final map when there is a file IMAGES_DIR/seal.
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "base/log.h"
#include "netns/pager/support.h"
#include "restore/guardian.h"
#include "restore/pager_confinement.h"
#include "restore/pager_process.h"

using namespace mose;

namespace {

constexpr uint64_t kEarlySalt = 0xea51;

// The first round; everything that the final one brings is in afterwards.
void seal(test::StoreProvider& provider, SpaceId space, uint64_t pages, uint64_t remote_from) {
  PageSet present, remote;
  for (uint64_t i = 0; i < pages; ++i) {
    auto fate = test::host_fate(i);
    if (fate == test::HostFate::zero) continue;
    present.add({test::kToyPage + i, 1});
    if (i >= remote_from || fate == test::HostFate::remote_again) remote.add({test::kToyPage + i, 1});
    else if (fate == test::HostFate::came_again)
      provider.put(space, {{test::kToyPage + i, 1}}, test::kHostSalt);
  }
  provider.seal(space, std::move(present), std::move(remote), test::kHostSalt);
}

void first_round(test::StoreProvider& provider, SpaceId space, uint64_t remote_from, bool early) {
  for (uint64_t i = 0; i < remote_from; ++i) {
    bool other = early && test::host_fate(i) != test::HostFate::as_sent;
    provider.put(space, {{test::kToyPage + i, 1}}, other ? kEarlySalt : test::kHostSalt);
  }
}

Status run(char** argv) {
  MOSE_ASSIGN(MigrationId id, MigrationId::parse(argv[1]));
  auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  MOSE_TRY(restore::begin_confinement());
  MOSE_ASSIGN(auto guardian, restore::Guardian::start());
  std::unique_ptr<restore::PagerState> state;
  if (number(9) != 0) {
    MOSE_ASSIGN(auto takeover, restore::Takeover::begin(static_cast<pid_t>(number(9)), argv[3], guardian));
    MOSE_ASSIGN(Fd memfd, takeover.take_memory(restore::kStateName));
    MOSE_ASSIGN(state, restore::PagerState::adopt(std::move(memfd), id));
    MOSE_TRY(takeover.take_userfaultfds(*state));
    MOSE_TRY(takeover.finish());
  } else {
    MOSE_ASSIGN(state, restore::PagerState::create(id));
  }
  auto space = static_cast<SpaceId>(number(5));
  uint64_t pages = number(6);
  uint64_t remote_from = number(7);
  const bool adopted = number(9) != 0;
  auto delay = std::chrono::milliseconds(number(8));
  restore::PagerProcessOptions options{.images_dir = argv[2], .socket = argv[3], .cgroup = argv[4], .adopted = adopted};
  if (argv[10] != nullptr) {
    test::StoreProvider provider(256u << 20, delay);
    MOSE_TRY(restore::confine_pager());
    first_round(provider, space, remote_from, !adopted);
    // An adopted store is sealed before anybody looks at it.
    if (adopted) seal(provider, space, pages, remote_from);
    MOSE_ASSIGN(auto process, restore::PagerProcess::start(options, *state, provider, std::move(guardian)));
    std::jthread sealer([&](std::stop_token stop) {
      std::string file = std::string(argv[2]) + "/seal";
      while (!adopted && !stop.stop_requested() && ::access(file.c_str(), F_OK) != 0) ::usleep(500);
      if (stop.stop_requested()) return;
      if (!adopted) seal(provider, space, pages, remote_from);
      process->notice_sealed();
    });
    process->run();
    sealer = {};
    return {};
  }
  MOSE_TRY(restore::confine_pager());
  test::FakeProvider provider(test::kHostSalt, delay);
  if (remote_from > 0) provider.add(space, {test::kToyPage, std::min(remote_from, pages)}, false);
  if (remote_from < pages) provider.add(space, {test::kToyPage + remote_from, pages - remote_from}, true);
  provider.seal();
  MOSE_ASSIGN(auto process, restore::PagerProcess::start(options, *state, provider, std::move(guardian)));
  process->notice_sealed();
  process->run();
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  log::init("mpager-host", log::Level::warn);
  if (argc != 10 && argc != 11) return 2;
  auto done = run(argv);
  if (!done) log::error("host", {{"reason", done.error().what}});
  return done ? 0 : 1;
}
