#!/bin/sh
# demo.sh - the program at work, start to end, in build/demo; ./build.sh demo [MODEL.pt] builds it and calls this.
#
#   sh tests/demo.sh [MODEL.pt [PHOTOS]]     else looks in weights/, here and in ../shared/data
#
# The labelled pictures are some of ../shared/data/coco128 where it is, else drawn by tests/draw.c; PHOTOS is a folder of
# pictures to label instead of the rest of them.
set -eu
cd "$(dirname "$0")/.."
out=build/demo model=${1:-} new=build/demo/new photos=${2:-} drawn=
run() { echo; echo "\$ $*"; "$@"; }

if [ -z "$model" ]; then
    for model in weights/*.pt ./*.pt ../shared/data/yolov8n-coco.pt ''; do [ -f "$model" ] && break; done
fi
[ -z "$model" ] || [ -f "$model" ] || { echo "demo: $model: no such file" >&2; exit 1; }
rm -rf $out
mkdir -p $out/labelled $out/new
coco=../shared/data/coco128
if [ -d $coco ] && [ -n "$model" ]; then
    sed -n 's/^ *[0-9]*: *//p' $coco/data.yaml >$out/labelled/classes.txt
    count=0
    for picture in "$coco"/images/train2017/*.jpg; do # 48 labelled pictures, then 8 new ones
        count=$((count + 1))
        [ $count -le 56 ] || break
        if [ $count -gt 48 ]; then cp "$picture" $out/new/; continue; fi
        cp "$picture" $out/labelled/
        labels=$coco/labels/train2017/$(basename "$picture" .jpg).txt
        [ ! -f "$labels" ] || cp "$labels" $out/labelled/
    done
else
    "${CC:-cc}" -O1 -o build/draw tests/draw.c
    build/draw $out/labelled 24 1
    build/draw $out/new 8 2
    rm $out/new/*.txt
    drawn=1
fi
[ -z "$photos" ] || new=$photos

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
echo; echo "\$ ./yolo info $model"
./yolo info "$model" >$out/info.txt
sed -n '1,7p; /summary/p' $out/info.txt | cut -c1-100
echo; echo "3. New pictures get labels, and copies with the boxes drawn in."
run ./yolo label model="$model" source="$new" out=$out/labels
run ./yolo predict model="$model" source="$new" project=$out name=predict exist_ok=true
if [ -n "$drawn" ]; then
    [ -n "$photos" ] || echo "Those were drawn shapes, in which a model of photographs finds little: ./build.sh demo $model photos=FOLDER"
    echo; echo "Look at: $out/labels (labels), $out/predict (boxes drawn in), $out/set (data set), $out/info.txt (every layer)"
    exit 0
fi
echo; echo "4. How well does it do on pictures whose labels are known?"
run ./yolo val model="$model" data=$out/set/data.yaml
echo; echo "Look at: $out/labels (labels), $out/predict (boxes drawn in), $out/set (data set), $out/info.txt (every layer)"
