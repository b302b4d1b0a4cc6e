#!/bin/sh
# demo.sh - the program at work, start to end, in build/demo; ./build.sh demo builds it and calls this.
#
#   sh tests/demo.sh [MODEL.pt [PHOTOS]]     with MODEL.pt: labels PHOTOS too (else some of ../shared/data/coco128)
#
# Nothing is needed from outside: the pictures are drawn, and the network starts from random numbers.
set -eu
cd "$(dirname "$0")/.."
out=build/demo model=${1:-} photos=${2:-}
run() { echo; echo "\$ $*"; "$@"; }

[ -z "$model" ] || [ -f "$model" ] || { echo "demo: $model: no such file" >&2; exit 1; }
rm -rf $out
echo "From nothing to a detector: pictures are drawn, a network is trained on them and labels others."
run ./yolo demo out=$out

if [ -f weights/shapes.pt ]; then
    echo; echo "The weights that such a run left, as they come with the source."
    echo; echo "\$ ./yolo info weights/shapes.pt"
    ./yolo info weights/shapes.pt >$out/info.txt
    sed -n '1,7p; /summary/p' $out/info.txt | cut -c1-100
    run ./yolo val model=weights/shapes.pt data=$out/held-out/data.yaml imgsz=160
    run ./yolo predict model=weights/shapes.pt source=$out/held-out project=$out name=predict imgsz=160 verbose=false
fi
if [ -n "$model" ]; then
    coco=../shared/data/coco128/images/train2017
    [ -n "$photos" ] || [ ! -d $coco ] || photos=$coco
    [ -n "$photos" ] || { echo "demo: photos=FOLDER is missing: what shall $model label?" >&2; exit 1; }
    echo; echo "Photographs, with a model of your own."
    run ./yolo predict model="$model" source="$photos" project=$out name=photos verbose=false
fi
echo; echo "Look at: $out/labelled (boxes drawn in), $out/train (curves, sheets, weights), $out/set (data set)"
