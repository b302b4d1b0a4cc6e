"""checks.py - how oracles begin, what they say of each check, and their closing line."""
import os
import sys

count = failures = 0


def begin(parser, threads):
    """The options and the path of the COCO-trained checkpoint; ends the script with status 77 where that or ultralytics is missing."""
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--shared", default=os.path.join(here, "..", "..", "shared"))
    options = parser.parse_args()
    checkpoint = os.path.join(options.shared, "data", "yolov8n-coco.pt")
    try:
        import torch
        import ultralytics  # noqa: F401
    except ImportError:
        print("no ultralytics in this Python")
        sys.exit(77)
    if not os.path.exists(checkpoint):
        print(f"no {checkpoint}")
        sys.exit(77)
    torch.set_num_threads(threads)
    return options, checkpoint


def expect(name, good, text=""):
    """Of thousands only the failures are told."""
    global count, failures
    count += 1
    failures += not good
    if not good:
        print(f"FAIL {name}: {text}", flush=True)


def check(name, good, text):
    expect(name, good, text)
    if good:
        print(f"ok   {name}: {text}", flush=True)


def end():
    """Counts, and ends the script: status 1 when any check failed."""
    print(f"{count - failures} passed, {failures} failed, 0 skipped")
    sys.exit(failures > 0)
