#!/bin/sh
# build.sh - builds, tests and shows yolo.
#
#   ./build.sh [TARGET] [cc=gcc] [stb=DIR] [arch=sm_86]
#     cpu       ./yolo for any CPU of its family
#     cuda      ./yolo for CPU and NVIDIA GPUs; arch= one architecture or all, else this machine's, else all
#     debug     build/yolo-debug: no optimisation, symbols
#     asan      build/yolo-asan: address and undefined-behaviour sanitizers
#     test      builds and runs the tests; the last line counts them (emulated-asan: build/test-gpu-asan, the kernels' under them)
#     demo      draws pictures, trains on them, finds shapes: ./build.sh demo [MODEL.pt] [photos=DIR] labels photographs too
#     windows   yolo.exe by mingw-w64 (windows-test: build/test.exe)
#     clean     removes what the others made
#   Without TARGET: cuda where nvcc works, else cpu. Missing Debian packages are installed when run as root, else named.
# shellcheck disable=SC1007,SC2086 # flags are lists of words
set -eu
start=$PWD
cd "$(dirname "$0")"

target= cc=${CC:-} stb= arch= model= photos=
for argument; do
    case $argument in
        cc=*) cc=${argument#*=} ;;
        stb=*) stb=${argument#*=} ;;
        arch=*) arch=${argument#*=} ;;
        photos=*) photos=${argument#*=}; case $photos in /*) ;; *) photos=$start/$photos ;; esac ;;
        cpu | cuda | debug | asan | emulated-asan | test | demo | windows | windows-test | clean) target=$argument ;;
        *.pt) case $argument in /*) model=$argument ;; *) model=$start/$argument ;; esac ;;
        help | -h | --help) sed -n '4,13s/^# *//p' build.sh; exit 0 ;;
        *) echo "build.sh: unknown argument $argument: see ./build.sh help" >&2; exit 2 ;;
    esac
done

warnings="-Wall -Wextra"
# The same numbers from every compiler: no contraction into FMA but where the source says so.
flags="-std=c11 -O3 -ffp-contract=off $warnings -ffunction-sections -fdata-sections${stb:+ -I$stb}"
libraries="-lm -lpthread -ldl"

fail() { echo "build.sh: $1" >&2; exit 1; }
say() { printf '  %s %-10s %s\n' "$1" "$2" "$3"; }
run() { echo "+ $*"; "$@"; }
have() { command -v "$1" >/dev/null 2>&1; }

# install PACKAGE REASON: from Debian where that is allowed, else says what to do.
install() {
    have apt-get || fail "$2; install what Debian calls $1, then: ./build.sh $target"
    [ "$(id -u)" = 0 ] || fail "$2; next: sudo apt-get install $1 && ./build.sh $target"
    run apt-get -qq update || true
    run env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$1" >/dev/null ||
        fail "$2, and apt-get could not install $1"
}

# compiles COMMAND...: does the C program on standard input compile and link?
compiles() { "$@" -o "$probe" >$probe.log 2>&1; }

probe_compiler() {
    [ -n "$cc" ] || for cc in cc gcc clang ''; do [ -n "$cc" ] && have "$cc" && break; done
    [ -n "$cc" ] || { install "gcc libc6-dev" "no C compiler found"; cc=gcc; }
    printf '#include <stdio.h>\n#include <pthread.h>\n#include <dlfcn.h>\n#include <math.h>\nint main(void) { return 0; }\n' >$probe.c
    compiles $cc $flags $probe.c $libraries ||
        { cat $probe.log >&2; fail "$cc cannot compile a C11 program with threads; next: ./build.sh $target cc=gcc"; }
    say ✓ "compiler" "$cc: $($cc --version | head -n 1)"
    gc="-Wl,--gc-sections -s"
    compiles $cc $flags $probe.c $libraries $gc || gc=
}

probe_stb() {
    printf '#if __has_include(<stb/stb_image.h>)\n#include <stb/stb_image_write.h>\n#else\n#include "stb_image_write.h"\n#endif\n' >$probe.c
    compiles ${1:-$cc} $flags $2 -w -c $probe.c && { say ✓ "stb" "stb_image, stb_image_write"; return; }
    say ✗ "stb" "stb_image.h not found"
    install libstb-dev "stb_image is missing (or give its folder: stb=DIR)"
    compiles ${1:-$cc} $flags $2 -w -c $probe.c || { cat $probe.log >&2; fail "stb_image does not compile"; }
}

# The GPUs of a program for all that this nvcc knows. Code for 8.6 runs on any 8.x from 8.6 on, so each major is here from its first
# minor on, and the minors that are other chips: 7.5 has the first tensor cores that the kernels use, 8.6 and 8.9 are GeForce's.
architectures="60 70 75 80 86 89 90 100 120"

# gencode ARCHITECTURE...: sets gpu_code to nvcc's words for those that nvcc knows, 1 if for none. Newer GPUs translate the last one's
# PTX. Code for 9.0 is of 90a, which has instructions that no other has, and PTX that is of no use to others.
gencode() {
    known=$(nvcc --list-gpu-arch | tr "\n" " ") gpu_code= last=
    for architecture; do
        case " $known" in *" compute_$architecture "*) ;; *) continue ;; esac
        last=$architecture
        [ $last != 90 ] || architecture=90a
        gpu_code="$gpu_code -gencode arch=compute_$architecture,code=sm_$architecture"
    done
    [ -n "$last" ] || return 1
    [ $# = 1 ] && [ $last = 90 ] || gpu_code="$gpu_code -gencode arch=compute_$last,code=compute_$last"
}

# The architectures of this machine's GPUs, such as "86 90".
native() { nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n 's/^\([0-9]*\)\.\([0-9]\)$/\1\2/p' | sort -nu; }

# Sets gpu_code where nvcc compiles, else returns 1.
probe_nvcc() {
    printf 'int main(void) { int n; return cudaGetDeviceCount(&n) != cudaSuccess; }\n' >$probe.cu
    if ! have nvcc && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
    if ! have nvcc; then say ✗ nvcc "not found: without GPUs"; return 1; fi
    compiles nvcc -cudart static $probe.cu || { say ✗ nvcc "does not compile ($probe.log): without GPUs"; return 1; }
    case $arch in
        '' | native) wanted=$(native) ;;
        all) wanted= ;;
        *) wanted=$(echo "$arch" | sed 's/^sm_//; s/^compute_//; s/\.//; s/a$//') ;;
    esac
    gencode ${wanted:-$architectures} || { [ -z "$arch" ] && gencode $architectures; } ||
        { say ✗ nvcc "does not know arch=$arch, but $known"; return 1; }
    # A seventh of the size, but drivers older than CUDA 12.4 cannot read it: not from nvcc 12, which has 7.0 and would serve them.
    case $known in *compute_70*) packed=-Xfatbin=-compress-all ;; *) packed=--compress-mode=size ;; esac
    say ✓ nvcc "$(nvcc --version | sed -n 's/.*\(release.*\)/\1/p'), code for$(echo "$gpu_code" | sed 's/-gencode [^ ]*code=//g')"
}

# The page as bytes of C, for yolo.c.
make_page() {
    [ -f ui.html ] || { rm -f build/ui.h; return 0; }
    { printf 'static const unsigned char ui_html[] = {\n'; od -An -v -tu1 ui.html | sed 's/[0-9][0-9]*/&,/g'; printf '};\n'; } >$probe.h
    cmp -s $probe.h build/ui.h || mv $probe.h build/ui.h
}

build_cpu() { run $cc $flags -DYOLO_NO_CUDA -o yolo yolo.c $libraries -static-libgcc $gc; ls -l yolo; }
# The program's half and the kernels at a time. Kernels whose registers do not suffice are listed.
build_cuda() {
    run $cc $flags -c yolo.c -o build/yolo.o &
    host=$!
    status=0
    run nvcc -O3 -std=c++17 $gpu_code $packed --threads 0 -Xptxas=-warn-spills -Xcompiler=-Wall,-Wextra,-ffp-contract=off,-ffunction-sections \
        -c kernels.cu -o build/kernels.o 2>build/nvcc.log || status=1
    cat build/nvcc.log >&2
    wait $host || status=1
    [ $status = 0 ] || fail "not built"
    say ✓ spills "$(grep -c 'Registers are spilled' build/nvcc.log) kernels spill registers"
    run nvcc -cudart static -Xcompiler=-static-libgcc,-static-libstdc++ -Xlinker=--gc-sections,-s -o yolo build/yolo.o build/kernels.o
    ls -l yolo
}
build_checked() { # build_checked OUTPUT SOURCE FLAGS...
    output=$1 source=$2; shift 2
    run $cc -std=c11 -ffp-contract=off $warnings ${stb:+-I$stb} -g "$@" -DYOLO_NO_CUDA -o "$output" "$source" $libraries
}
# stb shifts into and past the sign bit, which every compiler lets wrap: that one check is off.
sanitize="-O1 -fsanitize=address,undefined -fno-sanitize=shift-base -fno-sanitize-recover=all -fno-omit-frame-pointer"

build_windows() {
    cc=x86_64-w64-mingw32-gcc
    have $cc || install gcc-mingw-w64-x86-64 "no mingw-w64 compiler"
    say ✓ "compiler" "$($cc --version | head -n 1)"
    # gcc keeps no 32-byte stack alignment on Windows (its bug 54412), so aligned vector moves are assembled as unaligned ones.
    align=-Wa,-muse-unaligned-vector-move
    echo 'int main(void) { return 0; }' >$probe.c
    compiles $cc $align $probe.c || fail "mingw-w64 needs binutils 2.38 or newer ($align)"
    # Debian keeps stb in /usr/include/stb, which a cross compiler does not search: a link to that folder alone.
    if [ -z "$stb" ]; then
        [ -d /usr/include/stb ] || install libstb-dev "stb_image is missing (or give its folder: stb=DIR)"
        mkdir -p build/include && ln -sfn /usr/include/stb build/include/stb
        flags="$flags -Ibuild/include"
    fi
    run $cc $flags $align -DYOLO_NO_CUDA -o "$1" "$2" -static -lshell32 -lws2_32 -Wl,--gc-sections -s
    ls -l "$1"
}

# kernels.cu as C++, with tests/emulate in CUDA's place: build_emulated OUTPUT FLAGS...
build_emulated() {
    output=$1; shift
    cxx=
    for cxx in c++ g++ clang++ ''; do [ -n "$cxx" ] && have "$cxx" && break; done
    [ -n "$cxx" ] || { install g++ "no C++ compiler found"; cxx=g++; }
    run $cxx -std=c++17 $warnings -Wno-unknown-pragmas -g "$@" -x c++ -Itests/emulate -I. -c kernels.cu -o "$output-kernels.o" &
    kernels=$!
    run $cxx -std=c++17 $warnings -g "$@" -Itests/emulate -c tests/emulate/emulate.cpp -o "$output-emulate.o" &&
        run $cc -std=c11 -ffp-contract=off $warnings ${stb:+-I$stb} -g "$@" -DTEST_GPU -DTEST_EMULATED -c tests/test.c -o "$output-test.o" &&
        wait $kernels && run $cxx "$@" "$output-test.o" "$output-kernels.o" "$output-emulate.o" -o "$output" $libraries
}

run_tests() {
    . tests/parts.sh
    mkdir -p build/logs
    part layout 60 sh tests/check_layout.sh
    rm -f build/test build/test-asan build/test-gpu
    # The tests use what they test: of the command line and the platform's part, that is not all.
    warnings="$warnings -Wno-unused-function"
    # shellcheck disable=SC2317 # called by name
    tests_sanitized() {
        build_checked build/test-asan tests/test.c $sanitize
        part unit-asan 900 build/test-asan
    }
    # shellcheck disable=SC2317
    tests_emulated() {
        build_emulated build/test-gpu -O2
        part gpu-emulated 800 build/test-gpu
    }
    # shellcheck disable=SC2317
    tests_plain() {
        build_checked build/test tests/test.c -O2
        part unit 800 build/test
    }
    # shellcheck disable=SC2317
    tests_vendored() {
        part harness 200 sh tests/harness.sh "$cc${stb:+ -I$stb}"
        part example 300 sh tests/example.sh "$cc${stb:+ -I$stb}"
    }
    parts_together tests_sanitized tests_emulated tests_plain tests_vendored
    part cli 300 sh tests/cli.sh ./yolo # alone: it looks at times
    part ui 100 sh tests/cli.sh --page ./yolo
    parts_end
}

[ "$target" = clean ] && { run rm -rf build yolo yolo.exe; exit 0; }
mkdir -p build
echo "yolo: build.sh ${target:=default}"
probe=build/probe-$target # builds of different targets may run at a time
make_page
case $target in
    windows) build_windows yolo.exe yolo.c; exit 0 ;;
    windows-test) build_windows build/test.exe tests/test.c; exit 0 ;;
esac
probe_compiler
probe_stb "$cc" ""
case $target in
    default) if probe_nvcc; then build_cuda; else build_cpu; fi ;;
    cuda) probe_nvcc || fail "the CUDA toolkit is needed; next: ./build.sh cpu"; build_cuda ;;
    cpu) build_cpu ;;
    debug) build_checked build/yolo-debug yolo.c -O0 ;;
    asan) build_checked build/yolo-asan yolo.c $sanitize ;;
    emulated-asan) warnings="$warnings -Wno-unused-function"; build_emulated build/test-gpu-asan $sanitize ;;
    test) build_cpu; run_tests ;;
    demo) build_cpu; sh tests/demo.sh "$model" "$photos" ;;
esac
