// SPDX-License-Identifier: MIT
// A pager process around a provider of made-up pages, for tests that kill it.
// mpager-host ID IMAGES_DIR SOCKET CGROUP SPACE PAGES REMOTE_FROM DELAY_MS ADOPT
#include <cstdlib>
#include <string>

#include "base/log.h"
#include "netns/pager/support.h"
#include "restore/guardian.h"
#include "restore/pager_process.h"

using namespace mose;

namespace {

Status run(char** argv) {
  MOSE_ASSIGN(MigrationId id, MigrationId::parse(argv[1]));
  auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  MOSE_ASSIGN(auto guardian, restore::Guardian::start());
  std::unique_ptr<restore::PagerState> state;
  if (number(9) != 0) {
    MOSE_ASSIGN(auto takeover, restore::Takeover::begin(static_cast<pid_t>(number(9)), argv[3], guardian));
    MOSE_ASSIGN(Fd memfd, takeover.take_memfd(restore::kStateName));
    MOSE_ASSIGN(state, restore::PagerState::adopt(std::move(memfd), id));
    MOSE_TRY(takeover.take_userfaultfds(*state));
    MOSE_TRY(takeover.finish());
  } else {
    MOSE_ASSIGN(state, restore::PagerState::create(id));
  }
  test::FakeProvider provider(test::kHostSalt, std::chrono::milliseconds(number(8)));
  auto space = static_cast<SpaceId>(number(5));
  uint64_t pages = number(6);
  uint64_t remote_from = number(7);
  if (remote_from > 0) provider.add(space, {test::kToyPage, std::min(remote_from, pages)}, false);
  if (remote_from < pages) provider.add(space, {test::kToyPage + remote_from, pages - remote_from}, true);
  provider.seal();
  restore::PagerProcessOptions options{.images_dir = argv[2], .socket = argv[3], .cgroup = argv[4],
                                       .adopted = number(9) != 0};
  MOSE_ASSIGN(auto process, restore::PagerProcess::start(options, *state, provider, std::move(guardian)));
  process->notice_sealed();
  process->run();
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  log::init("mpager-host", log::Level::warn);
  if (argc != 10) return 2;
  auto done = run(argv);
  if (!done) log::error("host", {{"reason", done.error().what}});
  return done ? 0 : 1;
}
