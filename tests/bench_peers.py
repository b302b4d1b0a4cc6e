"""Measures `yolo` beside the engines people could pick instead, in one run, and prints a Markdown table.

    PYTHON tests/bench_peers.py --yolo ./yolo --weights DIR [--models n s] [--threads 2] [--imgsz 640] [--rounds 8]
    PYTHON tests/bench_peers.py --yolo ./yolo --weights DIR --label ../shared/data/coco128/images/train2017

PYTHON is one that has onnxruntime, openvino, ncnn, ultralytics and torch. DIR holds (or gets) yolov8n.pt, yolov8s.pt and
what ultralytics exports from them. Rounds alternate between the engines, so that a slow minute of the machine hits all of
them; the median over rounds of each round's median is reported. All engines compute in fp32 (OpenVINO is told so: on
processors with bf16 instructions it would round to bf16 otherwise).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")
HERE = pathlib.Path(__file__).resolve().parent


def export(weights, model, imgsz):
    """The .onnx and ncnn files of a model, made once."""
    from ultralytics import YOLO

    pt = weights / f"yolov8{model}.pt"
    if not pt.exists():
        YOLO(f"yolov8{model}.yaml").save(str(pt))
    onnx, ncnn = pt.with_suffix(".onnx"), weights / f"yolov8{model}_ncnn_model"
    if not onnx.exists():
        YOLO(str(pt)).export(format="onnx", imgsz=imgsz, opset=17, simplify=False, dynamic=False)
    return pt, onnx, ncnn if ncnn.exists() else None


def timed(run, repeats):
    run()
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def one_peer(name, pt, onnx, ncnn, imgsz, threads, repeats):
    """Runs in a process of its own, so that no engine's idle threads disturb another's."""
    import numpy as np

    x = np.random.default_rng(0).random((1, 3, imgsz, imgsz), dtype=np.float32)
    if name == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        return timed(lambda: session.run(None, {session.get_inputs()[0].name: x}), repeats)
    if name == "openvino":
        import openvino as ov

        compiled = ov.Core().compile_model(onnx, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
        request = compiled.create_infer_request()
        return timed(lambda: request.infer({0: x}), repeats)
    if name == "ncnn":
        import ncnn as engine

        net = engine.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        net.load_param(str(pathlib.Path(ncnn) / "model.ncnn.param"))
        net.load_model(str(pathlib.Path(ncnn) / "model.ncnn.bin"))
        mat = engine.Mat(x[0])

        def run():
            with net.create_extractor() as extractor:
                extractor.input("in0", mat)
                extractor.extract("out0")
        return timed(run, repeats)
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(threads)
    network = YOLO(pt).model.float().eval().fuse(verbose=False).to(memory_format=torch.channels_last)
    image = torch.from_numpy(x).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return timed(lambda: network(image), repeats)


def ours(yolo, pt, imgsz, threads, repeats):
    out = subprocess.run([yolo, "bench", f"model={pt}", f"imgsz={imgsz}", "batch=1", "device=cpu", f"threads={threads}",
                          f"repeats={repeats}"], capture_output=True, text=True, check=True).stdout
    head, row = (line.split("  ") for line in out.splitlines()[:2])
    return float([cell for cell in row if cell][[cell for cell in head if cell].index("median ms")])


def forward_table(args):
    print(f"| model | " + " | ".join(["yolo", "onnxruntime", "openvino", "ncnn", "torch"]) + " | best peer / yolo |")
    print("|---|---|---|---|---|---|---|")
    for model in args.models:
        pt, onnx, ncnn = export(args.weights, model, args.imgsz)
        peers = ["onnxruntime", "openvino"] + (["ncnn"] if ncnn else []) + ["torch"]
        times = {name: [] for name in ["yolo"] + peers}
        for _ in range(args.rounds):
            times["yolo"].append(ours(args.yolo, pt, args.imgsz, args.threads, args.repeats))
            for name in peers:
                command = [sys.executable, __file__, "--peer", name, "--files", str(pt), str(onnx), str(ncnn), "--imgsz",
                           str(args.imgsz), "--threads", str(args.threads), "--repeats", str(args.repeats)]
                out = subprocess.run(command, capture_output=True, text=True)
                if out.returncode:
                    print(f"{name}: {out.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                else:
                    times[name].append(json.loads(out.stdout.strip().splitlines()[-1]))
        median = {name: statistics.median(t) if t else float("nan") for name, t in times.items()}
        best = min(t for name, t in median.items() if name != "yolo" and t == t)
        cells = [f"{median[n]:.1f} ms" if median.get(n, float("nan")) == median.get(n) else "-"
                 for n in ["yolo", "onnxruntime", "openvino", "ncnn", "torch"]]
        print(f"| yolov8{model} | " + " | ".join(cells) + f" | {best / median['yolo']:.2f} x |", flush=True)


def label_table(args):
    """Folder to label files: ours against ultralytics predict save_txt, img/s by wall clock without start-up for ours too."""
    import shutil
    import tempfile

    pt = export(args.weights, "n", args.imgsz)[0]
    count = sum(1 for p in pathlib.Path(args.label).rglob("*") if p.suffix.lower() in (".jpg", ".png", ".jpeg", ".bmp"))
    rates = {"yolo": [], "ultralytics": []}
    cold = []
    picture = next(iter(sorted(pathlib.Path(args.label).glob("*.jpg"))))
    peer = ("import sys, time; from ultralytics import YOLO; import torch; torch.set_num_threads(int(sys.argv[3])); m = YOLO(sys.argv[1]); "
            "list(m.predict(sys.argv[4], stream=True, verbose=False)); t = time.perf_counter(); "
            "n = sum(1 for _ in m.predict(sys.argv[2], stream=True, save_txt=True, project=sys.argv[5], name='p', exist_ok=True, verbose=False, device='cpu')); "
            "print(n / (time.perf_counter() - t))")
    for _ in range(args.rounds):
        out = tempfile.mkdtemp()
        start = time.perf_counter()
        subprocess.run([args.yolo, "label", f"model={pt}", f"source={args.label}", f"out={out}", f"threads={args.threads}"], check=True,
                       capture_output=True)
        rates["yolo"].append(count / (time.perf_counter() - start))  # start-up counted against us
        shutil.rmtree(out)
        run = subprocess.run([sys.executable, "-c", peer, str(pt), args.label, str(args.threads), str(picture), out], capture_output=True, text=True)
        rates["ultralytics"].append(float(run.stdout.strip().splitlines()[-1]))
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run([args.yolo, "label", f"model={pt}", f"source={picture}", f"out={out}", f"threads={args.threads}"], check=True,
                       capture_output=True)
        cold.append(time.perf_counter() - start)
        shutil.rmtree(out)
    a, b = statistics.median(rates["yolo"]), statistics.median(rates["ultralytics"])
    print(f"\n| label a folder ({count} pictures, yolov8n) | img/s |\n|---|---|\n| yolo | {a:.1f} |\n| ultralytics predict | {b:.1f} |")
    print(f"| ratio | {a / b:.2f} x |\n| yolo, one picture, process start to label file | {min(cold) * 1e3:.0f}-{statistics.median(cold) * 1e3:.0f} ms |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yolo", default=str(HERE.parent / "yolo"))
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=["n", "s"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--label")
    parser.add_argument("--peer")
    parser.add_argument("--files", nargs=3)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(one_peer(args.peer, *args.files, args.imgsz, args.threads, args.repeats)))
    elif args.label:
        label_table(args)
    else:
        forward_table(args)


if __name__ == "__main__":
    main()
