"""Makes tests/fixtures/img.ref: resized pictures and letterbox plans of cv2 and ultralytics, and tiny picture files with
the pixels that cv2 reads from them. Run by hand: python tests/make_img.py (cv2, numpy, PIL, ultralytics).

Bytes are packed four to an int32 behind their count. 16-bit samples are expected as round(v / 257): cv2 truncates.
"""
import io
import os
import random
import struct
import sys
import zlib

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, os.path.dirname(__file__))
import reference

PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def pattern(height, width):
    """The picture that tests/test_img.c makes by the same formula."""
    i = np.arange(height * width * 3, dtype=np.uint64)
    return ((i * 2654435761 % (1 << 32)) >> 13 & 255).astype(np.uint8).reshape(height, width, 3)


def checksum(pixels):
    flat = pixels.reshape(-1).astype(np.int64)
    return int((flat * (np.arange(flat.size) % 65521 + 1)).sum() % 2147483647)


def pack(data, *head):
    data = bytes(data)
    words = np.frombuffer(data + b"\0" * (-len(data) % 4), dtype="<i4")
    return np.concatenate([np.array(head or (len(data),), dtype=np.int32), words])


def png_row(values, depth):
    if depth == 16:
        return values.astype(">u2").tobytes()
    if depth == 8:
        return values.astype(np.uint8).tobytes()
    bits = "".join(format(v, f"0{depth}b") for v in values)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def png_filtered(rows, step, rng):
    out, above = b"", bytes(len(rows[0])) if rows else b""
    for row in rows:
        kind = rng.randrange(5)
        line = bytearray()
        for i, value in enumerate(row):
            a, b = row[i - step] if i >= step else 0, above[i]
            c = above[i - step] if i >= step else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            line.append(value - (0, a, b, (a + b) // 2, paeth)[kind] & 255)
        out, above = out + bytes([kind]) + bytes(line), row
    return out


def png(samples, colour, depth, interlaced=False, palette=b"", rng=random.Random(1)):
    """samples: (height, width, channels) integers below 2 ** depth."""
    height, width, channels = samples.shape
    step = max(1, channels * depth // 8)
    data = b""
    for x, y, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[y::dy, x::dx]
        if part.size:
            data += png_filtered([png_row(row.reshape(-1), depth) for row in part], step, rng)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    packed = zlib.compress(data, 9)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)) +
            (chunk(b"PLTE", palette) if palette else b"") + chunk(b"IDAT", packed[:20]) + chunk(b"IDAT", packed[20:]) +
            chunk(b"IEND", b""))


def files():
    rng = np.random.default_rng(7)
    smooth = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (21, 14), interpolation=cv2.INTER_CUBIC)
    picture = Image.fromarray(smooth)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=92, exif=exif, optimize=True)
        yield f"orientation{orientation}.jpg", out.getvalue()
    for name, mode, options in [("progressive", "RGB", {"progressive": True}), ("gray", "L", {}), ("full", "RGB", {"subsampling": 0}),
                                ("cmyk", "CMYK", {}), ("restart", "RGB", {"restart_marker_blocks": 1})]:
        out = io.BytesIO()
        picture.convert(mode).save(out, "JPEG", quality=92, optimize=True, **options)
        yield f"{name}.jpg", out.getvalue()
    for colour, depth in [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]:
        for interlaced in (False, True):
            samples = rng.integers(0, 1 << depth, (9, 11, CHANNELS[colour]))
            palette = rng.integers(0, 256, 3 << depth, dtype=np.uint8).tobytes() if colour == 3 else b""
            yield f"colour{colour}_{depth}{'i' * interlaced}.png", png(samples, colour, depth, interlaced, palette)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        out = io.BytesIO()
        picture.convert(mode).save(out, "BMP")
        yield f"{mode}.bmp", out.getvalue()


def expected(name, data):
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    if "_16" in name:
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)[:, :, ::-1].astype(np.int64)
        pixels = (deep * 255 + 32895) >> 16
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def resizes():
    rng = random.Random(5)
    sizes = [(1, 1, 9, 7), (9, 7, 1, 1), (2, 2, 1, 1), (40, 30, 20, 15), (41, 30, 20, 15), (40, 30, 80, 60), (40, 30, 40, 15),
             (1, 50, 3, 20), (50, 1, 20, 3), (700, 3, 350, 2), (3, 700, 2, 350), (300, 200, 640, 427), (640, 480, 333, 250)]
    sizes += [tuple(rng.randint(1, 320) for _ in range(4)) for _ in range(40)]
    return [(*s, checksum(cv2.resize(pattern(s[1], s[0]), s[2:], interpolation=cv2.INTER_LINEAR))) for s in sizes]


def plans():
    from ultralytics.data.augment import LetterBox
    rng = random.Random(6)
    rows = []
    for k in range(240):
        width, height = rng.choice([(1, 3000), (3000, 1), (640, 640), (500, 333), (427, 640)]) if k % 6 == 0 else (
            rng.randint(1, 2500), rng.randint(1, 2500))
        size, mode = rng.choice([320, 640, 1280, 96]), k % 3  # rectangle, square, given shape without scaling up
        shape = (rng.randint(1, 40) * 32, rng.randint(1, 40) * 32) if mode == 2 else (size, size)
        box = LetterBox(shape, auto=mode == 0, scaleup=mode != 2, stride=32)
        p = box.get_params({"img": np.empty((height, width, 3), np.uint8)})
        (w, h), top, bottom, left, right = p["new_unpad"], p["top"], p["bottom"], p["left"], p["right"]
        rows.append((width, height, shape[1], shape[0], mode, w + left + right, h + top + bottom, w, h, left, top))
    return rows


def main():
    arrays = {"resize": np.array(resizes()), "plans": np.array(plans())}
    for name, data in files():
        pixels = expected(name, data)
        arrays[name] = pack(data)
        arrays[name + ".pixels"] = pack(pixels.tobytes(), pixels.shape[1], pixels.shape[0])
    reference.write(os.path.join(os.path.dirname(__file__), "fixtures", "img.ref"), arrays)


if __name__ == "__main__":
    main()
