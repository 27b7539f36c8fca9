// SPDX-License-Identifier: MIT
#pragma once

#include "pager.pb.h"
#include "restore/pager_client.h"

// Between the messages of pager.proto and what both ends work with. Only for .cpp files.
namespace mose::restore {

// What `report` says goes into `status`; false for a kind that we do not know.
[[nodiscard]] bool read_report(const pager::v1::PagerReport& report, PagerStatus& status, PagerEvent& event);
[[nodiscard]] pager::v1::PagerReport write_report(PagerEventKind kind, const PagerStatus& status);

}  // namespace mose::restore
