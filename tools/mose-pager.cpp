// SPDX-License-Identifier: MIT
// mose-pager: the destination's memory server of one migration. It owns CRIU's lazy-pages socket, the userfaultfds, the
// page store and the page streams from the source, and it outlives the mosed that started it (restore/pager_process.h).

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <future>
#include <stop_token>
#include <string>
#include <thread>

#include "base/log.h"
#include "kernel/in_background.h"
#include "kernel/time_slice.h"
#include "model/migration.h"
#include "move/hello.h"
#include "move/page_receiver.h"
#include "move/page_store.h"
#include "move/tls.h"
#include "restore/guardian.h"
#include "restore/pager_confinement.h"
#include "restore/pager_process.h"
#include "restore/pager_state.h"

namespace {

using namespace mose;

constexpr Nanoseconds kConnectBound = std::chrono::seconds(5);
constexpr Nanoseconds kWipeBound = std::chrono::seconds(1);
constexpr const char* kTokenVariable = "MOSE_PAGER_TOKEN";

struct Options {
  std::string id, source, node, peer_node, images_dir, socket, cgroup, log_level = "info";
  move::TlsFiles tls;  // empty: plain text
  uint32_t epoch = 1;
  uint64_t store_bytes_max = 0, reserve_bytes = 0;
  int adopt = 0;
};

Result<std::string> token_from_environment() {
  const char* hex = ::getenv(kTokenVariable);
  if (hex == nullptr) return fail(std::string(kTokenVariable) + " is not set");
  std::string_view text = hex;
  auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  std::string out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    int high = digit(text[i]);
    int low = digit(text[i + 1]);
    if (high < 0 || low < 0) return fail(std::string(kTokenVariable) + " is no hex text");
    out.push_back(static_cast<char>(high * 16 + low));
  }
  if (out.empty() || text.size() % 2 != 0) return fail(std::string(kTokenVariable) + " is no hex text");
  return out;
}

// The pair may just be replaced.
Result<std::shared_ptr<move::Tls>> load_tls(const move::TlsFiles& files) {
  constexpr auto kPause = std::chrono::milliseconds(100);
  constexpr int kTries = move::Tls::kReplaceMax / kPause;
  auto tls = move::Tls::load(files);
  for (int i = 1; !tls && i < kTries; ++i) {
    std::this_thread::sleep_for(kPause);
    tls = move::Tls::load(files);
  }
  return tls;
}

Result<move::Connector> connector(const Options& options, const move::StreamId& stream, const std::string& token) {
  move::Hello mine = move::local_hello(options.node, move::Purpose::unspecified);
  mine.token = token;
  std::shared_ptr<move::Tls> tls;
  if (!options.tls.certificate.empty()) {
    MOSE_ASSIGN(tls, load_tls(options.tls));
  }
  return move::connect_to_source(options.source, stream, std::move(mine), kConnectBound, std::move(tls), options.peer_node);
}

// Unless there is a limit, all the machine's memory: what does not fit there cannot be restored either. Taken as pages arrive.
uint64_t store_bytes_max(const Options& options) {
  if (options.store_bytes_max != 0) return options.store_bytes_max;
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

struct Memory {
  std::unique_ptr<restore::PagerState> state;
  std::unique_ptr<move::PageStore> store;
};

Result<Memory> create_memory(const MigrationId& id, const Options& options) {
  Memory memory;
  MOSE_ASSIGN(memory.state, restore::PagerState::create(id));
  MOSE_ASSIGN(memory.store, move::PageStore::create(id, options.epoch, store_bytes_max(options)));
  return memory;
}

// Everything that a dead pager's guardian holds, the userfaultfds under their old numbers.
Result<Memory> adopt_memory(const MigrationId& id, uint32_t epoch, const restore::Takeover& takeover) {
  Memory memory;
  MOSE_ASSIGN(Fd state, takeover.take_memory(restore::kStateName));
  MOSE_ASSIGN(memory.state, restore::PagerState::adopt(std::move(state), id));
  MOSE_TRY(takeover.take_userfaultfds(*memory.state));
  move::PageStore::Fds fds;
  MOSE_ASSIGN(fds.data, takeover.take_memory("mose-store-data"));
  MOSE_ASSIGN(fds.index, takeover.take_memory("mose-store-index"));
  MOSE_ASSIGN(fds.map, takeover.take_memory("mose-store-map"));
  MOSE_ASSIGN(memory.store, move::PageStore::adopt(std::move(fds), id, epoch));
  return memory;
}

// The workload has its pages and begins to run; nobody waits for this until `hurry`.
void wipe(move::PageStore& store, const std::stop_token& hurry, const std::stop_token& enough) {
  InBackground background;
  background.begin();
  const std::stop_callback hurried(hurry, [&] { background.end(); });
  if (uint64_t left = store.wipe(enough); left != 0) log::info("the page store was not wiped to its end", {{"bytes", left}});
}

Status run(const Options& options) {
  MOSE_ASSIGN(MigrationId id, MigrationId::parse(options.id));
  MOSE_ASSIGN(std::string token, token_from_environment());
  MOSE_TRY(restore::begin_confinement());
  // First of all, while there is one thread and little memory.
  MOSE_ASSIGN(restore::Guardian guardian, restore::Guardian::start());
  // Before a dead pager's guardian gives up anything.
  MOSE_ASSIGN(move::Connector connect, connector(options, {id, options.epoch}, token));

  Memory memory;
  if (options.adopt != 0) {
    MOSE_ASSIGN(auto takeover, restore::Takeover::begin(options.adopt, options.socket, guardian));
    MOSE_ASSIGN(memory, adopt_memory(id, options.epoch, takeover));
    MOSE_TRY(takeover.finish());
  } else {
    MOSE_ASSIGN(memory, create_memory(id, options));
  }

  // Nobody else's words have been read yet.
  MOSE_TRY(restore::confine_pager());

  restore::PagerProcess* process_now = nullptr;
  move::PageReceiverOptions receiver_options;
  receiver_options.connect = std::move(connect);
  receiver_options.on_failure = [&](const Error& error) { process_now->fail(error); };
  receiver_options.on_sealed = [&] { process_now->notice_sealed(); };
  move::PageReceiver receiver(*memory.store, std::move(receiver_options));

  restore::PagerProcessOptions process_options;
  process_options.images_dir = options.images_dir;
  process_options.socket = options.socket;
  process_options.cgroup = options.cgroup;
  process_options.adopted = options.adopt != 0;
  process_options.source = [&] {
    auto stats = receiver.stats();
    return restore::PagerProcessOptions::Source{stats.bytes, stats.missing_pages, std::move(stats.trouble)};
  };
  std::stop_source hurry, enough;
  std::future<void> wiped;
  process_options.on_pages_complete = [&] {
    receiver.stop();
    wiped = std::async(std::launch::async, [&] { wipe(*memory.store, hurry.get_token(), enough.get_token()); });
  };
  MOSE_ASSIGN(auto process, restore::PagerProcess::start(std::move(process_options), *memory.state, receiver,
                                                         std::move(guardian)));
  process_now = process.get();
  if (options.adopt != 0) process->notice_sealed();
  receiver.start();
  // While the source still prepares, and on beside the first pages. A store that was adopted is sealed and takes none.
  std::jthread reserving([&](const std::stop_token& stop) {
    if (auto taken = memory.store->reserve(options.reserve_bytes, stop); !taken && taken.error().code != ECANCELED) {
      log::warn("memory could not be taken ahead", {{"reason", taken.error().what}});
    }
  });
  log::info("pager started", {{"source", options.source}, {"adopted", options.adopt != 0}});
  process->run();
  receiver.stop();
  // mosed waits for the end of this process.
  hurry.request_stop();
  if (wiped.valid() && wiped.wait_for(kWipeBound) != std::future_status::ready) enough.request_stop();
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Memory server of one migration; started by mosed");
  app.add_option("--id", options.id, "migration, 32 hex digits")->required();
  app.add_option("--epoch", options.epoch, "epoch of the page streams");
  app.add_option("--source", options.source, "HOST:PORT of the source's page server")->required();
  app.add_option("--node", options.node, "name of this node")->required();
  app.add_option("--peer-node", options.peer_node, "name that the source must have");
  app.add_option("--images-dir", options.images_dir, "CRIU's work directory")->required();
  app.add_option("--socket", options.socket, "where mosed connects to")->required();
  app.add_option("--cgroup", options.cgroup, "the workload's cgroup")->required();
  app.add_option("--store-bytes-max", options.store_bytes_max, "most that the page store may take (default: this machine's memory)");
  app.add_option("--reserve-bytes", options.reserve_bytes, "of it that is taken before pages arrive");
  app.add_option("--adopt", options.adopt, "take over from the pager of this guardian (process id)");
  auto* certificate = app.add_option("--certificate", options.tls.certificate, "of this node, for TLS (default: plain text)");
  auto* key = app.add_option("--key", options.tls.key, "of the certificate");
  auto* authorities = app.add_option("--authorities", options.tls.authorities, "whose certificates are believed");
  app.add_option("--revoked", options.tls.revoked, "certificates that are not believed (X.509 lists)")->needs(certificate);
  certificate->needs(key)->needs(authorities);
  app.add_option("--log-level", options.log_level, "debug, info, warn or error");
  app.footer(std::string("The token of the page streams is read from ") + kTokenVariable + " (hex).");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // the library's only way to report, help and version too
    return app.exit(error) == 0 ? 0 : mose::kExitUsage;
  }

  mose::log::Level level = mose::log::Level::info;
  if (!mose::log::parse_level(options.log_level, level)) {
    std::fprintf(stderr, "mose-pager: log level \"%s\" is unknown\n", options.log_level.c_str());
    return mose::kExitUsage;
  }
  mose::log::init("mose-pager", level);
  mose::log::name_process(options.id);
  // It must not go with the terminal, the session or the service that started it: only mosed's word or SIGKILL ends it.
  for (int number : {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGPIPE}) ::signal(number, SIG_IGN);
  mose::take_short_slices();  // before there are threads
  if (auto done = run(options); !done) {
    mose::log::error("the pager ends", {{"reason", done.error().what}});
    return 1;
  }
  return 0;
}
