// SPDX-License-Identifier: MIT
#pragma once

#include <string>

// Pins as an older build of ours would have left them: its programs at work, with maps of its own layout.
namespace mose::test {

// What is pinned of a workload becomes that, with the state that it has; under traffic nothing is lost. What fails,
// fails the test.
void make_steering_older(const std::string& bpffs, const std::string& workload);
// The uplink's program likewise.
void make_uplink_older(const std::string& bpffs, const std::string& device);

}  // namespace mose::test
