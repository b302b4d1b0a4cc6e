#!/usr/bin/env bash
# gpu.sh - the checks that need a real GPU, in one command of under 9 minutes, for a machine with nvcc and a driver:
#
#   bash tests/gpu.sh
#
# Builds ./yolo with CUDA; runs the tests of the kernels on the GPU, then under compute-sanitizer; trains, validates and labels on
# the GPU and on the CPU and compares; measures. Each part is a line with its time, the last line counts. All of it also
# goes into $OUT/gpu.txt (build/gpu.txt where OUT is not set), the parts' logs into $OUT/logs (build/logs).
# shellcheck disable=SC2086,SC2317 # $folder and numbers are single words; the functions are called by name
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
seconds=520 # after which no part may run
folder=build/gpu
out=${OUT:-build}
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi

# ---- what the parts do: each is called as "gpu.sh --part NAME ..."

build_program() {
    SECONDS=0
    ./build.sh cuda && echo "$(stat -c %s yolo) bytes after $SECONDS s"
}

build_tests() {
    nvcc -O3 -std=c++17 -arch=native -lineinfo -Xcompiler=-Wall,-Wextra -c kernels.cu -o $folder/kernels.o &&
        cc -std=c11 -O2 -w -DTEST_GPU -ffp-contract=off -c tests/test.c -o $folder/test.o &&
        nvcc -arch=native -cudart static $folder/kernels.o $folder/test.o -o build/test-gpu -lm -lpthread -ldl
}

# The tests, an area at a time, under a tool of compute-sanitizer; what takes too long is skipped.
sanitize() { # sanitize TOOL SECONDS
    local tool=$1 limit=$2 area status passed=0 failed=0 skipped=0
    SECONDS=0
    for area in $(build/test-gpu --list | cut -d' ' -f1 | uniq); do
        status=124
        if [ $SECONDS -lt "$limit" ]; then
            timeout -k 5 $((limit - SECONDS)) compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 build/test-gpu "$area/" >$folder/sanitize.txt 2>&1
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

train() { # train NAME OPTION...: 32 steps on drawn pictures from the same first weights
    local name=$1
    shift
    ./yolo train model=yolov8n.yaml data=$folder/drawn/set/data.yaml imgsz=160 batch=4 epochs=4 lr0=0.001 warmup_epochs=1 plots=false \
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

validate() { ./yolo val model=weights/shapes.pt data=$folder/drawn/held-out/data.yaml imgsz=160 progress=none "device=$1"; }

validate_against_cpu() { # the metrics of all classes: no difference above 0.01
    validate cpu >$folder/val-cpu.txt && validate 0 >$folder/val-gpu.txt || return 1
    awk '$1 == "all" { rows++; for (i = 2; i <= NF; i++) { if (rows == 1) { a[i] = $i; fields = NF }
             else { d = $i - a[i]; if (d < 0) d = -d; if (d > worst) worst = d } } if (NF != fields || NF != 7) bad++ }
         END { if (rows != 2 || bad) { print rows + 0 " lines of metrics, expected 2 of 7 fields"; exit 1 }
             printf "mAP50-95 %s on the CPU, largest difference of a metric %.4f, at most 0.01\n", a[7], worst; exit worst > 0.01 }' $folder/val-cpu.txt $folder/val-gpu.txt
}

label() { ./yolo label model=weights/shapes.pt source=$folder/drawn/drawn out="$folder/labels-$1" imgsz=160 save_conf=true progress=none "device=$1"; }

# Each box of one side has one of its class on the other, within 0.01 of the picture and 0.03 of confidence; those that the threshold
# of 0.25 may have cut off on one side do not count.
label_against_cpu() {
    rm -rf "$folder/labels-cpu" "$folder/labels-0"
    label cpu && label 0 || return 1
    (cd "$folder/labels-cpu" && find . -name '*.txt' ! -name classes.txt | sort) >$folder/labels.txt
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

bench() { # bench OPTION...: the program's own table
    ./yolo bench model=yolov8n.yaml device=0 "$@"
}

# The same with ultralytics' model in torch, fp16 with fp32 sums as `yolo bench` has it; forward is fused, as there.
bench_peer() {
    command -v python3 >/dev/null || { echo "python3 is not installed"; return 77; }
    YOLO_OFFLINE=true YOLO_VERBOSE=false python3 - <<'PYTHON'
import statistics
import sys
import time

try:
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
except ImportError as error:
    print(f"no peer to measure beside: {error}")
    sys.exit(77)
if not torch.cuda.is_available():
    print("torch sees no GPU")
    sys.exit(77)


def timed(run):
    times = []
    for i in range(40):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[20:])


for batch in 1, 16:
    torch.backends.cudnn.benchmark = True
    images = torch.rand(batch, 3, 640, 640, device="cuda")
    model = DetectionModel("yolov8n.yaml", verbose=False).cuda().eval().fuse(verbose=False).half()
    with torch.no_grad():
        forward = timed(lambda: model(images.half()))
    model = DetectionModel("yolov8n.yaml", verbose=False).cuda().train()
    model.args = get_cfg()
    boxes = torch.rand(8 * batch, 4, device="cuda") * 0.2 + 0.3
    targets = {"img": images, "bboxes": boxes, "cls": torch.randint(80, (8 * batch, 1), device="cuda").float(),
               "batch_idx": torch.arange(batch, device="cuda").repeat(8).float()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler("cuda")

    def step():
        with torch.autocast("cuda"):
            loss = model(targets)[0].sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    train = timed(step)
    print(f"torch {torch.__version__}, batch {batch}: forward {forward:.2f} ms ({1000 * batch / forward:.0f} img/s), step {train:.2f} ms ({1000 * batch / train:.0f} img/s)")
PYTHON
}

if [ "${1:-}" = --part ]; then
    shift
    "$@"
    exit
fi

# ---- the run

within() { # within NAME SECONDS FUNCTION ARGUMENT...: a part, as long as there is time
    local name=$1 limit=$2 left=$((seconds - SECONDS))
    shift 2
    if [ $left -lt 10 ]; then parts_skip "$name" "no time is left of $seconds s"; return; fi
    part "$name" $((limit < left ? limit : left)) bash tests/gpu.sh --part "$@"
    [ -z "${show:-}" ] || sed 's/^/         /' "build/logs/$name.log"
}

has_option() { ./yolo help "$1" 2>/dev/null | grep -q "^ *$2 "; }

# GPU against CPU, through the executable.
run_program() {
    if ! has_option train device; then parts_skip program "yolo train has no option device="; return; fi
    within draw 60 ./yolo demo out=$folder/drawn pictures=40 epochs=0 progress=none
    within train-cpu 90 train cpu device=cpu optimizer=SGD
    within train-float 60 train_against cpu float 0.01 optimizer=SGD amp=false
    within train-half 60 train_against cpu half 0.05 optimizer=SGD amp=true
    within train-twice 60 train_twice
    within train-cpu-musgd 90 train cpu-musgd device=cpu optimizer=MuSGD
    within train-musgd 60 train_against cpu-musgd musgd 0.02 optimizer=MuSGD amp=false
    within val 60 validate_against_cpu
    within label 60 label_against_cpu
}

run_bench() {
    local show=yes
    if has_option bench train; then within bench 60 bench batch=1,16 train=true
    else
        parts_skip bench-train "yolo bench has no option train="
        within bench-1 30 bench batch=1
        within bench-16 30 bench batch=16
    fi
    within bench-peer 60 bench_peer
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
    rm -rf $folder build/test-gpu yolo
    mkdir -p $folder build/logs
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "nvidia-smi finds no GPU"
    local gpu=0
    nvidia-smi -L >/dev/null 2>&1 && gpu=1
    show=yes within build 240 build_program
    if [ $gpu = 0 ]; then parts_skip gpu "there is no GPU here: only the build was checked"; parts_end; return; fi
    within build-tests 200 build_tests
    if [ -x build/test-gpu ]; then within kernels 120 build/test-gpu; else parts_skip kernels "build/test-gpu was not built"; fi
    if [ -x yolo ]; then
        show=yes within devices 20 ./yolo devices
        run_program
        run_bench
    else parts_skip program "./yolo was not built"; fi
    if [ -x build/test-gpu ]; then run_sanitizer; else parts_skip sanitizer "build/test-gpu was not built"; fi
    echo "$SECONDS s"
    parts_end
}

mkdir -p "$out"
set -o pipefail
run_all 2>&1 | tee "$out/gpu.txt"
status=$?
[ "$out" = build ] || cp -r build/logs "$out/"
exit $status
