#!/bin/sh
# bat.sh - build.bat under wine's cmd, in a folder with blanks and Korean letters, with programs in place of cl, nvcc and
# nvidia-smi that write down what they are called with. Ends with "N passed, N failed, N skipped".
#
#   sh tests/bat.sh WINE      WINEPREFIX and the rest as tests/wine.sh sets them
cd "$(dirname "$0")/.." || exit 1
wine=$1 top=$PWD/build/bat passed=0 failed=0
folder="$top/a (b) 한글"
rm -rf "$top"
mkdir -p "$folder/stb" "$top/bin"
cp build.bat "$folder/"
touch "$folder/yolo.c" "$folder/kernels.cu" "$folder/stb/stb_image.h" "$folder/stb/stb_image_write.h"
cat >"$top/stub.c" <<'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **arguments) {
    const char *name = strrchr(arguments[0], '\\'), *fails = getenv("STUB_FAILS"), *gpus = getenv("STUB_GPUS");
    char line[4096];
    size_t length = (size_t)sprintf(line, "%.9s", name ? name + 1 : arguments[0]);
    for (int i = 1; i < count; i++) length += (size_t)sprintf(line + length, " [%.200s]", arguments[i]);
    if (fails && strstr(line, fails)) return 1;
    if (strstr(line, "compute_cap")) return printf("%s", gpus ? gpus : "") < 0;
    if (strstr(line, "list-gpu-arch")) return printf("compute_75\ncompute_80\ncompute_86\ncompute_90\ncompute_120\n") < 0;
    FILE *log = fopen(getenv("STUB_LOG"), "a");
    return fprintf(log, "%s\n", line) < 0 || fclose(log);
}
EOF
for name in cl nvcc nvidia-smi; do
    if [ $name = cl ]; then x86_64-w64-mingw32-gcc -O1 -o "$top/bin/cl.exe" "$top/stub.c" -static -s || exit 1
    else cp "$top/bin/cl.exe" "$top/bin/$name.exe"; fi
done

# bat NAME STATUS PATTERN PATTERN... -- ARGUMENT...: what is said, and what the programs were called with, has each pattern.
bat() {
    name=$1 wanted=$2 patterns=
    shift 2
    while [ "$1" != -- ]; do patterns="$patterns$1
"; shift; done
    shift
    rm -f "$top/log.txt"
    touch "$top/log.txt"
    (cd "$folder" && STUB_LOG="Z:$top/log.txt" WINEPATH="Z:$top/bin" timeout 60 "$wine" cmd /c build.bat "$@") >"$top/said.txt" 2>&1 </dev/null
    status=$?
    missing=$(printf '%s' "$patterns" | while read -r pattern; do
        case $pattern in
            !*) ! grep -qF -e "${pattern#!}" "$top/log.txt" "$top/said.txt" || echo "has $pattern" ;;
            *) grep -qF -e "$pattern" "$top/log.txt" "$top/said.txt" || echo "lacks $pattern" ;;
        esac
    done)
    if [ $status = "$wanted" ] && [ -z "$missing" ]; then passed=$((passed + 1)); echo "ok   $name"
    else failed=$((failed + 1)); echo "FAIL $name: status $status, expected $wanted; $missing"; cat "$top/log.txt" "$top/said.txt"; fi
}

all="[-gencode] [arch=compute_75,code=sm_75] [-gencode] [arch=compute_80,code=sm_80] [-gencode] [arch=compute_86,code=sm_86] [-gencode] [arch=compute_90a,code=sm_90a] [-gencode] [arch=compute_120,code=sm_120] [-gencode] [arch=compute_120,code=compute_120] [--compress-mode=size] [--threads]"
bat "the CPU alone" 0 "[/DYOLO_NO_CUDA] [/I] [stb]" "[/MT]" "[/Feyolo.exe] [yolo.c]" "!nvcc" "done: yolo.exe" -- cpu
bat "no GPU: code for all that nvcc knows" 0 "[/Fobuild\\yolo.obj] [yolo.c]" "$all" "[-o] [yolo.exe] [build\\yolo.obj] [kernels.cu]" -- cuda
export STUB_GPUS="8.6
9.0
"
bat "code for this machine's GPUs" 0 "[-O3] [-std=c++17] [-gencode] [arch=compute_86,code=sm_86] [-gencode] [arch=compute_90a,code=sm_90a] [--compress-mode=size] [--threads]" -- cuda
bat "code for all in spite of them" 0 "$all" -- cuda all
STUB_GPUS="12.0
12.0
"
bat "two GPUs alike" 0 "[-O3] [-std=c++17] [-gencode] [arch=compute_120,code=sm_120] [--compress-mode=size] [--threads]" --
export STUB_FAILS=probe.cu
bat "without a target, no nvcc: the CPU" 0 "no   nvcc" "[/DYOLO_NO_CUDA]" --
bat "cuda, no nvcc" 1 "the CUDA toolkit is needed" "!done" -- cuda
STUB_FAILS=kernels.cu
bat "nvcc fails" 1 "[/c]" "!done" -- cuda
STUB_FAILS=probe.c
bat "no compiler" 1 "no   compiler" "!done" -- cpu
unset STUB_FAILS
bat "an unknown target" 2 "unknown argument" "!Febuild" -- gpu
mv "$folder/stb" "$top/s (t) 한글"
bat "no stb" 1 "no   stb" "!done" -- cpu
export STB_DIR="Z:$top/s (t) 한글\\"
bat "stb elsewhere, a backslash at the end" 0 "[/I] [Z:" "(t)" "[/Fobuild\\] [/Feyolo.exe]" -- cpu
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
