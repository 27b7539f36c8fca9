// SPDX-License-Identifier: MIT
#pragma once

#include "pager.pb.h"
#include "restore/pager_client.h"

// Between the messages of pager.proto and what both ends work with. Only for .cpp files.
namespace mose::restore {

// What `report` says goes into `status`; false for a kind that we do not know.
[[nodiscard]] bool read_report(const pager::v1::PagerReport& report, PagerStatus& status, PagerEvent& event);
// Pages as pairs of numbers; false where they are none that a process can have.
[[nodiscard]] bool read_stale(const google::protobuf::RepeatedPtrField<pager::v1::StalePages>& in, std::vector<StalePages>& out);
void write_stale(const std::vector<StalePages>& in, google::protobuf::RepeatedPtrField<pager::v1::StalePages>& out);
[[nodiscard]] pager::v1::PagerReport write_report(PagerEventKind kind, const PagerStatus& status);

}  // namespace mose::restore
