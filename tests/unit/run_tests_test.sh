#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# run_tests_test.sh RUN-TESTS: what it says of tests that pass, that are skipped, and whose label is required.
set -euo pipefail
run_tests=$1
tree=$(mktemp -d /tmp/mose-run-tests.XXXXXX)
trap 'rm -rf "$tree"' EXIT
cat >"$tree/CTestTestfile.cmake" <<'END'
add_test(good true)
set_tests_properties(good PROPERTIES LABELS unit)
add_test(silent sh -c "exit 77")
set_tests_properties(silent PROPERTIES LABELS unit SKIP_RETURN_CODE 77)
add_test(measures sh -c "exit 77")
set_tests_properties(measures PROPERTIES LABELS bench SKIP_RETURN_CODE 77)
add_test(cases sh -c "echo '== fault cases' && echo 'a row' && echo '== end of fault cases' && echo 'nothing'")
set_tests_properties(cases PROPERTIES LABELS fault)
add_test(bad false)
set_tests_properties(bad PROPERTIES LABELS unit)
END

# expect CODE TEST: how a run of that test ends; its log is in $log.
expect() {
  local code=0
  log=$("$run_tests" "$tree" -R "^$2\$" 2>&1) || code=$?
  [ "$code" = "$1" ] || { echo "$2 ended with $code, not $1:"; echo "$log"; exit 1; }
}
expect 0 good
expect 1 bad
expect 1 silent
grep -q "the label unit is required here" <<<"$log" || { echo "$log"; exit 1; }
expect 0 cases
grep -q "^a row$" <<<"$log" || { echo "$log"; exit 1; }
if grep -q "^nothing$" <<<"$log"; then echo "$log"; exit 1; fi
expect 0 measures
grep -q "skipped: measures" <<<"$log" || { echo "$log"; exit 1; }
