#!/bin/sh
# fuzz.sh - tests/fuzz.c under libFuzzer: each parser for so many seconds, led by what code a damaged file reaches.
#
#   sh tests/fuzz.sh build                     compiles it, and writes the files that mutations start from
#   sh tests/fuzz.sh SECONDS TARGET...         runs; none named = all, one after the other
#
# Bad is a crash, a sanitizer's report, a leak, more than 10 s or more than 1 GB. What did it lies in build/fuzz as TARGET-crash-...;
# "build/fuzz-guided --target=TARGET FILE" repeats it. The corpus found grows in build/corpus/TARGET and is used again.
# Ends with "N passed, N failed, N skipped". Exit status 77 when clang or its libFuzzer is missing.
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0
build() {
    mkdir -p build/fuzz build/corpus
    set -- clang -std=c11 -O1 -g -w -DFUZZ_GUIDED -fno-sanitize-recover=all tests/fuzz.c
    command -v clang >/dev/null || { echo "clang is not installed"; exit 77; }
    echo 'int LLVMFuzzerTestOneInput(const char *b, unsigned long n) { return b && n > 99; }' >build/fuzz/try.c
    clang -fsanitize=fuzzer build/fuzz/try.c -o build/fuzz/try 2>/dev/null || { echo "clang has no libFuzzer here"; exit 77; }
    "$@" -fsanitize=fuzzer,address,undefined -fno-sanitize=shift-base -o build/fuzz-guided -lm -lpthread -ldl &&
        cc -std=c11 -O1 -w tests/fuzz.c -o build/fuzz-seeds -lm -lpthread -ldl && build/fuzz-seeds seeds build/corpus
}
if [ "$1" = build ]; then build; exit; fi
[ -x build/fuzz-guided ] || build || exit
seconds=${1:-120}
[ $# -gt 0 ] && shift
if [ $# = 0 ]; then cd build/corpus && set -- * && cd ../..; fi
export ASAN_OPTIONS=quarantine_size_mb=32
for target; do
    log=build/fuzz/$target.log
    if build/fuzz-guided --target="$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=1000000 -use_value_profile=1 \
        -print_final_stats=1 -verbosity=1 -artifact_prefix="build/fuzz/$target-" "build/corpus/$target" >"$log" 2>&1
    then passed=$((passed + 1)) verdict=ok
    else failed=$((failed + 1)) verdict=FAIL; tail -n 30 "$log"
    fi
    echo "$verdict $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") files, $(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -c6-) places in the code reached, $(sed -n 's/^stat::peak_rss_mb: *//p' "$log") MB"
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
