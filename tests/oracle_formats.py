"""Compares what every picture format gives: with OpenCV and Pillow, with each other, and in the labels that come of it.

    PYTHON tests/oracle_formats.py [--shared ../shared] [--yolo FILE] [--tool FILE]

PYTHON is the one of the reference installation (shared/reference: cv2, numpy, Pillow); without --tool, tests/tool_tiff.c is built, without
--yolo, the program. What must hold:
- JPEG of every sampling and kind is cv2.imread's, to the byte; of CMYK Pillow's within 2 levels.
- Orientation in JPEG, PNG, WebP and TIFF, in files well made and badly made, is that of cv2.imread and of Pillow's exif_transpose.
- Opacity is dropped alike in PNG, WebP, TIFF and BMP; 16-bit samples in PNG and TIFF give the same bytes.
- A baseline JPEG that is cut short is what Pillow makes of it with LOAD_TRUNCATED_IMAGES; a PNG has the rows that it has.
- A photograph in all seven extensions and all eight orientations is labelled alike: lossless ones the same to the byte, of JPEG and lossy
  WebP every box of confidence 0.5 has a twin of IoU 0.95 at least. The objects of these photographs are plain to see; others' boxes move
  by more when a picture is packed anew, whoever unpacks it. What OpenCV reads from the lossy ones gives the same labels to the byte.
Prints a line for each that fails, then the counts; exit status 1 when any failed, 77 when the oracle or the data is not there.
"""
import argparse
import io
import os
import struct
import subprocess
import sys
import tempfile
import warnings

import checks
from checks import expect as check

HERE = os.path.dirname(os.path.abspath(__file__))
try:
    import cv2
    import numpy as np
    from PIL import Image, ImageFile, ImageOps
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


class Reader:
    """Decodes files by the engine."""

    def __init__(self, tool, folder):
        self.tool, self.folder = tool, folder
        self.process = subprocess.Popen([tool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, data):
        """RGB and the message: "ok" alone, or with what is missing; None and the reason."""
        path, out = os.path.join(self.folder, "in.bin"), os.path.join(self.folder, "out.ppm")
        with open(path, "wb") as f:
            f.write(data)
        self.process.stdin.write(f"{path}\t{out}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        if not said.startswith("ok"):
            return None, said
        with open(out, "rb") as f:
            head = [f.readline() for _ in range(3)]
            width, height = map(int, head[1].split())
            return np.frombuffer(f.read(), np.uint8).reshape(height, width, 3), said

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def opencv(data):
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if bgr is None else bgr[..., ::-1]


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def same(a, b, most=0):
    return a is not None and b is not None and a.shape == b.shape and int(abs(a.astype(int) - b).max()) <= most


def noisy(width, height, seed=1):
    """Smooth colours with some noise, as photographs are."""
    r = np.random.default_rng(seed)
    small = r.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(int) + r.integers(-9, 10, (height, width, 3))
    return np.clip(big, 0, 255).astype(np.uint8)


def jpegs(reader):
    factors = {"4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
               "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411}
    for width, height in ((1, 1), (2, 3), (3, 2), (5, 40), (17, 16), (64, 48), (131, 77)):
        pixels = noisy(width, height)
        for name, factor in factors.items():
            for progressive in (0, 1):
                for restart in (0, 1, 3):
                    settings = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_QUALITY, 90]
                    data = cv2.imencode(".jpg", pixels, settings)[1].tobytes()
                    ours, said = reader.read(data)
                    check(f"JPEG {name} of {width} x {height}, progressive {progressive}, restart {restart}", same(ours, opencv(data)) and said == "ok", said)
        for mode in ("L", "RGB", "CMYK"):
            for options in ({}, {"progressive": True}, {"keep_rgb": True} if mode == "RGB" else {"optimize": True}):
                data = saved(Image.fromarray(pixels).convert(mode), "JPEG", quality=85, **options)
                kinds = {"": data}
                if mode == "CMYK":
                    at = data.index(b"Adobe") + 11
                    kinds = {"": data, "YCCK": data[:at] + b"\2" + data[at + 1:], "unmarked": data[:at - 15] + data[at + 1:]}
                for kind, file in kinds.items():
                    ours, said = reader.read(file)
                    pillow = np.array(Image.open(io.BytesIO(file)).convert("RGB"))
                    check(f"JPEG {mode} {kind} of {width} x {height} {options}", same(ours, opencv(file)) and same(ours, pillow, 2 if mode == "CMYK" else 0), said)


def directory(big, entries, at=8, following=0, magic=42):
    e = ">" if big else "<"
    out = (b"MM" if big else b"II") + struct.pack(e + "HI", magic, at) + bytes(at - 8 if at < 100 else 0) + struct.pack(e + "H", len(entries))
    for tag, kind, count, value in entries:
        out += struct.pack(e + "HHI", tag, kind, count) + (struct.pack(e + "I", value) if kind == 4 else struct.pack(e + "HH", value, 0))
    return out + struct.pack(e + "I", following)


def exifs():
    """Name, segments of APP1, the orientation that OpenCV and Pillow see, or, where they do not agree, one of them."""
    six, maker = (0x112, 3, 1, 6), (0x10f, 4, 1, 0)
    exif = b"Exif\0\0"
    yield "little", [exif + directory(False, [six])], 6
    yield "big", [exif + directory(True, [six])], 6
    yield "32 bits", [exif + directory(True, [(0x112, 4, 1, 6)])], 6
    yield "two values", [exif + directory(False, [(0x112, 3, 2, 6)])], 6
    yield "behind another tag", [exif + directory(True, [maker, six])], 6
    yield "behind a gap", [exif + directory(True, [six], at=20)], 6
    yield "XMP first", [b"http://ns.adobe.com/xap/1.0/\0<x/>", exif + directory(False, [six])], 6
    yield "two blocks", [exif + directory(False, [six]), exif + directory(False, [(0x112, 3, 1, 3)])], 6
    yield "two blocks, upright first", [exif + directory(False, [(0x112, 3, 1, 1)]), exif + directory(False, [six])], 1
    yield "two blocks, one without", [exif + directory(False, [maker]), exif + directory(False, [six])], 6
    yield "two blocks, one broken", [exif + b"nothing of the kind", exif + directory(False, [six])], 6
    yield "twice in a directory", [exif + directory(False, [(0x112, 3, 1, 3), six])], 3
    yield "zero", [exif + directory(False, [(0x112, 3, 1, 0)])], 1
    yield "nine", [exif + directory(True, [(0x112, 3, 1, 9)])], 1
    yield "no values", [exif + directory(False, [(0x112, 2, 0, 6)])], 1
    yield "behind the end", [exif + directory(False, [six], at=5000)], 1
    yield "a loop", [exif + directory(False, [maker], following=8)], 1
    yield "in the second directory", [exif + directory(False, [maker], following=26) + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)], 1
    yield "cut short", [exif + directory(False, [six])[:-8]], 1
    yield "65535 entries", [exif + b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)], 6
    yield "another magic", [exif + directory(False, [six], magic=43)], 1


def turned(pixels, orientation):
    """What is to be stored, so that it is seen as `pixels`."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flips = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    if orientation in (6, 8):
        flips = flips[::-1]
    return np.ascontiguousarray(pixels[::flips[0], ::flips[1]])


def with_orientation(pixels, orientation, kind, **options):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = Image.fromarray(turned(pixels, orientation))
    if kind == "TIFF":
        return saved(picture, kind, tiffinfo={274: orientation}, **options)
    return saved(picture, kind, **options) if kind == "BMP" else saved(picture, kind, exif=exif, **options)


def orientations(reader):
    pixels = noisy(37, 22)
    upright, _ = reader.read(saved(Image.fromarray(pixels), "PNG"))
    check("PNG", same(upright, pixels))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {"quality": 95, "subsampling": 0})):
        for orientation in range(1, 9):
            data = with_orientation(pixels, orientation, kind, **options)
            ours, said = reader.read(data)
            pillow = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
            check(f"{kind} of orientation {orientation}", same(ours, opencv(data)) and same(ours, pillow) and (kind == "JPEG" or same(ours, pixels)), said)
    jpeg = saved(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0)
    plain = opencv(jpeg)
    warnings.simplefilter("ignore")  # Pillow's of such EXIF
    for name, segments, orientation in exifs():
        data = jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + jpeg[2:]
        ours, said = reader.read(data)
        pillow = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        check(f"EXIF, {name}", same(turned(ours, orientation), plain) and (same(ours, opencv(data)) or same(ours, pillow)), said)


def samples(reader):
    r = np.random.default_rng(3)
    rgba = r.integers(0, 256, (23, 31, 4), dtype=np.uint8)
    picture, rgb = Image.fromarray(rgba), rgba[..., :3]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("BMP", {})):
        data = saved(picture, kind, **options)
        ours, said = reader.read(data)
        check(f"{kind} with opacity", same(ours, rgb) and (kind == "TIFF" or same(ours, opencv(data))), said)  # OpenCV multiplies TIFF's
    palette = Image.fromarray(rgba[..., 0] % 16, "P")
    palette.putpalette(r.integers(0, 256, 48).tolist())
    for name, data, expected in (("gray with opacity", saved(Image.fromarray(rgba[..., :2], "LA"), "PNG"), rgba[..., [0, 0, 0]]),
                                 ("palette with opacity", saved(palette, "PNG", transparency=bytes(range(0, 160, 10))), np.array(palette.convert("RGB"))),
                                 ("a transparent colour", saved(Image.fromarray(rgb), "PNG", transparency=tuple(map(int, rgb[0, 0]))), rgb)):
        ours, said = reader.read(data)
        check(f"PNG, {name}", same(ours, expected) and same(ours, opencv(data)), said)
    for shape in ((29, 41), (29, 41, 3)):
        deep = r.integers(0, 65536, shape, dtype=np.uint16)
        deep.flat[:4] = (0, 65535, 128, 129)
        expected = (deep.astype(np.int64) * 255 * 2 + 65535) // (2 * 65535)
        expected = np.repeat(expected[..., None], 3, axis=2) if deep.ndim == 2 else expected[..., ::-1]
        for extension in (".png", ".tiff"):
            ours, said = reader.read(cv2.imencode(extension, deep)[1].tobytes())
            check(f"{extension} of 16 bits", same(ours, expected), said)


def cuts(reader):
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    pixels = noisy(200, 160)
    files = [("JPEG", saved(Image.fromarray(pixels), "JPEG", quality=90, **o)) for o in ({}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_blocks": 5})]
    files += [("PNG", saved(Image.fromarray(pixels), "PNG")), ("progressive", saved(Image.fromarray(pixels), "JPEG", quality=90, progressive=True))]
    for kind, data in files:
        whole, _ = reader.read(data)
        kept = refused = 0
        for cut in range(len(data) // 20, len(data), len(data) // 40 + 1):
            ours, said = reader.read(data[:cut])
            if ours is None:
                refused += 1
                check(f"{kind} of {cut} bytes", "cut short" in said, said)
                continue
            kept += 1
            rows = int(said.split(" rows are there")[0].split()[-3]) if "rows are there" in said else -1
            check(f"{kind} of {cut} bytes", 80 <= rows <= 160 and ours.shape == whole.shape, said)
            if kind == "JPEG":
                check(f"{kind} of {cut} bytes, pixels", same(ours, np.array(Image.open(io.BytesIO(data[:cut])).convert("RGB"))), said)
            elif kind == "PNG":
                check(f"{kind} of {cut} bytes, rows", same(ours[:rows], pixels[:rows]) and (ours[rows:] == 128).all(), said)
        check(f"{kind} cut short", kept >= 12 and (refused >= 12 or kind == "progressive"), f"{kept} kept, {refused} refused")


def boxes_of(path, width, height):
    """Class, confidence, corners in pixels."""
    with open(path) as f:
        rows = [list(map(float, line.split())) for line in f]
    return [(int(c), s, ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)) for c, x, y, w, h, s in rows]


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def worst_twin(a, b):
    """The smallest overlap of a sure box of one with its best twin in the other."""
    worst = 1
    for these, those in ((a, b), (b, a)):
        for kind, score, box in these:
            if score >= 0.5:
                worst = min(worst, max((overlap(box, other) for k, _, other in those if k == kind), default=0))
    return worst


def labels(yolo, shared, folder):
    source = os.path.join(shared, "data", "coco128", "images", "train2017")
    kinds = [(".jpg", "JPEG", {"quality": 97, "subsampling": 0}), (".JPeG", "JPEG", {"quality": 97, "progressive": True}), (".PnG", "PNG", {}), (".BMP", "BMP", {}),
             (".tif", "TIFF", {}), (".TIFF", "TIFF", {"compression": "tiff_lzw"}), (".webp", "WEBP", {"lossless": True}), (".WebP", "WEBP", {"quality": 95})]
    for photo in ("000000000086", "000000000036"):
        pixels = np.array(Image.open(os.path.join(source, photo + ".jpg")).convert("RGB"))
        height, width = pixels.shape[:2]
        work = os.path.join(folder, photo)
        os.makedirs(work)
        names = []
        for extension, kind, options in kinds:
            for orientation in (range(1, 9) if kind != "BMP" else (1,)):
                names.append((f"{kind}{orientation}-{len(names)}", "quality" in options))
                with open(os.path.join(work, names[-1][0] + extension), "wb") as f:
                    f.write(with_orientation(pixels, orientation, kind, **options))
        twins = {}  # the pixels that OpenCV reads from a lossy file, stored without loss
        for name in [n for n in sorted(os.listdir(work)) if n.startswith(("JPEG6", "WEBP6"))]:
            if not name.endswith(".webp"):
                twins[name.split(".")[0]] = twin = "twin-" + name.split(".")[0]
                cv2.imwrite(os.path.join(work, twin + ".png"), cv2.imread(os.path.join(work, name)))
        model = os.path.join(shared, "data", "yolov8n-coco.pt")
        done = subprocess.run([yolo, "label", f"model={model}", f"source={work}", "save_conf=true", "device=cpu"], capture_output=True, text=True)
        check(f"label {photo}", done.returncode == 0, done.stderr[-500:])
        if done.returncode:
            continue
        first = os.path.join(work, next(name for name, lossy in names if not lossy) + ".txt")
        reference = boxes_of(first, width, height)
        check(f"{photo} has boxes", sum(s >= 0.5 for _, s, _ in reference) >= 1, f"{len(reference)}")
        least = 1
        for name, lossy in names:
            path = os.path.join(work, name + ".txt")
            if not os.path.exists(path):
                check(f"{photo} as {name}", False, "no labels")
            elif lossy:
                worst = worst_twin(reference, boxes_of(path, width, height))
                least = min(least, worst)
                check(f"{photo} as {name}", worst >= 0.95, f"IoU {worst:.3f}")
            else:
                check(f"{photo} as {name}", open(path).read() == open(first).read(), "other labels")
        for name, twin in twins.items():
            both = [open(os.path.join(work, n + ".txt")).read() for n in (name, twin)]
            check(f"{photo} as {name}, by OpenCV", both[0] == both[1], "other labels")
        print(f"{photo}: {len(names)} files, {len(reference)} boxes; lossless ones the same; lossy ones from IoU {least:.3f} on")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--shared", default=os.path.join(HERE, "..", "..", "shared"))
    arguments.add_argument("--yolo")
    arguments.add_argument("--tool")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tool = args.tool or os.path.join(folder, "tool")
        flags = ["-std=c11", "-O3", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA"]
        if not args.tool:
            subprocess.run(["cc", *flags, os.path.join(HERE, "tool_tiff.c"), "-o", tool, "-lm", "-lpthread", "-ldl"], check=True)
        reader = Reader(tool, folder)
        for part in (jpegs, orientations, samples, cuts):
            before = checks.count
            part(reader)
            print(f"{part.__name__}: {checks.count - before} checks")
        reader.close()
        if os.path.exists(os.path.join(args.shared, "data", "yolov8n-coco.pt")):
            yolo = args.yolo or os.path.join(folder, "yolo")
            if not args.yolo:
                subprocess.run(["cc", *flags, os.path.join(HERE, "..", "yolo.c"), "-o", yolo, "-lm", "-lpthread", "-ldl"], check=True)
            labels(yolo, args.shared, folder)
        else:
            print(f"labels: skipped, no checkpoint in {args.shared}")
    checks.end()


if __name__ == "__main__":
    main()
