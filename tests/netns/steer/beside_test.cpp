// SPDX-License-Identifier: MIT
// Programs of others at TC on the devices where ours are: they stay, and who sees which frame is as docs/steering.md says.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <array>

#include "handover.h"
#include "kernel/bpf_clsact.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "support/support.h"

namespace mose::test {
namespace {

using bpf::TcPoint;
using handover::Direction;
using handover::HoldQueue;
using handover::TcAttach;
using handover::WorkloadNetwork;
using ::testing::HasSubstr;

constexpr auto kTcxEgress = static_cast<bpf_attach_type>(47);  // Linux 6.6; the headers may be older

// Somebody else's program: counts what comes to it and answers always the same.
class Foreign {
 public:
  explicit Foreign(int verdict) {
    counter_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "foreign", sizeof(uint32_t), sizeof(uint64_t), 1, nullptr));
    EXPECT_TRUE(counter_.valid()) << strerror(errno);
    auto op = [](uint8_t code, uint8_t to, uint8_t from, int16_t offset, int32_t value) {
      bpf_insn out{};
      out.code = code;
      out.dst_reg = to & 0xf;
      out.src_reg = from & 0xf;
      out.off = offset;
      out.imm = value;
      return out;
    };
    const std::array program{
        op(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0),  // key 0
        op(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, counter_.get()),
        op(0, 0, 0, 0, 0),
        op(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_2, BPF_REG_10, 0, 0),
        op(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4),
        op(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
        op(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 2, 0),
        op(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, 0, 0, 1),
        op(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_0, BPF_REG_1, 0, BPF_ADD),
        op(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, verdict),
        op(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    program_ = Fd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "foreign", "GPL", program.data(), program.size(), nullptr));
    EXPECT_TRUE(program_.valid()) << strerror(errno);
  }

  [[nodiscard]] int program() const { return program_.get(); }
  [[nodiscard]] uint64_t seen() const {
    uint32_t key = 0;
    uint64_t value = 0;
    EXPECT_EQ(bpf_map_lookup_elem(counter_.get(), &key, &value), 0);
    return value;
  }

 private:
  Fd counter_, program_;
};

// As `tc filter add` does it, in the namespace of the caller.
Status add_filter(const Foreign& foreign, unsigned ifindex, TcPoint point, uint32_t handle, uint32_t priority) {
  bpf_tc_hook hook = bpf::clsact_hook(ifindex, point);
  if (int code = bpf_tc_hook_create(&hook); code < 0 && code != -EEXIST) return fail_errno("clsact", -code);
  bpf_tc_opts filter = bpf::clsact_filter(handle, priority);
  filter.prog_fd = foreign.program();
  if (int code = bpf_tc_attach(&hook, &filter); code < 0) return fail_errno("filter", -code);
  return {};
}

Result<unsigned> uplink_of(const Bed::Node& node, const Bed& bed) {
  unsigned found = 0;
  bed.in(node.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link("up"));
    found = link.ifindex;
    return {};
  });
  return found;
}

TEST(Beside, AFilterThatWasThereSeesWhatPassesAndOutlivesUs) {
  Bed bed;
  const unsigned uplink = uplink_of(bed.a, bed).value_or(0);
  Foreign counting(TC_ACT_UNSPEC);
  bed.in(bed.a.netns, [&] { return add_filter(counting, uplink, TcPoint::ingress, 1, 1); });
  {
    WorkloadNetwork network = bed.create(bed.a);
    UdpService service(bed.a.workload, AF_INET, true);
    const uint64_t before = counting.seen();
    UdpClient client(bed.client, AF_INET, 5000);
    sleep_ms(50);
    client.finish();
    service.stop();
    EXPECT_EQ(service.received().fault(1, client.sent()), "");
    EXPECT_GE(counting.seen() - before, client.sent()) << "ours kept frames from it that only pass";
    bed.in(bed.a.netns, [&] { return WorkloadNetwork::destroy("mnet-redis", bed.a.bpffs); });
  }
  bed.in(bed.a.netns, [&]() -> Status {
    bpf_tc_hook hook = bpf::clsact_hook(uplink, TcPoint::ingress);
    bpf_tc_opts there = bpf::clsact_filter(1, 1);
    EXPECT_EQ(bpf_tc_query(&hook, &there), 0) << "it went with ours";
    return {};
  });
  const uint64_t before = counting.seen();
  UdpClient client(bed.client, AF_INET, 1000);  // who asks for the address of a service that is gone
  EXPECT_TRUE(eventually([&] { return counting.seen() > before; }));
}

TEST(Beside, AFilterBehindUsSeesNothingThatIsHeldAndAllThatIsReleased) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, true);
  Foreign counting(TC_ACT_UNSPEC);
  const unsigned host = network.steering().config().host_ifindex;
  bed.in(bed.a.netns, [&] { return add_filter(counting, host, TcPoint::egress, 1, 2); });
  UdpClient client(bed.client, AF_INET, 5000);
  EXPECT_TRUE(eventually([&] { return counting.seen() > 0; }));
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  wait_until_idle(service);
  const uint64_t at_hold = counting.seen();
  EXPECT_TRUE(eventually([&] { return network.steering().queued_now(Direction::ingress).value_or(0) >= 100; }));
  // What asks for its MAC is never held.
  EXPECT_LE(counting.seen(), at_hold + 5);
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
  client.finish();
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  EXPECT_GE(counting.seen(), client.sent());
}

TEST(Beside, AProgramBeforeUsThatDropsTakesTheFrameFromUs) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  if (network.steering().config().attach != TcAttach::tcx) return;  // filters have the order of their priorities
  UdpService service(bed.a.workload, AF_INET, true);
  Foreign dropping(TC_ACT_SHOT);
  const unsigned host = network.steering().config().host_ifindex;
  Fd link;
  bed.in(bed.a.netns, [&]() -> Status {
    LIBBPF_OPTS(bpf_link_create_opts, first);
    first.flags = 1U << 3;  // BPF_F_BEFORE, of all
    link = Fd(bpf_link_create(dropping.program(), static_cast<int>(host), kTcxEgress, &first));
    return link.valid() ? Status{} : fail_errno("attach before ours", errno);
  });
  auto before = network.steering().counters(Direction::ingress);
  {
    UdpClient client(bed.client, AF_INET, 5000);
    EXPECT_TRUE(eventually([&] { return dropping.seen() > 0; }));
  }
  auto after = network.steering().counters(Direction::ingress);
  ASSERT_TRUE(before && after);
  EXPECT_EQ(after->passed.frames, before->passed.frames);
  EXPECT_EQ(service.count(), 0u);
  link.reset();
  UdpClient client(bed.client, AF_INET, 5000);
  EXPECT_TRUE(eventually([&] { return service.count() > 0; })) << "ours went with it";
}

TEST(Beside, WhereNoPriorityIsLeftItSaysHowToFreeOne) {
  constexpr uint32_t kHandle = 77, kPriorities = 8;
  Bed bed;
  const unsigned uplink = uplink_of(bed.a, bed).value_or(0);
  Foreign others(TC_ACT_UNSPEC), ours(TC_ACT_UNSPEC);
  bed.in(bed.a.netns, [&]() -> Status {
    for (uint32_t priority = 1; priority <= kPriorities; ++priority) {
      MOSE_TRY(add_filter(others, uplink, TcPoint::ingress, kHandle, priority));
    }
    Status refused = bpf::attach_clsact(ours.program(), uplink, TcPoint::ingress, kHandle);
    EXPECT_FALSE(refused);
    if (refused) return {};
    EXPECT_THAT(refused.error().what, HasSubstr("filters of others have all priorities from 1 to 8"));
    EXPECT_THAT(refused.error().what, HasSubstr("`tc filter del dev up ingress pref N` frees one"));
    bpf_tc_hook hook = bpf::clsact_hook(uplink, TcPoint::ingress);
    bpf_tc_opts freed = bpf::clsact_filter(kHandle, 3);
    EXPECT_EQ(bpf_tc_detach(&hook, &freed), 0);
    MOSE_TRY(bpf::attach_clsact(ours.program(), uplink, TcPoint::ingress, kHandle));
    bpf_tc_opts there = bpf::clsact_filter(kHandle, 3);
    EXPECT_EQ(bpf_tc_query(&hook, &there), 0) << "it took another than the free one";
    return {};
  });
}

}  // namespace
}  // namespace mose::test
