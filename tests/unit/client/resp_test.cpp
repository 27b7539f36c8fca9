// SPDX-License-Identifier: MIT
#include "client/resp.h"

#include <gtest/gtest.h>

namespace mose::client {
namespace {

TEST(Resp, RequestIsAnArrayOfStrings) {
  std::string out;
  append_request(out, {"SET", "k", ""});
  EXPECT_EQ(out, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
}

TEST(Resp, AnswersAreFoundWhereverTheStreamIsCut) {
  const std::string stream = "+OK\r\n:-42\r\n$5\r\na\r\nbc\r\n$-1\r\n-ERR no\r\n$0\r\n\r\n";
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    ReplyReader reader;
    std::vector<std::string> seen;
    for (std::string part : {stream.substr(0, cut), stream.substr(cut)}) {
      reader.append(part);
      Reply reply;
      while (true) {
        auto whole = reader.next(reply);
        ASSERT_TRUE(whole) << whole.error().what;
        if (!*whole) break;
        seen.push_back(std::to_string(static_cast<int>(reply.kind)) + std::string(reply.text) + std::to_string(reply.integer));
      }
    }
    EXPECT_EQ(seen, (std::vector<std::string>{"0OK0", "2-42", "3a\r\nbc0", "40", "1ERR no0", "30"})) << "cut at " << cut;
    EXPECT_EQ(reader.pending_bytes(), 0u);
  }
}

TEST(Resp, WhatIsNotRespIsAnError) {
  for (const char* bad : {"\r\n", "OK\r\n", "*1\r\n", ":x\r\n", ":\r\n", "$x\r\n", "$-2\r\n", "$99999999999\r\n", "$2\r\nabc\r\n"}) {
    ReplyReader reader;
    reader.append(bad);
    Reply reply;
    EXPECT_FALSE(reader.next(reply)) << bad;
  }
}

TEST(Resp, LineWithoutEndIsBounded) {
  ReplyReader reader;
  reader.append("+" + std::string(10000, 'x'));
  Reply reply;
  EXPECT_FALSE(reader.next(reply));
}

}  // namespace
}  // namespace mose::client
