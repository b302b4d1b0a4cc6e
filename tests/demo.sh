#!/bin/sh
# demo.sh - the program at work, start to end, in build/demo; ./build.sh demo [MODEL.pt] builds it and calls this.
#
#   sh tests/demo.sh [MODEL.pt]     else looks in weights/, here and in ../shared/data
#
# Pictures: some of ../shared/data/coco128 where it is, else drawn by tests/draw.c.
set -eu
cd "$(dirname "$0")/.."
out=build/demo model=${1:-}
run() { echo; echo "\$ $*"; "$@"; }

if [ -z "$model" ]; then
    for model in weights/*.pt ./*.pt ../shared/data/yolov8n-coco.pt ''; do [ -f "$model" ] && break; done
fi
[ -z "$model" ] || [ -f "$model" ] || { echo "demo: $model: no such file" >&2; exit 1; }
rm -rf $out
mkdir -p $out/labelled $out/new
photos=../shared/data/coco128
if [ -d $photos ] && [ -n "$model" ]; then
    sed -n 's/^ *[0-9]*: *//p' $photos/data.yaml >$out/labelled/classes.txt
    count=0
    for picture in "$photos"/images/train2017/*.jpg; do # 24 labelled pictures, then 8 new ones
        count=$((count + 1))
        [ $count -le 32 ] || break
        if [ $count -gt 24 ]; then cp "$picture" $out/new/; continue; fi
        cp "$picture" $out/labelled/
        labels=$photos/labels/train2017/$(basename "$picture" .jpg).txt
        [ ! -f "$labels" ] || cp "$labels" $out/labelled/
    done
else
    "${CC:-cc}" -O1 -o build/draw tests/draw.c
    build/draw $out/labelled 24 1
    build/draw $out/new 8 2
    rm $out/new/*.txt
fi

echo "1. Labelled pictures become a data set."
run ./yolo prepare source=$out/labelled classes=$out/labelled/classes.txt val=50 out=$out/set
if [ -z "$model" ]; then
    echo; echo "No checkpoint was found, so nothing can be labelled: give one (./build.sh demo yolov8n.pt) or put one into weights/."
    echo; echo "2. The network as it starts out."
    run ./yolo info yolov8n.yaml
    run ./yolo bench model=yolov8n.yaml imgsz=320
    exit 0
fi
echo; echo "2. What is in the checkpoint; nothing in it is run."
./yolo info "$model" >$out/info.txt
run sh -c "./yolo info '$model' | tail -n 12"
echo; echo "3. New pictures get labels, and copies with the boxes drawn in."
run ./yolo label model="$model" source=$out/new out=$out/labels
run ./yolo predict model="$model" source=$out/new project=$out name=predict exist_ok=true
echo; echo "4. How well does it do on pictures whose labels are known?"
run ./yolo val model="$model" data=$out/set/data.yaml
echo; echo "Look at: $out/labels (labels), $out/predict (boxes drawn in), $out/set (data set), $out/info.txt (every layer)"
