#!/bin/sh
# wine.sh - the Windows build under wine, its files in a folder with Korean letters: build.bat, the unit tests, then the tests of
# the command line and of the page's server. Ends with "N passed, N failed, N skipped"; status 77 where wine or mingw-w64 is missing.
#
#   sh tests/wine.sh
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
wine=/usr/lib/wine/wine64
[ -x $wine ] || wine=$(command -v wine64 || command -v wine) || { echo "wine is not installed"; exit 77; }
command -v x86_64-w64-mingw32-gcc >/dev/null || { echo "mingw-w64 is not installed"; exit 77; }
export WINEPREFIX="$PWD/build/wine" WINEDEBUG=-all WINEDLLOVERRIDES="mscoree=;mshtml=" DISPLAY="" LC_ALL=C.UTF-8
mkdir -p build/logs build/wine

part wine-build 300 sh -c './build.sh windows && ./build.sh windows-test'
part wine-prefix 200 "$wine" wineboot --init
# A server that stays, and a process that keeps wine's services up: else each test that reads a pipe to its end would wait
# for the services that its program started, which hold the pipe too.
server=${wine%/*}/wineserver64
[ -x "$server" ] || server=wineserver
"$server" -p
"$wine" cmd /c "ping -n 3000 127.0.0.1" >/dev/null 2>&1 </dev/null &
part wine-build.bat 200 sh tests/bat.sh "$wine"
part wine-unit 1200 "$wine" build/test.exe
part wine-cli 600 sh tests/cli.sh "$wine $PWD/yolo.exe"
part wine-ui 300 sh tests/cli.sh --page "$wine $PWD/yolo.exe"
"$server" -k 2>/dev/null || true
parts_end
