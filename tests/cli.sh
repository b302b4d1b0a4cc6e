#!/bin/sh
# cli.sh - the tests of the command line, cli_test.py, or with --page of the page's server, ui_test.py, where there is a python3.
#
#   sh tests/cli.sh [--page] "COMMAND" [--shared DIR] [NAME ...]     COMMAND is ./yolo, or "wine yolo.exe"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
tests=cli_test.py
[ "${1:-}" != --page ] || { tests=ui_test.py; shift; }
exec python3 "$(dirname "$0")/$tests" "$@"
