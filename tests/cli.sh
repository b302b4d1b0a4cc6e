#!/bin/sh
# cli.sh - the tests of the command line: cli_test.py, where there is a python3.
#
#   sh tests/cli.sh "COMMAND" [--shared DIR] [NAME ...]     COMMAND is ./yolo, or "wine yolo.exe"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/cli_test.py" "$@"
