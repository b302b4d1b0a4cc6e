#!/bin/sh
# harness.sh - does a failure fail? Plants failures in the test program and in the runner of parts and looks at what
# they say. Ends with "N passed, N failed, N skipped".
#
#   sh tests/harness.sh [CC]
cd "$(dirname "$0")/.." || exit 1
cc=${1:-cc} folder=build/harness
passed=0 failed=0
check() { # check NAME WANTED-STATUS WANTED-LAST-LINE COMMAND...
    name=$1 status=$2 line=$3; shift 3
    "$@" >$folder/out.txt 2>&1
    got=$?
    last=$(tail -n 1 $folder/out.txt)
    if [ $got = "$status" ] && [ "$last" = "$line" ]; then passed=$((passed + 1)); echo "ok   $name"
    else failed=$((failed + 1)); echo "FAIL $name: status $got, \"$last\"; expected $status, \"$line\""; fi
}
rm -rf $folder
mkdir -p $folder
# shellcheck disable=SC2086 # cc may carry flags
$cc -std=c11 -O0 -w -DTEST_PLANTED -DYOLO_NO_CUDA -o $folder/test tests/test.c -lm -lpthread -ldl || exit 1
check "a failing CHECK"        1 "0 passed, 1 failed, 0 skipped" $folder/test planted/check
check "a NaN in CHECK_NEAR"    1 "0 passed, 1 failed, 0 skipped" $folder/test planted/nan
check "a SKIP is counted"      0 "0 passed, 0 failed, 1 skipped" $folder/test planted/skip
check "all planted tests"      1 "0 passed, 2 failed, 1 skipped" $folder/test planted
check "a test nobody knows"    1 "0 passed, 0 failed, 0 skipped" $folder/test no_such_test

parts() { printf '. tests/parts.sh\n%s\nparts_end\n' "$1" >$folder/parts.sh; sh $folder/parts.sh; }
check "a part's counts add up" 1 "5 passed, 2 failed, 3 skipped" parts 'part harness-a 9 sh -c "echo 3 passed, 2 failed, 3 skipped; exit 1"
part harness-b 9 echo 1 passed, 0 failed
part harness-c 9 true'
check "a part that fails silently" 1 "0 passed, 1 failed, 0 skipped" parts 'part harness-a 9 false'
check "a part that fails after good counts" 1 "3 passed, 1 failed, 0 skipped" parts 'part harness-a 9 sh -c "echo 3 passed, 0 failed, 0 skipped; exit 1"'
check "a part that hangs"      1 "0 passed, 1 failed, 0 skipped" parts 'part harness-a 1 sleep 9'
check "a part that is killed"  1 "0 passed, 1 failed, 0 skipped" parts 'part harness-a 9 sh -c "kill -9 \$\$"'
check "a part that skips"      1 "0 passed, 0 failed, 1 skipped" parts 'part harness-a 9 sh -c "echo no such thing here; exit 77"'
check "parts at a time add up" 1 "3 passed, 1 failed, 1 skipped" parts 'one() { part harness-a 9 echo 2 passed, 0 failed; part harness-b 9 false; }
two() { part harness-c 9 true; parts_skip harness-d because; }
parts_together one two'
check "a lane that ends early" 1 "1 passed, 1 failed, 0 skipped" parts 'one() { exit 0; }
two() { part harness-c 9 true; }
parts_together one two'
check "nothing but a skip"     0 "1 passed, 0 failed, 1 skipped" parts 'part harness-a 9 true
parts_skip harness-b because'
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
