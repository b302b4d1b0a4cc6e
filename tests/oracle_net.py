"""Compares the raw head outputs of build/test --dump-heads with torch, fp32, for every size and instruction set.

    python tests/oracle_net.py [--sizes nsmlx] [--isa portable,avx2,avx512] [--model X.pt ...] [--test build/test]

Models are made by ultralytics (and the trained one of the shared data, where it is), with batch norms that are not the identity and are calibrated on noise, so that every layer matters.
Prints a line a case; exit status 1 when a difference exceeds 1e-3 of the outputs' range.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

os.environ["YOLO_OFFLINE"] = "true"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np
import reference
import torch
from ultralytics import YOLO

LIMIT = 1e-3


def picture(height, width, seed):
    """Smooth noise in 0..1, (1,3,H,W)."""
    generator = torch.Generator().manual_seed(seed)
    x = sum(torch.nn.functional.interpolate(torch.rand(1, 3, height // k, width // k, generator=generator), (height, width),
                                            mode="bilinear") for k in (1, 4, 16, 32))
    return (x - x.min()) / (x.max() - x.min())


def make(size, path):
    """A checkpoint as ultralytics saves it."""
    torch.manual_seed(ord(size))
    yolo = YOLO(f"yolov8{size}.yaml")
    model = yolo.model.train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        model(torch.cat([picture(320, 320, i) for i in range(2)]))
        for norm in norms:
            norm.momentum = 0.03
        for branch in [*model.model[-1].cv2, *model.model[-1].cv3]:
            branch[-1].bias.normal_()
    model.eval()
    yolo.save(path)


def torch_heads(path, x):
    model = YOLO(path).model.float().eval()
    heads = []
    detect = model.model[-1]
    detect.register_forward_pre_hook(lambda m, a: heads.extend(
        torch.cat((m.cv2[i](f), m.cv3[i](f)), 1) for i, f in enumerate(a[0])))
    with torch.no_grad():
        model(x)
    return [h.permute(0, 2, 3, 1).numpy() for h in heads]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="nsmlx")
    parser.add_argument("--isa", default="portable,avx2,avx512")
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--test", default="build/test")
    options = parser.parse_args()
    failed = False
    print(f"{'model':<24} {'input':>9} {'path':>9} {'largest difference':>19} {'range':>9} {'of range':>9}")
    with tempfile.TemporaryDirectory() as folder:
        models = []
        shared = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared", "data", "yolov8n-coco.pt")
        for path in options.model or [p for p in [shared] if os.path.exists(p)]:
            models.append(shutil.copy(path, folder))  # ultralytics may write beside a model
        for size in options.sizes:
            path = os.path.join(folder, f"yolov8{size}.pt")
            make(size, path)
            models.append(path)
        for path in models:
            for height, width in (640, 640), (448, 640):
                x = picture(height, width, 99)
                want = torch_heads(path, x)
                reference.write(os.path.join(folder, "in.ref"), {"input": x.permute(0, 2, 3, 1).numpy()})
                for isa in options.isa.split(","):
                    output = os.path.join(folder, "out.ref")
                    run = subprocess.run([options.test, "--dump-heads", path, os.path.join(folder, "in.ref"), output, isa],
                                         capture_output=True, text=True)
                    if run.returncode:
                        unsupported = "this processor has no" in run.stdout
                        failed |= not unsupported
                        print(f"{os.path.basename(path):<24} {width:>4}x{height:<4} {isa:>9} {run.stdout.strip()}")
                        continue
                    have = reference.read(output)
                    worst = ratio = span = 0.0
                    for i, head in enumerate(want):
                        other = have[f"head.{i}"]
                        assert other.shape == head.shape, (other.shape, head.shape)
                        difference, reach = float(np.abs(other - head).max()), float(head.max() - head.min())
                        if not difference <= worst:
                            worst, span = difference, reach
                        ratio = max(ratio, difference / reach) if difference == difference else float("inf")
                    failed |= not ratio <= LIMIT
                    print(f"{os.path.basename(path):<24} {width:>4}x{height:<4} {isa:>9} {worst:>19.3g} {span:>9.3g} {ratio:>9.2g}"
                          f"{'' if ratio <= LIMIT else '  too large'}", flush=True)
    print("failed" if failed else f"all within {LIMIT:g} of the range")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
