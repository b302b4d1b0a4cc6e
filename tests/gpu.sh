#!/usr/bin/env bash
# gpu.sh - the checks that need a real GPU, in one command of under 9 minutes, for a machine with nvcc and a driver:
#
#   bash tests/gpu.sh
#   bash tests/gpu.sh --emulated     # on any machine: the same commands on small shapes, the executable linked with tests/emulate
#
# Builds ./yolo with CUDA; runs the tests of the kernels on the GPU; trains, validates and labels on the GPU and on the CPU and
# compares; measures, beside torch where it is installed; runs the tests under compute-sanitizer. Each part is a line with its time,
# the last line counts. All of it also goes into $OUT/gpu.txt (build/gpu.txt where OUT is not set), the figures as tables into
# $OUT/gpu.md, the parts' logs into $OUT/logs (build/logs). --emulated finds what is wrong with this script before a GPU is there;
# its times mean nothing.
# shellcheck disable=SC2086,SC2317,SC1091 # $folder, $program and numbers are single words; the functions are called by name
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
seconds=520 # after which no part may run
folder=build/gpu
out=${OUT:-build}
# What is run: on a GPU, or in little under the emulation.
mode="" program=./yolo model=yolov8n.yaml side=160 epochs=4 drawn=40 models="n s m l x" batches="16 64" bench_side=640 repeats=20
if [ "${1:-}" = --emulated ]; then
    shift
    mode=--emulated program=build/gpu/yolo model=tests/fixtures/net_tiny.yaml side=96 epochs=1 drawn=8 models="tiny" batches="1 2" bench_side=32 repeats=2
fi
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi

# ---- what the parts do: each is called as "gpu.sh --part NAME ..."

# Half of the emulation: what ./build.sh test has made of the same sources, else anew.
emulated() { # emulated NAME FLAG... SOURCE
    local name=$1 made=build/test-gpu-$1.o
    shift
    if [ -f $made ] && [ -z "$(find kernels.cu yolo.h tests/emulate -newer $made)" ]; then cp $made $folder/$name.o
    else c++ -std=c++17 -O2 -w -Itests/emulate -I. "$@" -c -o $folder/$name.o; fi
}

build_program() {
    SECONDS=0
    if [ -z "$mode" ]; then ./build.sh cuda
    else
        emulated kernels -x c++ kernels.cu && emulated emulate tests/emulate/emulate.cpp &&
            cc -std=c11 -O2 -w -ffp-contract=off -c yolo.c -o $folder/yolo.o &&
            c++ $folder/yolo.o $folder/kernels.o $folder/emulate.o -o $program -lm -lpthread -ldl
    fi && echo "$(stat -c %s $program) bytes after $SECONDS s"
}

# This machine's architecture as nvcc names it; what Hopper alone has is in code of 90a.
native() { nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sed -n '1s/\.//; 1s/^90$/90a/; 1p'; }

build_tests() {
    nvcc -O3 -std=c++17 -arch="sm_$(native)" -lineinfo -Xcompiler=-Wall,-Wextra -c kernels.cu -o $folder/kernels.o &&
        cc -std=c11 -O2 -w -DTEST_GPU -ffp-contract=off -c tests/test.c -o $folder/test.o &&
        nvcc -arch="sm_$(native)" -cudart static $folder/kernels.o $folder/test.o -o build/test-gpu -lm -lpthread -ldl
}

# The tests, an area at a time, under a tool of compute-sanitizer; what takes too long is skipped. Calls that fail as tests want are no errors.
sanitize() { # sanitize TOOL SECONDS
    local tool=$1 limit=$2 area status passed=0 failed=0 skipped=0 calls=
    [ "$tool" != memcheck ] || calls="--report-api-errors no"
    SECONDS=0
    for area in $(build/test-gpu --list | cut -d' ' -f1 | uniq); do
        status=124
        if [ $SECONDS -lt "$limit" ]; then
            timeout -k 5 $((limit - SECONDS)) compute-sanitizer --tool "$tool" $calls --error-exitcode 9 --print-limit 20 build/test-gpu "$area/" >$folder/sanitize.txt 2>&1
            status=$?
        fi
        case $status in
            0) passed=$((passed + 1)); echo "ok   $area" ;;
            124 | 137) skipped=$((skipped + 1)); echo "skip $area: not done within $limit s" ;;
            *) failed=$((failed + 1)); echo "FAIL $area: exit status $status"; grep -v '^ok ' $folder/sanitize.txt | head -n 40 ;;
        esac
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ] && [ $passed -gt 0 ]
}

train() { # train NAME OPTION...: on drawn pictures, from the same first weights
    local name=$1
    shift
    $program train model=$model data=$folder/drawn/set/data.yaml imgsz=$side batch=4 epochs=$epochs lr0=0.001 warmup_epochs=1 plots=false \
        project=$folder name="$name" exist_ok=true progress=none "$@"
}

# Losses of two runs, row by row: no relative difference above TOLERANCE.
compare_losses() { # compare_losses A B TOLERANCE
    awk -F, -v most="$3" '
        FNR == 1 { if (NR > 1) { rows = row; row = 0 } for (i = 1; i <= NF; i++) if ($i ~ /_loss/) loss[i] = $i; next }
        { row++ }
        NR == FNR { for (i in loss) first[row, i] = $i; next }
        {
            for (i in loss) {
                a = first[row, i]; count++
                number = a ~ /^[0-9.e+-]+$/ && $i ~ /^[0-9.e+-]+$/
                d = !number ? 1e9 : a + 0 == 0 ? $i + 0 != 0 : ($i - a) / a
                if (d < 0) d = -d
                if (d > worst) worst = d
                if (d > most) { print "epoch " row ", " loss[i] ": " a " against " $i; bad++ }
            }
        }
        END {
            if (row != rows || row == 0) { print rows + 0 " rows against " row + 0; bad++ }
            printf "%d losses of %d epochs, largest relative difference %.5f, at most %s\n", count, row, worst, most
            exit bad > 0
        }' "$folder/$1/results.csv" "$folder/$2/results.csv"
}

train_against() { # train_against NAME-OF-A-RUN-ON-THE-CPU NAME TOLERANCE OPTION...
    local cpu=$1 name=$2 most=$3
    shift 3
    train "$name" device=0 "$@" && compare_losses "$cpu" "$name" "$most"
}

# The same run twice: all but the times are the same.
train_twice() {
    train again device=0 amp=true optimizer=SGD || return 1
    for run in half again; do cut -d, -f1,3- "$folder/$run/results.csv" >"$folder/$run.csv"; done
    cmp "$folder/half.csv" "$folder/again.csv" && echo "the same numbers twice"
}

# One rank that adds up in the way WAY, with itself alone, gives the numbers of one that does not.
train_one_rank() { # train_one_rank WAY
    if [ "$1" = nccl ] && { [ -n "$mode" ] || ! $program devices | grep -q '^NCCL.*version'; }; then echo "NCCL is not installed"; return 77; fi
    train "one-$1" device=0 amp=true optimizer=SGD "allreduce=$1" || return 1
    for run in half "one-$1"; do cut -d, -f1,3- "$folder/$run/results.csv" >"$folder/$run.csv"; done
    cmp "$folder/half.csv" "$folder/one-$1.csv" && sed -n '/added up/p' "$folder/one-$1/log.txt"
}

validate() { $program val model=weights/shapes.pt data=$folder/drawn/held-out/data.yaml imgsz=$side progress=none "device=$1"; }

validate_against_cpu() { # the metrics of all classes: no difference above 0.01
    validate cpu >$folder/val-cpu.txt && validate 0 >$folder/val-gpu.txt || return 1
    awk '$1 == "all" { rows++; for (i = 2; i <= NF; i++) { if (rows == 1) { a[i] = $i; fields = NF }
             else { d = $i - a[i]; if (d < 0) d = -d; if (d > worst) worst = d } } if (NF != fields || NF != 7) bad++ }
         END { if (rows != 2 || bad) { print rows + 0 " lines of metrics, expected 2 of 7 fields"; exit 1 }
             printf "mAP50-95 %s on the CPU, largest difference of a metric %.4f, at most 0.01\n", a[7], worst; exit worst > 0.01 }' $folder/val-cpu.txt $folder/val-gpu.txt
}

label() { $program label model=weights/shapes.pt source=$folder/drawn/drawn out="$folder/labels-$1" imgsz=$side save_conf=true progress=none "device=$1"; }

# Each box of one side has one of its class on the other, within 0.01 of the picture and 0.03 of confidence; those that the threshold
# of 0.25 may have cut off on one side do not count.
label_against_cpu() {
    rm -rf "$folder/labels-cpu" "$folder/labels-0"
    label cpu && label 0 || return 1
    (cd "$folder/labels-cpu" && find . -name '*.txt' ! -name classes.txt ! -path '*/.yolo_undo/*' | sort) >$folder/labels.txt
    while read -r file; do
        [ -f "$folder/labels-0/$file" ] || { echo "$file is missing"; return 1; }
        awk -v file="$file" '
            function apart(x, y) { return x > y ? x - y : y - x }
            NR == FNR { n++; for (i = 1; i <= 6; i++) a[n, i] = $i; next }
            {
                for (k = 1; k <= n; k++) {
                    same = !(k in used) && a[k, 1] == $1 && apart(a[k, 6], $6) <= 0.03
                    for (i = 2; i <= 5; i++) same = same && apart(a[k, i], $i) <= 0.01
                    if (same) { used[k] = 1; pairs++; next }
                }
                if ($6 > 0.28) print file ": only on the GPU: " $0
            }
            END { for (k = 1; k <= n; k++) if (!(k in used) && a[k, 6] > 0.28) print file ": only on the CPU: " a[k, 1], a[k, 2], a[k, 3], a[k, 4], a[k, 5], a[k, 6]
                print "pairs " pairs + 0 }' "$folder/labels-cpu/$file" "$folder/labels-0/$file"
    done <$folder/labels.txt >$folder/label-differences.txt
    grep only $folder/label-differences.txt
    awk '/^pairs/ { files++; pairs += $2 } /only on/ { bad++ }
         END { printf "%d boxes of %d pictures found on both, %d on one only\n", pairs, files, bad; exit bad > 0 || pairs == 0 }' $folder/label-differences.txt
}

bench_model() { if [ -n "$mode" ]; then echo $model; else echo "yolov8$1.yaml"; fi; }

# The median in ms of the lines of `yolo bench` whose pass is WHAT: "yolo MODEL BATCH NAME MS", an excuse where a case does not run.
bench_case() { # bench_case MODEL BATCH OPTION...
    local name=$1 batch=$2 ours
    shift 2
    ours=$($program bench model="$(bench_model $name)" batch=$batch imgsz=$bench_side device=0 "$@" 2>&1) || {
        echo "skip yolo $name $batch: $(echo "$ours" | tail -n 1)"
        return
    }
    echo "$ours"
    echo "$ours" | sed -n "s/^  aim: /aim yolov8$name, batch $batch: /p"
    echo "$ours" | awk -v name=$name '$2 ~ /^[0-9]+$/ && $1 ~ /^[0-9]+x[0-9]+$/ {
        what = / training step$/ ? "step" : /the same, recorded$/ ? "recorded" : /on the GPU$/ ? "launched" : "whole"; print "yolo", name, $2, what, $5 }'
}

# No case begins after LIMIT seconds; what matters most comes first.
bench_cases() { # bench_cases LIMIT "MODEL..." "BATCH..." OPTION...
    local limit=$1 names=$2 sizes=$3 name batch
    shift 3
    SECONDS=0
    for name in $names; do
        for batch in $sizes; do
            if [ $SECONDS -ge $limit ]; then echo "skip yolo $name $batch: no time is left of $limit s"
            else bench_case $name $batch "$@"; fi
        done
    done
}

bench_peer() { # bench_peer steps|latency LIMIT
    command -v python3 >/dev/null || { echo "python3 is not installed"; return 77; }
    YOLO_OFFLINE=true YOLO_VERBOSE=false python3 tests/bench_gpu_peer.py "$1" "$2" --models $models --batches $batches --imgsz $bench_side
}

# Tables of what the parts before have found, for tests/RESULTS.md.
bench_tables() {
    local logs="build/logs/bench-*.log"
    if ! grep -q '^yolo ' $logs; then echo "nothing was measured"; return 1; fi
    {
        echo "| $bench_side pixels, $(date -u +%F) | yolo | ultralytics, torch | ratio |"
        echo "|---|---|---|---|"
        cat $logs | awk '
            $1 == "yolo" || $1 == "torch" { key = $2 " " $3 " " $4; if (!(key in known)) { known[key] = 1; order[++n] = key } ms[$1, key] = $5 }
            END {
                for (i = 1; i <= n; i++) {
                    key = order[i]; split(key, part, " "); a = ms["yolo", key]; b = ms["torch", key]
                    if (part[3] == "step") { unit = "img/s"; a = a > 0 ? 1000 * part[2] / a : 0; b = b > 0 ? 1000 * part[2] / b : 0 }
                    else unit = "ms"
                    ratio = a > 0 && b > 0 ? sprintf("%.2f x", unit == "ms" ? b / a : a / b) : "-"
                    printf("| yolov8%s, batch %d, %s | %s | %s | %s |\n", part[1], part[2], (part[3] == "step" ? "training step" : "forward, " part[3]),
                        (a > 0 ? sprintf("%.2f %s", a, unit) : "-"), (b > 0 ? sprintf("%.2f %s", b, unit) : "-"), ratio)
                }
            }' || return 1
        echo
        sed -n 's/^aim /- /p; s/^  peaks measured: /- peaks measured: /p' $logs | sort -u
        sed -n 's/^skip /- not measured: /p; s/^# /- beside: /p' $logs | sort -u
    } >"$out/gpu.md" && cat "$out/gpu.md"
}

if [ "${1:-}" = --part ]; then
    shift
    "$@"
    exit
fi

# ---- the run

within() { # within NAME SECONDS FUNCTION ARGUMENT...: a part, as long as there is time; nothing is waited for that long under the emulation
    local name=$1 limit=$2 left=$((seconds - SECONDS))
    shift 2
    if [ -n "$mode" ]; then limit=600 left=600; fi
    if [ $left -lt 10 ]; then parts_skip "$name" "no time is left of $seconds s"; return; fi
    part "$name" $((limit < left ? limit : left)) bash tests/gpu.sh $mode --part "$@"
    [ -z "${show:-}" ] || sed 's/^/         /' "build/logs/$name.log"
}

# GPU against CPU, through the executable.
run_program() {
    within draw 60 $program demo out=$folder/drawn pictures=$drawn epochs=0 progress=none
    within train-cpu 90 train cpu device=cpu optimizer=SGD
    within train-float 60 train_against cpu float 0.01 optimizer=SGD amp=false
    within train-half 60 train_against cpu half 0.05 optimizer=SGD amp=true
    within train-twice 60 train_twice
    within train-host 60 train_one_rank host
    within train-nccl 60 train_one_rank nccl
    within train-cpu-musgd 90 train cpu-musgd device=cpu optimizer=MuSGD
    within train-musgd 60 train_against cpu-musgd musgd 0.02 optimizer=MuSGD amp=false
    within val 60 validate_against_cpu
    within label 60 label_against_cpu
}

# What matters most first. A limit of a part leaves room for its last case.
run_bench() {
    local show=yes
    rm -f build/logs/bench-*.log
    within bench-steps-n 40 bench_cases 30 "${models%% *}" "$batches" train=true kernels=true repeats=$repeats
    within bench-latency 30 bench_cases 20 "$models" 1 repeats=$repeats
    within bench-peer-latency 40 bench_peer latency 30
    within bench-peer-steps 130 bench_peer steps 105
    case $models in *\ *) within bench-steps 60 bench_cases 45 "${models#* }" "$batches" train=true kernels=true repeats=10 ;; esac
    within bench-forward 20 bench_cases 15 "${models%% *}" 16 kernels=true repeats=$repeats
    within tables 10 bench_tables
}

run_sanitizer() {
    if ! command -v compute-sanitizer >/dev/null; then parts_skip sanitizer "compute-sanitizer is not installed"; return; fi
    local tool limit
    for tool in memcheck racecheck; do
        limit=$((seconds - SECONDS - 15))
        limit=$((limit < 80 ? limit : 80))
        if [ $limit -ge 10 ]; then within $tool $((limit + 15)) sanitize $tool $limit; else parts_skip $tool "no time is left of $seconds s"; fi
    done
}

run_all() {
    rm -rf $folder $program
    [ -n "$mode" ] || rm -f build/test-gpu
    mkdir -p $folder build/logs
    local gpu=0
    if [ -z "$mode" ]; then
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "nvidia-smi finds no GPU"
        nvidia-smi -L >/dev/null 2>&1 && gpu=1
    fi
    show=yes within build 240 build_program
    if [ -n "$mode" ]; then parts_skip kernels "emulated: ./build.sh test runs them"
    elif [ $gpu = 0 ]; then parts_skip gpu "there is no GPU here: only the build was checked"; parts_end; return
    else
        within build-tests 200 build_tests
        if [ -x build/test-gpu ]; then within kernels 120 build/test-gpu; else parts_skip kernels "build/test-gpu was not built"; fi
    fi
    if [ -x $program ]; then
        show=yes within devices 20 $program devices
        run_program
        run_bench
    else parts_skip program "$program was not built"; fi
    if [ -n "$mode" ]; then parts_skip sanitizer "emulated"
    elif [ -x build/test-gpu ]; then run_sanitizer
    else parts_skip sanitizer "build/test-gpu was not built"; fi
    echo "$SECONDS s"
    parts_end
}

mkdir -p "$out"
set -o pipefail
run_all 2>&1 | tee "$out/gpu.txt"
status=$?
[ "$out" = build ] || cp -r build/logs "$out/"
exit $status
