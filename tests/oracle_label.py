"""What `label also=coco,csv,voc` writes, read by those whose formats they are.

    PYTHON tests/oracle_label.py [--shared ../shared] [--yolo ./yolo]

PYTHON is the one of the reference installation (shared/reference). pycocotools loads labels.coco.json and finds its
boxes to be perfect detections of themselves; ultralytics reads the .txt of each picture as the same boxes; the .xml has
them too, within half a pixel.
Prints a line a check; exit status 1 when any failed, 77 when the oracle or the data is not there.
"""
import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from checks import check, end

os.environ["YOLO_OFFLINE"] = "true"
HERE = os.path.dirname(os.path.abspath(__file__))


def compare_coco(sure, path, pictures):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with open(sure, encoding="utf-8") as file:
        whole = json.load(file)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        found = truth.loadRes([{k: a[k] for k in ("image_id", "category_id", "bbox", "score")} for a in whole["annotations"]])
        judge = COCOeval(truth, found, "bbox")
        judge.params.maxDets = [1, 100, 1000]
        judge.evaluate()
        judge.accumulate()
        precision = judge.eval["precision"][:, :, :, 0, -1]
    mean = precision[precision > -1].mean()
    check("pycocotools", len(truth.imgs) == pictures and len(truth.anns) == len(whole["annotations"]) > pictures and mean > 0.9999,
          f"{len(truth.imgs)} pictures, {len(truth.anns)} boxes, {len(truth.cats)} classes; AP of themselves {mean:.6f}")
    return truth


def compare_lines(truth, folder):
    from ultralytics.data.utils import verify_image_label

    worst = worst_pixel = 0.0
    count = 0
    for image in truth.imgs.values():
        picture = os.path.join(folder, image["file_name"])
        stem = os.path.splitext(picture)[0]
        _, theirs, _, _, _, missing, _, _, corrupt, message = verify_image_label((picture, stem + ".txt", "", False, 80, 0, 0, False))
        assert not missing and not corrupt, message
        boxes = truth.imgToAnns[image["id"]]
        objects = xml.etree.ElementTree.parse(stem + ".xml").getroot().findall("object")
        assert len(theirs) == len(boxes) == len(objects), picture
        for row, box, found in zip(theirs, boxes, objects):
            x, y, w, h = (float(v) for v in row[1:])
            corners = [(x - w / 2) * image["width"], (y - h / 2) * image["height"], (x + w / 2) * image["width"], (y + h / 2) * image["height"]]
            left, top, width, height = box["bbox"]
            assert int(row[0]) + 1 == box["category_id"] and found.find("name").text == truth.cats[box["category_id"]]["name"]
            worst = max([worst, *(abs(a - b) for a, b in zip(corners, [left, top, left + width, top + height]))])
            pixels = [int(found.find("bndbox").find(k).text) for k in ("xmin", "ymin", "xmax", "ymax")]
            worst_pixel = max([worst_pixel, *(abs(a + d - b) for a, b, d in zip(corners, pixels, (1, 1, 0, 0)))])
            count += 1
    check("ultralytics' labels", worst < 0.01, f"{count} boxes, at most {worst:.4f} pixels from the COCO file's")
    check("Pascal VOC", worst_pixel <= 0.51, f"at most {worst_pixel:.2f} pixels from whole numbers counted from 1")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", default=os.path.join(HERE, "..", "..", "shared"))
    parser.add_argument("--yolo", default=os.path.join(HERE, "..", "yolo"))
    options = parser.parse_args()
    checkpoint = os.path.join(options.shared, "data", "yolov8n-coco.pt")
    source = os.path.join(options.shared, "data", "coco128", "images", "train2017")
    try:
        import pycocotools  # noqa: F401
        import ultralytics  # noqa: F401
    except ImportError:
        print("no pycocotools or ultralytics in this Python")
        sys.exit(77)
    if not os.path.exists(checkpoint) or not os.path.isdir(source):
        print(f"no {checkpoint} or {source}")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as scratch:
        folder = os.path.join(scratch, "사진")
        os.makedirs(folder)
        for name in sorted(os.listdir(source))[:48]:
            shutil.copy(os.path.join(source, name), os.path.join(folder, "가 " + name))
        command = [options.yolo, "label", f"model={checkpoint}", f"source={folder}", "imgsz=320", "conf=0.1", "also=coco,voc,csv", "rename=person:사람"]
        for more in ([], ["save_conf=true", f"out={scratch}/sure"]):
            subprocess.run(command + more, check=True, stdout=subprocess.DEVNULL)
        compare_lines(compare_coco(f"{scratch}/sure/labels.coco.json", f"{folder}/labels.coco.json", 48), folder)
    end()


if __name__ == "__main__":
    main()
