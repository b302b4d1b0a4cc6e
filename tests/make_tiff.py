"""Makes tests/fixtures/*.tif, small files over what the format has, and tiff.ref: what libtiff reads from them.

    python tests/make_tiff.py        run by hand; wants libtiff.so.6 (Debian: libtiff6) and numpy

A row of tiff.ref: width, height and checksum of the pixels (as tests/test_img.c makes it), after orientation.
"""
import os
import tempfile

import numpy as np

import oracle_tiff
import reference
from oracle_tiff import BLACK0, CMYK, DEFLATE, FAX3, FAX4, INDEX, JPEG, LZW, PACKBITS, RAW, RGB, ROWS, WHITE0, YCC

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")

FILES = {  # width, height, samples, bits, photometric, packing, and more
    "raw": (13, 9, 3, 8, RGB, RAW, {"rows": 4}),
    "planes": (13, 9, 3, 8, RGB, PACKBITS, {"rows": 4, "planar": True, "mode": "wb"}),
    "opacity": (11, 8, 4, 8, RGB, LZW, {"tags": ((317, 2),)}),
    "gray16": (17, 9, 1, 16, BLACK0, DEFLATE, {"mode": "wb", "tags": ((317, 2),)}),
    "colour16": (9, 7, 3, 16, RGB, LZW, {"mode": "wl8", "tags": ((317, 2),)}),
    "half": (9, 7, 1, 16, BLACK0, DEFLATE, {"form": 3, "tags": ((317, 3),)}),
    "float": (9, 7, 1, 32, WHITE0, DEFLATE, {"form": 3, "mode": "wb", "tags": ((317, 3),)}),
    "double": (5, 4, 1, 64, BLACK0, RAW, {"form": 3, "mode": "wb8"}),
    "signed": (9, 7, 1, 16, BLACK0, RAW, {"form": 2}),
    "bits2": (15, 6, 1, 2, BLACK0, PACKBITS, {}),
    "bits12": (9, 7, 1, 12, WHITE0, RAW, {}),
    "index": (21, 9, 1, 4, INDEX, LZW, {}),
    "cmyk": (12, 7, 4, 8, CMYK, DEFLATE, {}),
    "tiles": (37, 20, 3, 8, RGB, LZW, {"tile": (16, 16), "kind": "runs"}),
    "tiles_planes": (19, 20, 2, 8, BLACK0, DEFLATE, {"tile": (16, 16), "planar": True}),
    "strings": (64, 60, 3, 8, RGB, LZW, {"kind": "runs"}),
    "rows": (67, 9, 1, 1, WHITE0, ROWS, {"kind": "runs"}),
    "fax3": (67, 9, 1, 1, WHITE0, FAX3, {"kind": "runs", "rows": 5}),
    "fax3_2d": (67, 19, 1, 1, BLACK0, FAX3, {"kind": "runs", "tags": ((292, 5),)}),
    "fax4": (67, 19, 1, 1, WHITE0, FAX4, {"kind": "runs", "tags": ((266, 2),)}),
    "fax4_noise": (41, 13, 1, 1, WHITE0, FAX4, {"kind": "noise"}),
    "orientation6": (14, 9, 3, 8, RGB, PACKBITS, {"orientation": 6}),
    "orientation7": (14, 9, 1, 8, BLACK0, RAW, {"orientation": 7, "mode": "wb"}),
    "jpeg": (33, 20, 1, 8, BLACK0, JPEG, {"rows": 16}),
    "jpeg_cmyk": (16, 16, 4, 8, CMYK, JPEG, {"rows": 8}),
}


def checksum(values):
    flat = np.frombuffer(bytes(values), np.uint8).astype(np.int64)
    return int((flat * (np.arange(flat.size) % 65521 + 1)).sum() % 2147483647)


def main():
    with tempfile.TemporaryDirectory() as folder:
        b = oracle_tiff.Bench(oracle_tiff.Tiff(), folder)
        names = []
        for name, (*shape, more) in FILES.items():
            b.make(name, *shape, **more)
            names.append(name)
        for sub, tile in (((2, 2), None), ((4, 1), (32, 16))):
            path = b.path()
            oracle_tiff.write_blocks(b.t, path, 37, 11, sub, LZW, "w", 11, (), 3, tile)
            b.add("", path, b.t.rgba(path, 37, 11))
            names.append(f"ycbcr{sub[0]}{sub[1]}")
        path, samples = b.path(), oracle_tiff.source(33, 20, 3, 8, 1, 1, "smooth")
        oracle_tiff.write(b.t, path, samples, 8, YCC, JPEG, rows=16, tags=((65537, 70), (530, 2, 2), (65538, 1)))
        b.expect("", path, 33, 20, 3, 8, YCC, 1, None, np.uint8, rgb_jpeg=True)
        names.append("jpeg_ycbcr")
        path, samples = b.path(), oracle_tiff.source(40, 30, 1, 8, 1, 1, "smooth")
        data = oracle_tiff.old_lzw(samples.tobytes())
        with open(path, "wb") as f:
            f.write(oracle_tiff.entries(">", [(256, 3, [40]), (257, 3, [30]), (258, 3, [8]), (259, 3, [LZW]), (262, 3, [1]), (273, 4, [8]), (278, 3, [30]), (279, 4, [len(data)])], data))
        b.expect("", path, 40, 30, 1, 8, BLACK0, 1, None, np.uint8)
        names.append("old_lzw")
        rows = {}
        for name, (_, path, rgb) in zip(names, b.files):
            rows[name] = np.array([rgb.shape[1], rgb.shape[0], checksum(rgb.tobytes())])
            with open(path, "rb") as f, open(os.path.join(FIXTURES, name + ".tif"), "wb") as out:
                out.write(f.read())
        reference.write(os.path.join(FIXTURES, "tiff.ref"), rows)


if __name__ == "__main__":
    main()
