"""Times the engine's decoders beside libwebp.so.7 (Debian), and libtiff, libjpeg-turbo and zlib as Pillow carries them, on the same photographs.

    PYTHON tests/bench_pictures.py [--shared ../shared] [--tool FILE] [--photos 4] [--rounds 5]

PYTHON is the one of the reference installation; without --tool, tests/tool_webp.c is built. Both sides decode the same files from memory to
RGB, one thread each, in turns (ours, theirs, ours, theirs ...). Times are processor time, so that other programs on the machine disturb
little; of each side the least of all rounds counts. Prints a table; the ratio is their time over ours: above 1 we are faster. Exit status 77
where the peer or the data is not there.
"""
import argparse
import ctypes
import glob
import io
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

try:
    from PIL import Image, features
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

KINDS = [  # name, format, options, the ratio that is aimed at
    ("WebP, lossy", "WEBP", {"quality": 80}, 0.7), ("WebP, lossless", "WEBP", {"lossless": True}, 0.7),
    ("TIFF, uncompressed", "TIFF", {}, 0.8), ("TIFF, PackBits", "TIFF", {"compression": "packbits"}, 0.8), ("TIFF, LZW", "TIFF", {"compression": "tiff_lzw"}, 0.8),
    ("TIFF, Deflate", "TIFF", {"compression": "tiff_adobe_deflate"}, 0.8), ("TIFF, JPEG", "TIFF", {"compression": "jpeg", "quality": 85}, 0.8),
    ("JPEG, 4:2:0", "JPEG", {"quality": 85}, None), ("JPEG, progressive", "JPEG", {"quality": 85, "progressive": True}, None), ("PNG", "PNG", {}, None)]


def libwebp():
    """What decodes as dwebp does. Pillow would read a picture as an animation, which takes longer."""
    library = ctypes.CDLL("libwebp.so.7")
    library.WebPDecodeRGB.restype = ctypes.c_void_p
    library.WebPFree.argtypes = [ctypes.c_void_p]

    def decode(data):
        width, height = ctypes.c_int(), ctypes.c_int()
        library.WebPFree(library.WebPDecodeRGB(data, ctypes.c_size_t(len(data)), ctypes.byref(width), ctypes.byref(height)))
    return decode


def pillow(data):
    Image.open(io.BytesIO(data)).load()


def theirs(decode, path, count):
    """Milliseconds of processor time of a picture."""
    with open(path, "rb") as f:
        data = f.read()
    start = time.process_time()
    for _ in range(count):
        decode(data)
    return (time.process_time() - start) * 1000 / count


def ours(tool, path, count):
    return float(subprocess.run([tool, path, str(count)], capture_output=True, text=True, check=True).stdout)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--shared", default=os.path.join(HERE, "..", "..", "shared"))
    arguments.add_argument("--tool")
    arguments.add_argument("--photos", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    photos = sorted(glob.glob(os.path.join(args.shared, "data", "coco128", "images", "train2017", "*.jpg")))[::max(1, 128 // args.photos)][:args.photos]
    if not photos:
        print(f"skipped: no photographs in {args.shared}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        tool = args.tool or os.path.join(folder, "tool")
        if not args.tool:
            subprocess.run(["cc", "-std=c11", "-O3", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA", os.path.join(HERE, "tool_webp.c"), "-o", tool, "-lm", "-lpthread", "-ldl"], check=True)
        print(f"libtiff {features.version('libtiff')}, {'libjpeg-turbo ' + (features.version('libjpeg_turbo') or 'unknown')}")
        print("| format | yolo | the library | ratio | aim |\n|---|---|---|---|---|")
        for name, kind, options, aim in KINDS:
            sums, decode = [0.0, 0.0], libwebp() if kind == "WEBP" else pillow
            for number, photo in enumerate(photos):
                path = os.path.join(folder, f"{number}.bin")
                Image.open(photo).convert("RGB").save(path, kind, **options)
                count = max(1, int(60 / theirs(decode, path, 2)))
                rounds = [(ours(tool, path, count), theirs(decode, path, count)) for _ in range(args.rounds)]
                for side in range(2):
                    sums[side] += min(r[side] for r in rounds)
            mine, other = (s / len(photos) for s in sums)
            print(f"| {name} | {mine:.2f} ms | {other:.2f} ms | {other / mine:.2f} x | {f'{aim} x' if aim else ''} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
