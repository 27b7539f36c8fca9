// SPDX-License-Identifier: MIT
#include "older.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "kernel/bpf_layout.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_replace.h"

// The older contract's structures have the names of ours and other sizes.
namespace mose::older {
#include "mose/bpf/steer.h"
#include "steer_tc.skel.h"
#include "steer_xdp.skel.h"
}  // namespace mose::older

namespace mose::test {
namespace {

using bpf::LayoutConversion;

// Whatever stands in `pinned`, in `to` by the names of its fields.
Status carry_over(int pinned, int to) {
  MOSE_ASSIGN(auto conversion, LayoutConversion::between(pinned, to));
  EXPECT_FALSE(conversion.same()) << "the older layout is the same: the test shows nothing";
  return bpf::copy_values(pinned, to, conversion);
}

// The read-only data must be there before the load.
template <typename Config>
Status carry_config(int pinned, int sample, const Config* fixed) {
  MOSE_ASSIGN(auto conversion, LayoutConversion::between(pinned, sample));
  MOSE_ASSIGN(uint32_t size, bpf::map_value_size(pinned));
  std::vector<std::byte> before(size), after(sizeof(Config));
  uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(pinned, &zero, before.data()));
  conversion.convert(before, after);
  auto* config = const_cast<Config*>(fixed);
  std::memcpy(config, after.data(), sizeof(Config));
  config->version = MOSE_STEER_VERSION;
  return {};
}

Status steering_older(const std::string& directory) {
  using older::older_steer_tc;
  struct Destroy {
    void operator()(older_steer_tc* skeleton) const { older_steer_tc::destroy(skeleton); }
  };
  MOSE_ASSIGN(Fd config, bpf::open_pinned(directory + "/config"));
  MOSE_ASSIGN(Fd services, bpf::open_pinned(directory + "/services"));
  MOSE_ASSIGN(Fd queues, bpf::open_pinned(directory + "/queues"));
  MOSE_ASSIGN(Fd drained, bpf::open_pinned(directory + "/drained"));
  std::unique_ptr<older_steer_tc, Destroy> sample(older_steer_tc::open_and_load()), made(older_steer_tc::open());
  if (!sample || !made) return fail("older programs cannot be loaded");
  MOSE_TRY(carry_config(config.get(), bpf_map__fd(sample->maps.rodata), &made->rodata->mose_config));
  bpf_map__reuse_fd(made->maps.mose_queues, queues.get());
  bpf_map__reuse_fd(made->maps.mose_drained, drained.get());
  if (older_steer_tc::load(made.get()) != 0) return fail("older programs cannot be loaded");
  MOSE_ASSIGN(Fd counts, bpf::open_pinned(directory + "/counts"));
  MOSE_TRY(carry_over(services.get(), bpf_map__fd(made->maps.mose_services)));
  MOSE_TRY(carry_over(counts.get(), bpf_map__fd(made->maps.mose_counts)));
  const auto& fixed = made->rodata->mose_config;
  const unsigned host = fixed.host_ifindex, uplink = fixed.uplink_ifindex;
  const struct {
    const char* name;
    int program;
    unsigned ifindex;
    bpf::TcPoint point;
  } places[] = {{"ingress", bpf_program__fd(made->progs.steer_ingress), host, bpf::TcPoint::egress},
                {"egress", bpf_program__fd(made->progs.steer_egress), host, bpf::TcPoint::ingress},
                {"uplink", bpf_program__fd(made->progs.steer_uplink), uplink, bpf::TcPoint::ingress}};
  for (const auto& place : places) {
    if (place.ifindex == 0) continue;
    if (fixed.attach == older::MOSE_STEER_CLSACT) {
      const std::string name = std::string("program_") + place.name;
      MOSE_ASSIGN(Fd before, bpf::open_pinned(directory + "/" + name));
      MOSE_TRY(bpf::replace_clsact(place.program, before.get(), place.ifindex, place.point, host));
      MOSE_TRY(bpf::replace_pin(place.program, directory, name));
    } else {
      MOSE_ASSIGN(Fd link, bpf::open_pinned(directory + "/link_" + place.name));
      MOSE_ASSIGN(Fd before, bpf::program_of_link(link.get()));
      MOSE_TRY(bpf::update_link(link.get(), place.program, before.get()));
    }
  }
  MOSE_TRY(bpf::wait_for_running_programs());
  const std::pair<const char*, int> pins[] = {{"services", bpf_map__fd(made->maps.mose_services)},
                                              {"counts", bpf_map__fd(made->maps.mose_counts)},
                                              {"tap_program", bpf_program__fd(made->progs.steer_tap)},
                                              {"config", bpf_map__fd(made->maps.rodata)}};
  for (auto [name, object] : pins) MOSE_TRY(bpf::replace_pin(object, directory, name));
  // A map that those before version 6 did not have.
  if (unlink((directory + "/drained_bytes").c_str()) != 0) return fail_errno("pin drained_bytes");
  return {};
}

Status uplink_older(const std::string& directory) {
  using older::older_steer_xdp;
  struct Destroy {
    void operator()(older_steer_xdp* skeleton) const { older_steer_xdp::destroy(skeleton); }
  };
  MOSE_ASSIGN(Fd config, bpf::open_pinned(directory + "/config"));
  MOSE_ASSIGN(Fd entries, bpf::open_pinned(directory + "/entries"));
  MOSE_ASSIGN(Fd counts, bpf::open_pinned(directory + "/counts"));
  MOSE_ASSIGN(Fd link, bpf::open_pinned(directory + "/link"));
  MOSE_ASSIGN(bpf::MapShape shape, bpf::map_shape(entries.get()));
  std::unique_ptr<older_steer_xdp, Destroy> sample(older_steer_xdp::open_and_load()), made(older_steer_xdp::open());
  if (!sample || !made) return fail("an older program cannot be loaded");
  MOSE_TRY(carry_config(config.get(), bpf_map__fd(sample->maps.rodata), &made->rodata->mose_config));
  bpf_map__set_max_entries(made->maps.mose_uplink, shape.max_entries);
  bpf_map__set_max_entries(made->maps.mose_uplink_counts, shape.max_entries + 1);
  if (older_steer_xdp::load(made.get()) != 0) return fail("an older program cannot be loaded");
  MOSE_TRY(carry_over(entries.get(), bpf_map__fd(made->maps.mose_uplink)));
  MOSE_TRY(carry_over(counts.get(), bpf_map__fd(made->maps.mose_uplink_counts)));
  MOSE_ASSIGN(Fd before, bpf::program_of_link(link.get()));
  MOSE_TRY(bpf::update_link(link.get(), bpf_program__fd(made->progs.steer_xdp), before.get()));
  const std::pair<const char*, int> pins[] = {{"entries", bpf_map__fd(made->maps.mose_uplink)},
                                              {"counts", bpf_map__fd(made->maps.mose_uplink_counts)},
                                              {"config", bpf_map__fd(made->maps.rodata)}};
  for (auto [name, object] : pins) MOSE_TRY(bpf::replace_pin(object, directory, name));
  return {};
}

}  // namespace

void make_steering_older(const std::string& bpffs, const std::string& workload) {
  auto made = steering_older(bpffs + "/mose/" + workload);
  ASSERT_TRUE(made.has_value()) << made.error().what;
}

void make_uplink_older(const std::string& bpffs, const std::string& device) {
  auto made = uplink_older(bpffs + "/mose/uplink:" + device);
  ASSERT_TRUE(made.has_value()) << made.error().what;
}

}  // namespace mose::test
