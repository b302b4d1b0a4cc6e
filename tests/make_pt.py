"""Makes tests/fixtures/pt_*: small checkpoints with torch and ultralytics, pickles of every protocol. Needs the oracle.

The weights are a formula that test_pt.c knows: element i (in O,I,H,W order) of row j of the state dict is
((7 i + 13 j) mod 31 - 15) / 16, exact in fp16; counts of batches are j. So the files deflate to almost nothing.
"""
import datetime
import io
import os
import pathlib
import pickle
import sys
import zipfile

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(__file__))
import reference

os.environ["YOLO_OFFLINE"] = "true"
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace

fixtures = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")

TINY = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 2, "C2f", [8, True]], [-1, 1, "Conv", [16, 3, 2]],
                 [-1, 1, "SPPF", [16, 5]]],
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 2], 1, "Concat", [1]], [-1, 1, "C2f", [8]], [[7], 1, "Detect", ["nc"]]],
}


def fill(state):
    for j, (name, t) in enumerate(state.items()):
        if name.endswith("num_batches_tracked"):
            t.fill_(j)
        elif name.endswith("dfl.conv.weight"):
            pass
        else:
            i = torch.arange(t.numel(), dtype=torch.int64)
            t.copy_((((7 * i + 13 * j) % 31 - 15).float() / 16).view(t.shape))


def save(path, value, deflate=True):
    """torch.save, its entries deflated afterwards (but some small ones), every other one with zip64 fields."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    if not deflate:
        open(path, "wb").write(buffer.getvalue())
        return
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for i, item in enumerate(source.infolist()):
            info = zipfile.ZipInfo(item.filename)
            info.compress_type = zipfile.ZIP_STORED if i % 5 == 4 and item.file_size < 1000 else zipfile.ZIP_DEFLATED
            with target.open(info, "w", force_zip64=i % 2 == 1) as f:
                f.write(source.read(item))


def tiny(activation=None, nc=2):
    torch.manual_seed(0)
    model = DetectionModel(dict(TINY, nc=nc, **({"activation": activation} if activation else {})), verbose=False).eval()
    fill(model.state_dict())
    model.names = {0: "cat", 1: "개", 2: "line\nbreak"}
    model.names = {i: model.names[i] for i in range(nc)}
    model.args = IterableSimpleNamespace(**vars(DEFAULT_CFG))
    return model


def training():
    """As a trainer's last.pt: EMA, optimizer, name spaces, paths, numpy scalars, shared and cyclic objects."""
    model = tiny("torch.nn.LeakyReLU(0.1)").half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    arguments = dict(vars(model.args), data=pathlib.PurePosixPath("/data/개/data.yaml"), device=torch.device("cpu"), epochs=100)
    cycle = {}
    cycle["self"] = cycle
    return {"epoch": 3, "best_fitness": np.float64(0.5), "model": None, "ema": model, "updates": 7, "optimizer": optimizer.state_dict(),
            "scaler": {}, "train_args": arguments, "train_metrics": {"fitness": np.float32(0.25), "shape": torch.Size([1, 2])},
            "date": datetime.datetime(2026, 1, 2, 3, 4, 5).isoformat(), "version": "8.4.190", "cycle": cycle}


def fused():
    model = tiny("nn.Mish()", 3)
    model.fuse(verbose=False)
    fill(model.state_dict())
    return {"model": model.half(), "train_args": {}, "version": "8.1.0"}


def state_dict():
    from ultralytics.nn.tasks import yaml_model_load
    model = DetectionModel(dict(yaml_model_load("yolov8n.yaml"), scales={"n": [0.33, 0.0625, 512]}), nc=3, verbose=False)
    fill(model.state_dict())
    return {"module." + k: v.bfloat16() if v.is_floating_point() else v.int() for k, v in model.state_dict().items()}


def tensors():
    base = torch.arange(24, dtype=torch.float32).view(2, 3, 4)
    weight = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).view(2, 3, 2, 2)
    half = (torch.arange(40) - 20).half() / 8
    values = {
        "base": base, "shared": base[1], "transposed": base.permute(2, 0, 1), "slice": base[:, 1:, ::2], "expanded": base[0, 0].expand(3, 4),
        "channels_last": weight.to(memory_format=torch.channels_last), "weight": weight, "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3),
        "half": half[3:30:3], "parameter": torch.nn.Parameter(half[:6].view(2, 3)), "bfloat": (torch.arange(9) / 4).bfloat16(),
        "double": torch.arange(5, dtype=torch.float64) / 3, "int64": torch.arange(-2, 3), "int32": torch.arange(-2, 3, dtype=torch.int32),
        "int16": torch.arange(-2, 3, dtype=torch.int16), "int8": torch.arange(-2, 3, dtype=torch.int8),
        "uint8": torch.arange(250, 256, dtype=torch.uint8), "bool": torch.tensor([True, False, True]),
    }
    save(f"{fixtures}/pt_tensors.pt", values, deflate=False)
    reference.write(f"{fixtures}/pt_tensors.ref", {k: v.detach().float().numpy() for k, v in values.items()})
    save(f"{fixtures}/pt_uint16.pt", {"short": torch.arange(4).to(torch.uint16)}, deflate=False)


def pickles():
    """One value in every protocol, and bytes that use all kinds of deflate blocks."""
    shared = ["twice"]
    value = {"none": None, "truth": True, "lie": False, "ints": [0, 255, 65535, -1, 2**31 - 1, -2**31, 2**40, -2**63],
             "floats": [0.5, -1e300, 1e-5], "text": "a'b\"c\\d\te\n", "korean": "한글 \U0001f600", "pair": (1, 2), "three": (1, 2, 3), "four": (1, 2, 3, 4),
             "empty": [[], (), {}], "shared": [shared, shared], 7: "seven", "set": {5}, "path": pathlib.PurePosixPath("/a/b"),
             "numpy": [np.float64(0.25), np.int32(-7), np.bool_(True), np.float32(1.5)], "many": list(range(1200))}
    import zlib
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    plain = noise[:700] + b"abcabcabcd" * 4000 + noise
    with zipfile.ZipFile(f"{fixtures}/pt_pickles.zip", "w", zipfile.ZIP_DEFLATED) as f:
        for protocol in range(6):
            f.writestr(f"p{protocol}", pickle.dumps(value, protocol))
        for name, level, strategy in [("fixed", 9, zlib.Z_FIXED), ("huffman", 9, zlib.Z_HUFFMAN_ONLY), ("stored", 0, 0), ("best", 9, 0), ("fast", 1, 0)]:
            c = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
            half = len(plain) // 2
            packed = c.compress(plain[:half]) + c.flush(zlib.Z_FULL_FLUSH) + c.compress(plain[half:]) + c.flush()
            f.writestr(f"raw_{name}", packed)
        f.writestr("plain", plain)


save(f"{fixtures}/pt_training.pt", training())
save(f"{fixtures}/pt_fused.pt", fused())
save(f"{fixtures}/pt_dict.pt", state_dict())
tensors()
pickles()
for name in sorted(os.listdir(fixtures)):
    if name.startswith("pt_"):
        print(name, os.path.getsize(f"{fixtures}/{name}"))
