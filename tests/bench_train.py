"""Measures training beside ultralytics in one run, from picture files to weights, and prints a Markdown table.

    PYTHON tests/bench_train.py --yolo ./yolo --model yolov8n.pt --data ../shared/data/coco128 [--imgsz 640] [--batch 16]
        [--epochs 2] [--threads 2] [--rounds 2] [--close_mosaic 0]

PYTHON is one that has ultralytics and torch. Both train the same checkpoint on a copy of the same pictures with the default
augmentation (mosaics in all epochs but the last --close_mosaic), fp32, without validation and charts; ultralytics with as many
loader workers as it likes. Rounds alternate. Pictures a second are those of the epochs alone, loading included: start-up counts
for neither. Peak memory is the process's (for ultralytics without its loader processes). The loader alone is ours, with as many
threads, mosaics, and nothing that uses its batches (tests/tool_train.c, compiled for it): an epoch that decodes, and the median
of those that find decoded pictures.
"""
import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")


def peer(args):
    """In a process of its own: trains with ultralytics and prints pictures a second of the epochs."""
    import time

    import torch
    from ultralytics import YOLO

    torch.set_num_threads(args.threads)
    spent, began = [], [0.0]
    model = YOLO(args.model)
    model.add_callback("on_train_epoch_start", lambda trainer: began.__setitem__(0, time.perf_counter()))
    model.add_callback("on_train_epoch_end", lambda trainer: spent.append(time.perf_counter() - began[0]))
    model.train(data=args.data, imgsz=args.imgsz, batch=args.batch, epochs=args.epochs, amp=False, val=False, plots=False, device="cpu",
                close_mosaic=args.close_mosaic, project=args.work, name="peer", exist_ok=True)
    pictures = sum(1 for _ in (pathlib.Path(args.work) / "set" / "images").rglob("*.jpg"))
    print("RATE", pictures * len(spent) / sum(spent))


def run(command, pattern):
    """The number that `pattern` finds in the output, and the peak memory in GiB."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    found = re.findall(pattern, text)
    if status or not found:
        sys.exit(f"{command[0]} failed:\n{text[-3000:]}")
    return float(found[-1]), usage.ru_maxrss / 2**20


def load(args, data, work):
    """Pictures a second of our loader alone: (decoding, from decoded pictures)."""
    tool = f"{work}/tool_train"
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-O3", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA", "-o", tool,
                    pathlib.Path(__file__).with_name("tool_train.c"), "-lm", "-lpthread", "-ldl"], check=True)
    done = subprocess.run([tool, "load", data, *map(str, (args.imgsz, args.batch, args.threads, 12))], capture_output=True, text=True)
    rates = [float(rate) for rate in re.findall(r"epoch \d+: (\S+) img/s", done.stdout)]
    if done.returncode:
        sys.exit(f"tool_train load failed:\n{done.stderr}")
    return rates[0], statistics.median(rates[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--yolo", default="./yolo")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="a folder with images/ and labels/ of COCO's classes")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    for name, value in (("imgsz", 640), ("batch", 16), ("epochs", 2), ("threads", 2), ("rounds", 2), ("close_mosaic", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.peer:
        peer(args)
        return
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(args.data, f"{work}/set")
        shutil.copy(args.model, f"{work}/model.pt")
        yaml = f"{work}/data.yaml"
        names = "".join(f"  {i}: c{i}\n" for i in range(80))
        pathlib.Path(yaml).write_text(f"path: {work}/set\ntrain: images\nval: images\nnames:\n{names}", encoding="utf-8")
        shared = ["--imgsz", args.imgsz, "--batch", args.batch, "--epochs", args.epochs, "--threads", args.threads,
                  "--close_mosaic", args.close_mosaic]
        theirs = [sys.executable, __file__, "--peer", "--model", f"{work}/model.pt", "--data", yaml, "--work", work, *map(str, shared)]
        ours = [args.yolo, "train", f"model={work}/model.pt", f"data={yaml}", f"imgsz={args.imgsz}", f"batch={args.batch}", f"epochs={args.epochs}",
                f"threads={args.threads}", "val=false", "plots=false", f"close_mosaic={args.close_mosaic}", f"project={work}", "name=ours", "exist_ok=true",
                "progress=none"]
        results = {"yolo": [], "ultralytics": []}
        for round_number in range(args.rounds):
            results["yolo"].append(run(ours, r"(?m)^ +\d+/\d+ .* (\d+\.\d) +\S+(?: s)?$"))
            results["ultralytics"].append(run(theirs, r"RATE (\S+)"))
            print(f"round {round_number + 1}: " + ", ".join(f"{name} {rows[-1][0]:.2f} img/s" for name, rows in results.items()), file=sys.stderr)
        print(f"| train, {args.imgsz}, batch {args.batch}, {args.threads} threads | img/s | peak memory |\n|---|---|---|")
        for name, rows in results.items():
            print(f"| {name} | {statistics.median(r[0] for r in rows):.2f} | {max(r[1] for r in rows):.1f} GiB |")
        ours_rate, their_rate = (statistics.median(r[0] for r in results[name]) for name in ("yolo", "ultralytics"))
        print(f"| ratio | {ours_rate / their_rate:.2f} x | |")
        for name, rate in zip(("decoding", "pictures decoded"), load(args, yaml, work)):
            print(f"| yolo's loader alone, {name} | {rate:.0f} ({rate / ours_rate:.0f} x its training) | |")


if __name__ == "__main__":
    main()
