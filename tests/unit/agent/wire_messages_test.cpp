// SPDX-License-Identifier: MIT
#include "agent/wire_messages.h"

#include <gtest/gtest.h>

#include "mose/wire/wire.pb.h"

namespace mose::agent {
namespace {

PreparePayload example_payload() {
  PreparePayload payload;
  payload.spec.name = "redis";
  payload.spec.addresses = {*parse_service_address("192.0.2.10/24"), *parse_service_address("2001:db8::10/64")};
  payload.spec.mac = mac_for(payload.spec.addresses[0]);
  payload.spec.mounts = {{"/srv/data", "/data", MountMode::copy, false}, {"/srv/www", "/www", MountMode::identical, true}};
  payload.spec.command = {"/usr/bin/redis-server", "--save", ""};
  payload.spec.environment = {"LANG=C"};
  payload.hostname = "redis";
  payload.token = std::string(16, 't');
  payload.page_server_address = "192.0.2.1:7946";
  payload.files = {{"/usr/bin/redis-server", 123, std::string(16, 'd')}};
  payload.neighbours = {{*parse_service_address("192.0.2.2/32"), *parse_mac("02:00:00:00:00:02")}};
  payload.path.tunnel =
      handover::Tunnel{*parse_service_address("192.0.2.1/32"), *parse_service_address("203.0.113.2/32"), 4790};
  payload.memory_bytes = 200 << 20;
  payload.capabilities = 1ull << 40 | 1;
  payload.tasks = 2;
  payload.mtu = 1500;
  return payload;
}

TEST(WireMessages, PrepareComesBackAsItWas) {
  PreparePayload sent = example_payload();
  auto got = decode_prepare(encode(sent));
  ASSERT_TRUE(got) << got.error().what;
  EXPECT_EQ(got->spec, sent.spec);
  EXPECT_EQ(got->hostname, sent.hostname);
  EXPECT_EQ(got->token, sent.token);
  EXPECT_EQ(got->files, sent.files);
  EXPECT_EQ(got->neighbours, sent.neighbours);
  EXPECT_EQ(got->memory_bytes, sent.memory_bytes);
  EXPECT_EQ(got->capabilities, sent.capabilities);
  EXPECT_EQ(got->path, sent.path);
  sent.path.tunnel.reset();
  EXPECT_EQ(decode_prepare(encode(sent))->path.tunnel, std::nullopt);
  // To have none is another thing than not to say it.
  sent.capabilities = 0;
  EXPECT_EQ(decode_prepare(encode(sent))->capabilities, 0u);
  sent.capabilities.reset();
  EXPECT_EQ(decode_prepare(encode(sent))->capabilities, std::nullopt);
}

TEST(WireMessages, PrepareOfAHostilePeerIsRefused) {
  auto with = [](auto change) {
    mose::wire::v1::Prepare prepare;
    EXPECT_TRUE(prepare.ParseFromString(encode(example_payload())));
    change(prepare);
    return decode_prepare(prepare.SerializeAsString());
  };
  EXPECT_TRUE(with([](auto&) {}));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->set_name("../../etc"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->set_root("relative"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->mutable_mounts(0)->set_source("/srv/../etc"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->mutable_mounts(0)->set_mode(9); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->clear_addresses(); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_workload()->set_mac("nonsense"); }));
  EXPECT_FALSE(with([](auto& p) { p.set_token("short"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_tunnel()->set_source("nonsense"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_tunnel()->set_destination("2001:db8::2"); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_tunnel()->set_port(0); }));
  EXPECT_FALSE(with([](auto& p) { p.mutable_tunnel()->set_port(65536); }));
  EXPECT_FALSE(decode_prepare("\xff\xff\xff"));
}

TEST(WireMessages, PrepareThatIsTooLongNamesItsLargestPart) {
  struct Row {
    void (*grow)(PreparePayload&);
    const char* named;
  };
  const Row rows[] = {
      {[](PreparePayload& p) { p.spec.environment.assign(400, "V=" + std::string(2800, 'x')); },
       "of them are its environment and command: start it with less of them"},
      {[](PreparePayload& p) { p.spec.command.push_back(std::string(wire::kControlPayloadMax, 'x')); }, "environment and command"},
      {[](PreparePayload& p) { p.spec.mounts.assign(1000, {std::string(1000, 's'), std::string(1000, 't'), MountMode::shared, false}); },
       "its 1000 mounts"},
      {[](PreparePayload& p) { p.files.assign(4096, {std::string(300, 'f'), 1, std::string(16, 'd')}); },
       "the 4096 files that it has open or mapped"},
      {[](PreparePayload& p) { p.neighbours.assign(40000, p.neighbours.front()); }, "the 40000 neighbours"},
  };
  for (const Row& row : rows) {
    PreparePayload payload = example_payload();
    ASSERT_TRUE(check_prepare(payload));
    row.grow(payload);
    auto fits = check_prepare(payload);
    ASSERT_FALSE(fits) << row.named;
    for (const std::string& part : {std::string(row.named), std::string("workload redis"), std::to_string(wire::kControlPayloadMax)}) {
      EXPECT_NE(fits.error().what.find(part), std::string::npos) << fits.error().what;
    }
  }
}

TEST(WireMessages, PrepareThatFitsBeforeItIsCompleteFitsAfterwards) {
  PreparePayload payload = example_payload();
  payload.token.clear();
  payload.page_server_address.clear();
  std::string& grown = payload.spec.environment.emplace_back("V=");
  grown.append(wire::kControlPayloadMax - encode(payload).size() - 320, 'x');
  ASSERT_TRUE(check_prepare(payload));
  while (check_prepare(payload)) grown += 'x';
  grown.pop_back();
  payload.token = std::string(16, 't');
  payload.page_server_address = "[2001:db8:1111:2222:3333:4444:5555:6666%abcdefghijklmno]:65535";
  payload.memory_first = true;
  EXPECT_LE(encode(payload).size(), wire::kControlPayloadMax);
}

TEST(WireMessages, PreparedSaysHowLongImagesMayBe) {
  PreparedPayload sent;
  sent.images_bytes_max = 5u << 20;
  auto got = decode_prepared(encode(sent));
  ASSERT_TRUE(got);
  EXPECT_EQ(got->images_bytes_max, 5u << 20);
  EXPECT_FALSE(got->takes_tunnel);
  sent.takes_tunnel = true;
  EXPECT_TRUE(decode_prepared(encode(sent))->takes_tunnel);
  EXPECT_TRUE(got->takes_differences);
  EXPECT_FALSE(got->memory_first);
  sent.memory_first = true;
  EXPECT_TRUE(decode_prepared(encode(sent))->memory_first);
  mose::wire::v1::Prepared silent;
  silent.set_uplink_mac("02:00:00:00:00:01");
  EXPECT_EQ(decode_prepared(silent.SerializeAsString())->images_bytes_max, wire::kImagesPayloadMax);
  EXPECT_FALSE(decode_prepared(silent.SerializeAsString())->takes_differences) << "an older agent";
  silent.set_images_bytes_max(UINT64_MAX);
  EXPECT_EQ(decode_prepared(silent.SerializeAsString())->images_bytes_max, wire::kImagesPayloadMax);
}

TEST(WireMessages, ImagesKeepBinaryContents) {
  ImagesPayload sent;
  sent.images = {{"core-1.img", std::string("\0\1\2\xff", 4)}};
  CopiedFile file;
  file.mount = kLogMount;
  file.path = "stdout.log";
  file.mode = 0644;
  file.contents = "line\n";
  sent.copied = {file};
  auto got = decode_images(encode(sent));
  ASSERT_TRUE(got);
  ASSERT_EQ(got->images.size(), 1u);
  EXPECT_EQ(got->images[0].bytes, sent.images[0].bytes);
  ASSERT_EQ(got->copied.size(), 1u);
  EXPECT_EQ(got->copied[0].mount, kLogMount);
  EXPECT_EQ(got->copied[0].contents, "line\n");
}

TEST(WireMessages, ImagesThatHardlyDifferTravelAsTheirDifference) {
  ImagesPayload sent;
  sent.images = {{"pages-1.img", std::string(64 * kPageSize, 'a')}, {"core-1.img", "small"}, {"pages-2.img", std::string(4 * kPageSize, 'n')}};
  const ImageFiles early = {{"pages-1.img", std::string(64 * kPageSize, 'a')}, {"core-1.img", "other"}};
  sent.images[0].bytes[17 * kPageSize] = 'b';
  const std::string encoded = encode(sent, &early);
  EXPECT_LT(encoded.size(), 6 * kPageSize);
  auto got = decode_images(encoded, &early);
  ASSERT_TRUE(got) << got.error().what;
  ASSERT_EQ(got->images.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(got->images[i].name, sent.images[i].name);
    EXPECT_EQ(got->images[i].bytes, sent.images[i].bytes);
  }
  EXPECT_FALSE(decode_images(encoded)) << "nobody here has the earlier ones";
  const ImageFiles others = {{"pages-1.img", std::string(64 * kPageSize, 'x')}};
  EXPECT_FALSE(decode_images(encoded, &others));
}

TEST(WireMessages, ADifferenceOfFewBytesDoesNotFillTheMemory) {
  const ImageFiles early = {{"pages-1.img", std::string(16 * kPageSize, 'a')}, {"pages-2.img", std::string(16 * kPageSize, 'a')}};
  ImagesPayload sent;
  sent.images = early;
  const std::string encoded = encode(sent, &early);
  EXPECT_LT(encoded.size(), 200u);
  EXPECT_TRUE(decode_images(encoded, &early, 32 * kPageSize));
  auto refused = decode_images(encoded, &early, 32 * kPageSize - 1);
  ASSERT_FALSE(refused) << "all of them together";
  EXPECT_NE(refused.error().what.find("images_bytes_max"), std::string::npos);
  mose::wire::v1::Images hostile;
  auto* file = hostile.add_files();
  file->set_name("pages-1.img");
  file->mutable_difference()->set_size(UINT64_MAX);
  EXPECT_FALSE(decode_images(hostile.SerializeAsString(), &early));
}

TEST(WireMessages, ReasonsAreBounded) {
  EXPECT_EQ(decode_reason(encode_reason("no room")), "no room");
  EXPECT_LE(decode_reason(encode_reason(std::string(1 << 20, 'x'))).size(), 4096u);
}

}  // namespace
}  // namespace mose::agent
