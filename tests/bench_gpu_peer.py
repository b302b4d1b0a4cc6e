"""Measures ultralytics' models in torch on a GPU: what tests/gpu.sh sets beside `yolo bench device=0`.

    python3 tests/bench_gpu_peer.py steps SECONDS [--models n s] [--batches 16 64] [--imgsz 640]
    python3 tests/bench_gpu_peer.py latency SECONDS [--models n s]

A line a case: "torch MODEL BATCH WHAT MS". A step is ultralytics': autocast to fp16, loss, backward, unscaled and clipped gradients,
SGD, moving average. Latency is of one picture, input and output on the GPU: model fused, fp16, channels_last, launched and as a
CUDA graph. No case begins after SECONDS. Exit status 77: no torch, no ultralytics or no GPU here.
"""
import argparse
import statistics
import sys
import time

began = time.perf_counter()


def timed(torch, run, warm, repeats):
    """The median in ms, each run waited for."""
    times = []
    for i in range(warm + repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[warm:])


def step(torch, name, batch, imgsz):
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import ModelEMA

    model = DetectionModel(f"yolov8{name}.yaml", verbose=False).cuda().train()
    model.args = get_cfg()
    boxes = torch.rand(8 * batch, 4, device="cuda") * 0.2 + 0.3
    targets = {"img": torch.rand(batch, 3, imgsz, imgsz, device="cuda"), "bboxes": boxes, "cls": torch.randint(80, (8 * batch, 1), device="cuda").float(),
               "batch_idx": torch.arange(batch, device="cuda").repeat_interleave(8).float()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.937, nesterov=True)
    scaler = torch.amp.GradScaler("cuda")
    average = ModelEMA(model)

    def run():
        with torch.autocast("cuda"):
            loss = model(targets)[0].sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average.update(model)

    return timed(torch, run, 6, 10)


def latency(torch, name, imgsz):
    """Launched one by one, and recorded."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(f"yolov8{name}.yaml", verbose=False).cuda().eval().fuse(verbose=False).half().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, imgsz, imgsz, device="cuda").half().to(memory_format=torch.channels_last)
    with torch.no_grad():
        launched = timed(torch, lambda: model(image), 20, 50)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(image)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(image)
        return launched, timed(torch, graph.replay, 20, 50)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "latency"))
    parser.add_argument("seconds", type=float)
    parser.add_argument("--models", nargs="+", default=["n", "s", "m", "l", "x"])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--imgsz", type=int, default=640)
    args = parser.parse_args()
    try:
        import torch
        import ultralytics
    except ImportError as error:
        print(f"no peer to measure beside: {error}")
        sys.exit(77)
    if not torch.cuda.is_available():
        print("torch sees no GPU")
        sys.exit(77)
    torch.backends.cudnn.benchmark = True
    print(f"# torch {torch.__version__}, ultralytics {ultralytics.__version__}, {torch.cuda.get_device_name()}", flush=True)
    cases = [(name, batch) for name in args.models for batch in (args.batches if args.what == "steps" else [1])]
    for name, batch in cases:
        if time.perf_counter() - began > args.seconds:
            print(f"skip torch {name} {batch}: no time is left of {args.seconds:.0f} s", flush=True)
            continue
        try:
            if args.what == "steps":
                print(f"torch {name} {batch} step {step(torch, name, batch, args.imgsz):.3f}", flush=True)
            else:
                for what, ms in zip(("launched", "recorded"), latency(torch, name, args.imgsz)):
                    print(f"torch {name} {batch} {what} {ms:.3f}", flush=True)
        except RuntimeError as error:  # out of memory, or what a graph cannot record
            print(f"skip torch {name} {batch}: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
