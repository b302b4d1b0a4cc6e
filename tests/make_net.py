"""Makes tests/fixtures/net.ref: raw head outputs of small YOLOv8 models in torch, double precision.

The weights are not in the file: they are drawn here as net_init_params and test_net_random_norm (tests/test_net.c) draw
them, so the reference is a few outputs only. Run where ultralytics is installed: python tests/make_net.py
"""
import os
import struct
import sys

os.environ["YOLO_OFFLINE"] = "true"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np
import reference
import torch
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML

M = (1 << 64) - 1
SEED = 7
# name, description (see test_net.c), height, width
CASES = [
    ("silu", "tiny.yaml", None, 64, 96),
    ("relu", "tiny.yaml", "nn.ReLU()", 32, 64),
    ("leakyrelu", "tiny.yaml", "torch.nn.LeakyReLU(0.1)", 32, 64),
    ("mish", "tiny.yaml", "nn.Mish()", 32, 64),
    ("odd", "odd.yaml", None, 32, 32),
]


def hash_bytes(data, seed):
    h = 0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15 & M)
    for b in data:
        h = (h ^ b) * 0x100000001B3 & M
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & M
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & M
    return h ^ h >> 33


def uniform(name, seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(hash_bytes(name.encode(), seed)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 9007199254740992.0


def fill(model):
    """Initial weights, and batch norms that are not the identity."""
    ranges = {"bn.weight": (0.7, 1.3), "bn.bias": (-0.5, 0.5), "running_mean": (-0.2, 0.2), "running_var": (0.06, 0.2)}
    state = model.state_dict()
    for name, tensor in state.items():
        kind = next((r for n, r in ranges.items() if name.endswith(n)), None)
        if kind:
            value = kind[0] + (kind[1] - kind[0]) * uniform(name, SEED, tensor.numel())
        elif name.endswith("conv.weight") and "dfl" not in name or name.endswith(".2.weight"):
            bound = 1 / np.sqrt(np.prod(tensor.shape[1:]))
            # drawn in the order in which the engine keeps weights: O,H,W,I
            o, i, r, s = tensor.shape
            value = ((2 * uniform(name, SEED, tensor.numel()) - 1) * bound).reshape(o, r, s, i).transpose(0, 3, 1, 2)
        else:
            continue
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(value.astype(np.float32))).reshape(tensor.shape))


def main():
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    arrays = {}
    for name, file, activation, height, width in CASES:
        description = YAML.load(os.path.join(here, "fixtures", "net_" + file))
        if activation:
            description["activation"] = activation
        model = DetectionModel(description, ch=3, verbose=False)
        fill(model)
        model = model.double().eval()
        x = uniform("input", SEED, height * width * 3).astype(np.float32).reshape(1, height, width, 3)
        heads = []
        detect = model.model[-1]
        detect.register_forward_pre_hook(lambda m, a: heads.extend(
            torch.cat((m.cv2[i](f), m.cv3[i](f)), 1) for i, f in enumerate(a[0])))
        with torch.no_grad():
            model(torch.from_numpy(x).permute(0, 3, 1, 2).double())
        for i, head in enumerate(heads):
            arrays[f"{name}.{i}"] = head.permute(0, 2, 3, 1).numpy()
            print(name, i, tuple(head.shape), "mean %.3g std %.3g range %.3g" % (head.mean(), head.std(), head.max() - head.min()),
                  "varies over the picture by %.3g" % head.std((2, 3)).mean())
    reference.write(os.path.join(here, "fixtures", "net.ref"), arrays)


if __name__ == "__main__":
    main()
