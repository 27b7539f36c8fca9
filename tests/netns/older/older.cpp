// SPDX-License-Identifier: MIT
#include "older.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/types.h>

#include <cstring>
#include <memory>
#include <vector>

#include "kernel/bpf_layout.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_replace.h"

// The older contract's structures have the names of ours and other sizes.
namespace mose::older {
#include "mose/bpf/steer.h"
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

void make_uplink_older(const std::string& bpffs, const std::string& device) {
  auto made = uplink_older(bpffs + "/mose/uplink:" + device);
  ASSERT_TRUE(made.has_value()) << made.error().what;
}

}  // namespace mose::test
