#!/bin/sh
# cuda.sh - ./yolo with CUDA, on a machine with nvcc: its size, what it is linked with, that its convolutions spill no
# registers, and that it trains on the CPU where there is no driver, to the numbers of a build without CUDA. Leaves ./yolo
# with code for all GPUs. Ends with "N passed, N failed, N skipped".
#
#   sh tests/cuda.sh
cd "$(dirname "$0")/.." || exit 1
folder=build/cuda passed=0 failed=0
rm -rf $folder
mkdir -p $folder
check() { # check NAME COMMAND...
    name=$1; shift
    if "$@"; then passed=$((passed + 1)); echo "ok   $name"; else failed=$((failed + 1)); echo "FAIL $name"; fi
}
at_most() { echo "  $1 of at most $2 $3"; [ "$1" -le "$2" ]; }
size() { stat -c %s yolo; }

only_the_c_library() {
    ldd ./yolo
    ! ldd ./yolo | grep -vE '^[[:space:]]*(linux-vdso\.so\.1|libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|/lib(64)?/ld-linux[-a-z0-9_]*\.so\.[0-9]) '
}
# Warnings are of spilled registers alone, and those in no convolution.
no_spills() {
    ! grep -i warning $folder/build.log | grep -v 'Registers are spilled' && ! grep 'Registers are spilled' $folder/build.log | grep -E 'k_conv|k_wgrad'
}
train() { # train PROGRAM NAME
    "$1" train model=yolov8n.yaml data=$folder/drawn/set/data.yaml imgsz=64 batch=4 epochs=1 device=cpu plots=false project=$folder name="$2" progress=none
}
same_numbers() { # but for the column of the time
    ./yolo demo out=$folder/drawn pictures=12 epochs=0 progress=none && train ./yolo with && train build/yolo-cpu without || return 1
    for run in with without; do cut -d, -f1,3- $folder/$run/results.csv >$folder/$run.csv; done
    cmp $folder/with.csv $folder/without.csv
}

check "builds without CUDA" ./build.sh cpu
cp yolo build/yolo-cpu
began=$(date +%s)
check "builds for one architecture" ./build.sh cuda arch=90
echo "  in $(($(date +%s) - began)) s"
check "12 MB for one architecture" at_most "$(size)" 12000000 bytes
./build.sh cuda arch=all >$folder/build.log 2>&1
status=$?
cat $folder/build.log
check "builds for all" [ $status = 0 ]
check "40 MB for all" at_most "$(size)" 40000000 bytes
check "convolutions spill no registers, and there is no other warning" no_spills
check "nothing but the C library is linked" only_the_c_library
check "starts where there is no driver" ./yolo devices
check "trains on the CPU as a build without CUDA does" same_numbers
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
