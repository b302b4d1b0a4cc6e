# shellcheck shell=sh disable=SC2030,SC2031 # parts_together counts in subshells and adds from files
# parts.sh - runs the parts of a test run and adds up their closing lines; sourced by build.sh and .ci/run.
#
#   part NAME SECONDS COMMAND...   one part: its own "N passed, N failed, N skipped" counts, else its exit status does
#                                  (77 = skipped, with its last line as the reason); too long is a failure
#   parts_skip NAME REASON         a part that cannot run here
#   parts_together "CALL"...       calls of functions that call the two above, two at a time, the longest first: each of two lanes
#                                  (parts_lanes="1 2 3": of three) takes the next one that is left
#   parts_end                      prints the sum; status 1 when anything failed or nothing passed

parts_passed=0 parts_failed=0 parts_skipped=0

# parts_count LOG WORD: the number before WORD in the log's last closing line; nothing when there is none.
parts_count() { sed -n "s/^\([0-9]* passed, [0-9]* failed.*\)\$/, \1/p" "$1" | tail -n 1 | sed -n "s/.*, \([0-9]*\) $2.*/\1/p"; }

parts_report() { # VERDICT NAME SECONDS TEXT
    printf '%-4s %-24s %4s s  %s\n' "$1" "$2" "$3" "$4"
}

part() {
    part_name=$1 part_limit=$2 part_log=build/logs/$1.log part_start=$(date +%s)
    shift 2
    mkdir -p build/logs
    part_status=0
    timeout -k 10 "$part_limit" "$@" >"$part_log" 2>&1 </dev/null || part_status=$?
    part_seconds=$(($(date +%s) - part_start))
    p=$(parts_count "$part_log" passed) f=$(parts_count "$part_log" failed) s=$(parts_count "$part_log" skipped)
    text=$(tail -n 1 "$part_log" | cut -c1-150)
    if [ "$part_status" = 77 ] && [ -z "$p" ]; then p=0 f=0 s=1
    elif [ -z "$p" ] && [ "$part_status" = 0 ]; then p=1 f=0
    elif [ "$part_status" = 0 ]; then text="$p passed, $f failed, ${s:-0} skipped"
    elif [ "${f:-0}" = 0 ]; then f=1 text="exit status $part_status after $part_seconds s of $part_limit"
    fi
    parts_passed=$((parts_passed + ${p:-0})) parts_failed=$((parts_failed + ${f:-0})) parts_skipped=$((parts_skipped + ${s:-0}))
    if [ "${f:-0}" != 0 ]; then
        parts_report FAIL "$part_name" "$part_seconds" "$text"
        { grep -v '^ok ' "$part_log" || true; } | tail -n 40 | sed 's/^/    | /'
    elif [ "${p:-0}" = 0 ]; then parts_report skip "$part_name" "$part_seconds" "$text"
    else parts_report ok "$part_name" "$part_seconds" "$text"
        sed -n 's/^skip /         skip /p' "$part_log"
    fi
}

parts_skip() {
    parts_skipped=$((parts_skipped + 1))
    parts_report skip "$1" 0 "$2"
}

parts_together() {
    parts_taken=build/logs/taken.$$ # the harness is tested by parts within a part
    rm -rf "$parts_taken"
    mkdir -p "$parts_taken"
    for _ in ${parts_lanes:-1 2}; do
        for parts_item; do
            mkdir "$parts_taken/$parts_item" 2>/dev/null || continue
            parts_passed=0 parts_failed=0 parts_skipped=0
            $parts_item
            echo "$parts_passed $parts_failed $parts_skipped" >"$parts_taken/$parts_item/counts"
        done &
    done
    wait
    for parts_item; do
        p=0 f=0 s=0
        if ! read -r p f s 2>/dev/null <"$parts_taken/$parts_item/counts"; then
            p=0 f=1 s=0
            parts_report FAIL "$parts_item" 0 "did not come to its end"
        fi
        parts_passed=$((parts_passed + p)) parts_failed=$((parts_failed + f)) parts_skipped=$((parts_skipped + s))
    done
    rm -rf "$parts_taken"
}

parts_end() {
    echo "$parts_passed passed, $parts_failed failed, $parts_skipped skipped"
    [ "$parts_failed" = 0 ] && [ "$parts_passed" -gt 0 ]
}
