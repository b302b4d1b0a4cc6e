"""checks.py - what the oracles say of each check, and their closing line."""
import sys

count = failures = 0


def check(name, good, text):
    global count, failures
    count += 1
    failures += not good
    print(f"{'ok  ' if good else 'FAIL'} {name}: {text}", flush=True)


def end():
    """Counts, and ends the script: status 1 when any check failed."""
    print(f"{count - failures} passed, {failures} failed, 0 skipped")
    sys.exit(failures > 0)
