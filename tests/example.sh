#!/bin/sh
# example.sh - another program vendors yolo.h and yolo.c: copies them into a folder of its own beside tests/example.c,
# builds that as C and as C++, and runs it. Ends with "N passed, N failed, N skipped".
#
#   sh tests/example.sh [CC [CXX]]
cd "$(dirname "$0")/.." || exit 1
cc=${1:-cc} cxx=${2:-c++} folder=build/example
passed=0 failed=0 skipped=0
check() { # check NAME COMMAND...
    name=$1; shift
    if "$@"; then passed=$((passed + 1)); echo "ok   $name"; else failed=$((failed + 1)); echo "FAIL $name"; fi
}
skip() { skipped=$((skipped + 1)); echo "skip $1: $2"; }

rm -rf $folder
mkdir -p $folder/program
cp yolo.h yolo.c tests/example.c $folder/
awk '/QUICK START/ { on = 1; next } /^   ERRORS/ { on = 0 } on' yolo.h | sed 's/^     //' | grep -v '^$' >$folder/header.txt
awk '/^int main/ { on = 1; next } /^    return 0;/ { on = 0 } on' tests/example.c | sed 's/^    //' >$folder/program.txt
grep '^#include "yolo.h"' tests/example.c | cat - $folder/program.txt | grep -v '^$' >$folder/program-all.txt
check "example.c is the quick start of yolo.h" diff -u $folder/header.txt $folder/program-all.txt

cd $folder || exit 1
# shellcheck disable=SC2086 # cc may carry flags
{
check "vendors as C" $cc -std=c11 -O2 -DYOLO_NO_MAIN -DYOLO_NO_CUDA -o program/c yolo.c example.c -lm -lpthread -ldl
check "vendored object compiles" $cc -std=c11 -O1 -DYOLO_NO_MAIN -DYOLO_NO_CUDA -c -o yolo.o yolo.c
if command -v ${cxx%% *} >/dev/null; then
    check "vendors into C++" $cxx -std=c++11 -Wall -o program/cpp -x c++ example.c -x none yolo.o -lm -lpthread -ldl
else skip "vendors into C++" "no C++ compiler"; fi
}
leaks() { # symbols that a vendored yolo.c exports but yolo.h does not own
    exported=$(nm -g --defined-only yolo.o | awk '{ print $3 }' | grep -v '^yolo_')
    [ -z "$exported" ] || { echo "exported: $exported"; return 1; }
}
if command -v nm >/dev/null; then check "exports yolo_ names only" leaks; else skip "exports yolo_ names only" "no nm"; fi

cd program || exit 1
fails_with_reason() { # without a checkpoint the quick start says why and exits with 1
    "$1" >out.txt 2>err.txt
    [ $? = 1 ] && [ ! -s out.txt ] && grep -q '^yolov8n.pt: ' err.txt
}
finds_objects() { # then trains for two epochs, without a word but the result
    rm -rf runs
    "$1" >"$1.txt" 2>err.txt && grep -Eq '^[a-z ]+ (0\.[0-9][0-9]|1\.00)$' "$1.txt" && [ ! -s err.txt ] &&
        grep -Eq '^mAP50 [01]\.[0-9]{3}: runs/detect/train/weights/best.pt$' "$1.txt" && [ -s runs/detect/train/weights/best.pt ]
}
check "a missing checkpoint is a sentence" fails_with_reason ./c
yolo=../../../yolo
shared=../../../../shared/data
picture=$(find $shared/coco128 -name '*.jpg' 2>/dev/null | sort | head -n 1)
if [ -x $yolo ] && $yolo demo epochs=0 pictures=12 out=drawn >/dev/null 2>&1; then
    ln -s drawn/set dataset
    if [ -f $shared/yolov8n-coco.pt ] && [ -n "$picture" ]; then cp $shared/yolov8n-coco.pt yolov8n.pt && cp "$picture" bus.jpg
    else cp ../../../weights/shapes.pt yolov8n.pt && cp drawn/held-out/00012.jpg bus.jpg; fi
    check "finds objects and trains" finds_objects ./c
    [ -x ./cpp ] && check "finds objects and trains from C++" finds_objects ./cpp
    [ -x ./cpp ] && check "C and C++ print the same" cmp ./c.txt ./cpp.txt
else skip "finds objects and trains" "no ./yolo to draw pictures with"; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
