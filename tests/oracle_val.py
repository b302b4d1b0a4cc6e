"""Compares val and predict with ultralytics 8.4.190 and pycocotools on the same files.

    PYTHON tests/oracle_val.py [--shared ../shared] [--tool FILE] [--pictures 128]

PYTHON is the one of the reference installation (shared/reference); without --tool, tests/tool_val.c is built.
What must hold with batch 16, the default: mAP50 and mAP50-95 within 0.005, P and R
within 0.02, of all and, per class, as the mean of the differences (a class with three objects jumps by thirds);
pycocotools on the exported predictions within 0.005 of our mAP; of ultralytics' boxes at conf >= 0.30 at least 99 % with
a twin (same class, IoU >= 0.97, confidence within 0.02), and at most 1 % of ours without one.
What must hold with batch 1 (numpy sorts pictures of equal shape into larger batches in an order of its own, which
decides what rectangle they are padded to): the same within 0.0005, every class within 0.01.
Prints a line a check; exit status 1 when any failed, 77 when the oracle or the data is not there.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

from checks import begin, check, end

os.environ["YOLO_OFFLINE"] = "true"
HERE = os.path.dirname(os.path.abspath(__file__))


def lines(command):
    return [x.split() for x in subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()]


def make_data(shared, folder, count):
    """A copy of the first `count` pictures of coco128, because ultralytics writes a cache beside the labels."""
    source = os.path.join(shared, "data", "coco128")
    pictures = sorted(os.listdir(os.path.join(source, "images", "train2017")))[:count]
    for kind in "images", "labels":
        os.makedirs(os.path.join(folder, kind, "train2017"))
    for name in pictures:
        label = os.path.splitext(name)[0] + ".txt"
        shutil.copy(os.path.join(source, "images", "train2017", name), os.path.join(folder, "images", "train2017"))
        if os.path.exists(os.path.join(source, "labels", "train2017", label)):
            shutil.copy(os.path.join(source, "labels", "train2017", label), os.path.join(folder, "labels", "train2017"))
    return [os.path.join(folder, "images", "train2017", name) for name in pictures]


def write_yaml(path, folder, names):
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"path: {folder}\ntrain: images/train2017\nval: images/train2017\nnames:\n")
        f.writelines(f"  {i}: {name}\n" for i, name in names.items())


def compare_val(name, metrics, rows, tolerances, each=None):
    """`each`: the largest difference of any class; None = only their mean counts."""
    ours = {int(r[0]): [float(x) for x in r[1:]] for r in rows}
    box, everything = metrics.box, ours.pop(-1)
    labels = ["precision", "recall", "mAP50", "mAP50-95"]
    for label, mine, theirs, tolerance in zip(labels, everything[2:], box.mean_results(), tolerances):
        check(f"{name} {label}", abs(mine - theirs) <= tolerance, f"{mine:.5f} against {theirs:.5f}")
    theirs = {int(c): (metrics.nt_per_image[c], metrics.nt_per_class[c], *metrics.class_result(i)) for i, c in enumerate(metrics.ap_class_index)}
    check(f"{name} classes", ours.keys() == theirs.keys(), f"{len(ours)} against {len(theirs)}")
    counts = all(tuple(ours[c][:2]) == tuple(theirs[c][:2]) for c in theirs)
    check(f"{name} images and instances", counts and everything[1] == metrics.nt_per_class.sum(), f"{everything[1]:.0f} instances")
    for k, (label, tolerance) in enumerate(zip(labels, tolerances)):
        apart = {c: abs(ours[c][2 + k] - theirs[c][2 + k]) for c in theirs}
        worst = max(apart, key=apart.get)
        far = sum(d > tolerance for d in apart.values())
        good = sum(apart.values()) / len(apart) <= tolerance and (each is None or apart[worst] <= each)
        check(f"{name} {label} per class", good,
              f"mean difference {sum(apart.values()) / len(apart):.5f}, {far} of {len(apart)} classes above {tolerance}, worst {apart[worst]:.5f} (class {worst})")
    return everything


def compare_coco(pictures, json_path, everything):
    """Ground truth of the label files in COCO form, judged by pycocotools."""
    import contextlib
    import io

    import cv2
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = {"images": [], "annotations": [], "categories": [{"id": i + 1} for i in range(80)]}
    for path in pictures:
        stem = os.path.splitext(os.path.basename(path))[0]
        h, w = cv2.imread(path).shape[:2]
        truth["images"].append({"id": int(stem), "width": w, "height": h})
        label = path.replace("images", "labels").replace(".jpg", ".txt")
        for row in sorted({tuple(map(float, x.split())) for x in open(label)}) if os.path.exists(label) else []:
            c, x, y, bw, bh = row
            box = [(x - bw / 2) * w, (y - bh / 2) * h, bw * w, bh * h]
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": int(stem), "category_id": int(c) + 1,
                                         "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(json.load(open(json_path))), "bbox")
        judge.params.maxDets = [1, 10, 300]
        judge.evaluate()
        judge.accumulate()
        precision = judge.eval["precision"][:, :, :, 0, 2]  # level, recall, class
    present = precision[0, 0] > -1
    for label, theirs, mine in (("mAP50", precision[0][:, present].mean(), everything[4]), ("mAP50-95", precision[:, :, present].mean(), everything[5])):
        check(f"pycocotools {label}", abs(mine - theirs) <= 0.005, f"{mine:.5f} against {theirs:.5f}")


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both + 1e-9)


def without_twin(boxes, others):
    """Boxes (class, confidence, corners) with no partner among `others`, each of which is used once."""
    others, lonely = list(others), []
    for c, conf, xyxy in boxes:
        found = [o for o in others if o[0] == c and abs(o[1] - conf) <= 0.02 and overlap(o[2], xyxy) >= 0.97]
        if found:
            others.remove(max(found, key=lambda o: overlap(o[2], xyxy)))
        else:
            lonely.append((c, conf, xyxy))
    return lonely


def compare_predict(model, pictures, rows, conf):
    ours = [[] for _ in pictures]
    for r in rows:
        ours[int(r[0])].append((int(r[1]), float(r[2]), [float(x) for x in r[3:]]))
    total = missing = mine = extra = 0
    low = 0.02  # a partner may lie just below the threshold on the other side
    for path, boxes in zip(pictures, ours):
        result = model.predict(path, conf=conf - low, device="cpu", verbose=False)[0].boxes
        theirs = list(zip(result.cls.int().tolist(), result.conf.tolist(), result.xyxy.tolist()))
        total += sum(b[1] >= conf for b in theirs)
        mine += sum(b[1] >= conf for b in boxes)
        missing += len(without_twin([b for b in theirs if b[1] >= conf], boxes))
        extra += len(without_twin([b for b in boxes if b[1] >= conf], theirs))
    check("predict: ultralytics' boxes with a twin", missing <= 0.01 * total, f"{total - missing} of {total} at conf >= {conf}")
    check("predict: boxes of our own", extra <= 0.01 * total, f"{extra} of {mine}")


def build_tool(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-O2", "-w", "-DYOLO_NO_CUDA", os.path.join(HERE, "tool_val.c"),
                    "-o", path, "-lm", "-lpthread", "-ldl"], check=True)


def run(options, tool, checkpoint, folder):
    import ultralytics

    def theirs(batch):
        return ultralytics.YOLO(copy).val(data=data, device="cpu", plots=False, verbose=False, project=folder, workers=0, batch=batch)

    pictures = make_data(options.shared, os.path.join(folder, "coco128"), options.pictures)
    copy, data, exported = (os.path.join(folder, x) for x in ("n.pt", "data.yaml", "predictions.json"))
    shutil.copy(checkpoint, copy)
    model = ultralytics.YOLO(copy)
    write_yaml(data, os.path.join(folder, "coco128"), model.names)
    rows = lines([tool, copy, "val", data, exported])
    same = [lines([tool, copy, "val", data, exported, threads]) == rows for threads in "13"]
    check("val whatever the threads", all(same), "the same digits with 1 and 3")
    compare_coco(pictures, exported, compare_val("val", theirs(16), rows, [0.02, 0.02, 0.005, 0.005]))
    compare_predict(model, pictures, lines([tool, copy, "predict", "0.28", *pictures]), 0.30)
    compare_val("batch 1", theirs(1), lines([tool, copy, "val", data, exported, "0", "1"]), [0.0005] * 4, 0.01)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool")
    parser.add_argument("--pictures", type=int, default=128)
    options, checkpoint = begin(parser, 2)
    tool = options.tool or os.path.join(HERE, "..", "build", "tool_val")
    if not options.tool:
        build_tool(tool)
    with tempfile.TemporaryDirectory() as folder:
        run(options, tool, checkpoint, os.path.realpath(folder))
    end()


if __name__ == "__main__":
    main()
