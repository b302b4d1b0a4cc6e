"""Fine-tunes yolov8n-coco.pt on coco128 with this engine and with ultralytics 8.4.190, by the same arguments, and compares.

    PYTHON tests/oracle_finetune.py [--shared ../shared] [--yolo ./yolo] [--theirs 0,1] [--ours 0,1] [--folder DIR]

PYTHON is the one of the reference installation (shared/reference). Defaults of both but epochs=10 imgsz=320 batch=16.
ultralytics measures every best.pt, its own and ours, at 320 on the 128 pictures: the mean of ours must not be more than
0.01 mAP50-95 below the mean of theirs, what our log says of each must be that within 0.003, and ultralytics must be able
to train on from it. Its own two runs take a quarter of an hour, so their results are noted below and only repeated with
--theirs. Runs found in --folder are not repeated. Prints a line a check; exit status 1 when any failed, 77 when the oracle
or the data is not there.
"""
import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time

from checks import begin, check, end

os.environ["YOLO_OFFLINE"] = "true"
HERE = os.path.dirname(os.path.abspath(__file__))
EPOCHS, IMGSZ, BATCH = 10, 320, 16
THEIRS = [(0.5908, 0.4346), (0.6112, 0.4475)]  # mAP50, mAP50-95 of ultralytics 8.4.190 on torch 2.11.0, seeds 0 and 1


def measure(checkpoint, data, folder):
    import ultralytics
    box = ultralytics.YOLO(checkpoint).val(data=data, imgsz=IMGSZ, batch=BATCH, device="cpu", workers=0, plots=False, verbose=False,
                                           project=folder, name="val", exist_ok=True).box
    return box.map50, box.map


def rows(run):
    with open(os.path.join(run, "results.csv")) as f:
        return [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def describe(name, run, seconds):
    took = f", {seconds:.0f} s" if seconds else ""
    for row in rows(run):
        print(f"     {name} epoch {row['epoch']:2.0f}: train " + " ".join(f"{row[f'train/{k}_loss']:.4f}" for k in ("box", "cls", "dfl")) +
              " val " + " ".join(f"{row[f'val/{k}_loss']:.4f}" for k in ("box", "cls", "dfl")) +
              f" mAP50 {row['metrics/mAP50(B)']:.4f} mAP50-95 {row['metrics/mAP50-95(B)']:.4f}" + took)
        took = ""


def train_theirs(model, data, folder, seed, epochs=EPOCHS, name=None):
    import ultralytics
    run = os.path.join(folder, name or f"theirs{seed}")
    start = time.time()
    if not os.path.exists(os.path.join(run, "weights", "best.pt")):
        ultralytics.YOLO(model).train(data=data, epochs=epochs, imgsz=IMGSZ, batch=BATCH, seed=seed, device="cpu", workers=2, plots=False,
                                      verbose=False, project=folder, name=os.path.basename(run), exist_ok=True)
    return run, time.time() - start


def train_ours(yolo, model, data, folder, seed):
    run = os.path.join(folder, f"ours{seed}")
    start = time.time()
    if not os.path.exists(os.path.join(run, "weights", "best.pt")):
        subprocess.run([yolo, "train", f"model={model}", f"data={data}", f"epochs={EPOCHS}", f"imgsz={IMGSZ}", f"batch={BATCH}",
                        f"seed={seed}", f"project={folder}", f"name=ours{seed}", "exist_ok=true"], check=True)
    return run, time.time() - start


def run(options, checkpoint, folder):
    import oracle_val
    import ultralytics

    ultralytics.utils.LOGGER.setLevel("ERROR")
    model, data, pictures = (os.path.join(folder, x) for x in ("n.pt", "data.yaml", "coco128"))
    if not os.path.exists(data):
        shutil.copy(checkpoint, model)
        oracle_val.make_data(options.shared, pictures, 128)
        oracle_val.write_yaml(data, pictures, ultralytics.YOLO(model).names)
    before = measure(model, data, folder)
    print(f"     before: mAP50 {before[0]:.4f} mAP50-95 {before[1]:.4f}", flush=True)
    theirs = []
    for seed in options.theirs.split(",") if options.theirs else []:
        where, seconds = train_theirs(model, data, folder, int(seed))
        describe(f"ultralytics, seed {seed},", where, seconds)
        theirs.append(measure(os.path.join(where, "weights", "best.pt"), data, folder))
    theirs, ours = theirs or THEIRS, []
    print("     ultralytics: " + ", ".join(f"{a:.4f} {b:.4f}" for a, b in theirs), flush=True)
    for seed in options.ours.split(","):
        where, seconds = train_ours(options.yolo, model, data, folder, int(seed))
        describe(f"ours, seed {seed},", where, seconds)
        best = os.path.join(where, "weights", "best.pt")
        ours.append(measure(best, data, folder))
        said = max(row["metrics/mAP50-95(B)"] for row in rows(where))
        check(f"seed {seed} as our log has it", abs(said - ours[-1][1]) <= 0.003, f"{said:.4f}, ultralytics says {ours[-1][1]:.4f}")
    mine, mean = (sum(x[1] for x in runs) / len(runs) for runs in (ours, theirs))
    check("mean mAP50-95", mine >= mean - 0.01, f"{mine:.4f} of ours ({', '.join(f'{x[1]:.4f}' for x in ours)}) against {mean:.4f}")
    again, _ = train_theirs(best, data, folder, 0, epochs=1, name="again")
    check("trained on by ultralytics", rows(again)[0]["metrics/mAP50-95(B)"] > 0.8 * ours[-1][1], f"mAP50-95 {rows(again)[0]['metrics/mAP50-95(B)']:.4f} after an epoch")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--yolo", default=os.path.join(HERE, "..", "yolo"))
    parser.add_argument("--theirs")
    parser.add_argument("--ours", default="0,1")
    parser.add_argument("--folder")
    options, checkpoint = begin(parser, 2)
    with tempfile.TemporaryDirectory() as folder:
        if options.folder:
            os.makedirs(options.folder, exist_ok=True)
        run(options, checkpoint, os.path.realpath(options.folder or folder))
    end()


if __name__ == "__main__":
    main()
