"""Makes tests/fixtures/*.webp, small files over what the format has, and webp.ref: what libwebp reads from them.

    python tests/make_webp.py        run by hand; wants cwebp, dwebp, webpmux (Debian: webp), libwebp.so.7 and numpy

A row of webp.ref: width, height and checksum of the pixels (as tests/test_img.c makes it), checksum of the opacity; after orientation.
"""
import ctypes
import os
import struct
import tempfile

import numpy as np

import oracle_webp
import reference

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")

FILES = {
    "lossy": (("photo", 41, 30, "opaque"), "-q 30 -sns 100 -f 60"),
    "simple": (("drawing", 37, 35, "opaque"), "-q 5 -nostrong -f 80"),
    "sharp": (("photo", 34, 18, "opaque"), "-q 20 -f 100 -sharpness 6 -segments 2"),
    "noise": (("noise", 17, 19, "opaque"), "-q 100 -m 6"),
    "skips": (("gray", 90, 111, "opaque"), "-m 0 -q 20"),
    "small": (("photo", 13, 9, "opaque"), "-q 40"),
    "dot": (("photo", 1, 1, "opaque"), "-q 50"),
    "lossless": (("photo", 33, 29, "opaque"), "-lossless -m 6"),
    "copies": (("drawing", 90, 70, "opaque"), "-z 9"),
    "exact": (("noise", 15, 11, "noise"), "-lossless -exact"),
    "colours2": ((2, 43, 20, "opaque"), "-lossless"),
    "colours4": ((4, 43, 20, "opaque"), "-lossless"),
    "colours16": ((16, 43, 20, "opaque"), "-lossless"),
    "colours60": ((60, 43, 20, "holes"), "-lossless"),
    "near": (("gray", 30, 20, "opaque"), "-near_lossless 40"),
    "dotless": (("noise", 1, 1, "opaque"), "-lossless"),
    "alpha": (("photo", 30, 25, "ramp"), "-q 20 -alpha_filter best"),
    "alpha_steps": (("drawing", 31, 23, "steps"), "-q 20 -alpha_filter none"),
    "alpha_quantised": (("drawing", 31, 23, "noise"), "-q 20 -alpha_q 5"),
    "alpha_raw": (("drawing", 17, 13, "ramp"), "-q 20 -alpha_method 0 -alpha_filter best"),
    "alpha_plain": (("drawing", 11, 9, "noise"), "-q 20 -alpha_method 0 -alpha_filter none"),
}


def checksum(values):
    flat = np.frombuffer(bytes(values), np.uint8).astype(np.int64)
    return int((flat * (np.arange(flat.size) % 65521 + 1)).sum() % 2147483647)


def exif(orientation, big):
    order = ">" if big else "<"
    return (b"MM" if big else b"II") + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)


def mixed(path, seed):
    """A picture whose parts differ, so that blocks have codes of their own."""
    parts = [oracle_webp.picture(kind, 64, 64, "opaque", seed) for kind in ("photo", 9, "noise", "drawing")]
    rows = b"".join(a[y * 256:y * 256 + 256] + b[y * 256:y * 256 + 256] for a, b in (parts[:2], parts[2:]) for y in range(0, 64))
    oracle_webp.write_pam(path, 128, 128, rows)


def main():
    with tempfile.TemporaryDirectory() as folder:
        bench = oracle_webp.Bench(folder)
        made = {}
        for name, (p, options) in FILES.items():
            made[name] = bench.encode(p, options)
        made["parts"] = bench.path("parts.webp")
        p = ("photo", 35, 100, "opaque")
        oracle_webp.encode_partitions(ctypes.CDLL("libwebp.so.7"), made["parts"], p[1], p[2], oracle_webp.picture(*p), 2, 20)
        bench.add("parts", made["parts"])
        for filter_ in range(1, 4):
            name = f"filter{filter_}"
            made[name] = bench.path(name + ".webp")
            oracle_webp.opacity(made[name], made["small"], filter_, 13, 9, bytes(i * 37 % 7 + i * i % 11 - 7 & 255 for i in range(117)))
            bench.add(name, made[name])
        for i, changes in enumerate(((38, 137), (40, 54, 38, 69), (32, 184, 38, 93))):
            name = f"deltas{i + 1}"  # levels by mode: no encoder writes them, but these changes of a header make some
            made[name] = bench.path(name + ".webp")
            with open(made["skips"], "rb") as f:
                data = bytearray(f.read())
            data[changes[0]], data[changes[-2]] = changes[1], changes[-1]
            with open(made[name], "wb") as f:
                f.write(data)
            bench.add(name, made[name])
        mixed(bench.path("mixed.pam"), 1)
        made["groups"] = bench.path("groups.webp")
        oracle_webp.run("cwebp", "-quiet", "-near_lossless", "0", "-m", "6", "-q", "100", bench.path("mixed.pam"), "-resize", "72", "72", "-o", made["groups"])
        bench.add("groups", made["groups"])
        for orientation, big, source in ((6, True, "lossy"), (3, False, "alpha_steps"), (8, False, "colours4")):
            name = f"orientation{orientation}"
            with open(bench.path("exif"), "wb") as f:
                f.write(exif(orientation, big))
            made[name] = bench.path(name + ".webp")
            oracle_webp.run("webpmux", "-set", "exif", bench.path("exif"), made[source], "-o", made[name])
            bench.add(name, made[name])
        made["animation"] = bench.path("animation.webp")
        oracle_webp.run("webpmux", "-frame", made["alpha_steps"], "+100+8+6+1+b", "-frame", made["near"], "+100+0+0", "-o", made["animation"])
        rows = {}
        for name, path in made.items():
            expected = made["alpha_steps" if name == "animation" else name] + ".expected"
            width, height, body = oracle_webp.read_pam(expected)
            rgba = np.frombuffer(body, np.uint8).reshape(height, width, 4)
            if name == "animation":
                canvas = np.zeros((29, 39, 4), np.uint8)
                canvas[6:6 + height, 8:8 + width] = rgba
                rgba = canvas
            turns = {"orientation6": 3, "orientation3": 2, "orientation8": 1}.get(name, 0)
            rgb = np.rot90(rgba[..., :3], turns)
            rows[name] = np.array([rgb.shape[1], rgb.shape[0], checksum(rgb.tobytes()), checksum(rgba[..., 3].tobytes())])
            with open(path, "rb") as f, open(os.path.join(FIXTURES, name + ".webp"), "wb") as out:
                out.write(f.read())
        reference.write(os.path.join(FIXTURES, "webp.ref"), rows)


if __name__ == "__main__":
    main()
