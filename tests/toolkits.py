#!/usr/bin/env python3
"""toolkits.py - do the CUDA toolkits that are not installed here build kernels.cu, with no warning?

    python3 tests/toolkits.py [12.1] [12.4] [13]

12.1: the oldest that README promises. Its nvcc cannot be had without NVIDIA's site, but what nvcc is made of can: the kernels
      go through NVRTC 12.1 and ptxas 12.1, the host's half against the headers of 12.1 through the front end of 12.4.
12.4: a whole nvcc 12, as Debian 13 has it: builds the program, links it, starts it.
13:   the newest nvcc of PyPI: the same.

What is fetched, 300 MB from PyPI and Debian, is kept in ~/.cache/yolo-toolkits. Ends with "N passed, N failed, N skipped";
what cannot be fetched is skipped."""
import concurrent.futures
import ctypes
import glob
import os
import re
import shutil
import subprocess
import sys
import threading

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
cache = os.path.expanduser("~/.cache/yolo-toolkits")
out = "build/toolkits"
STRICT = ["-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]

# Devices whose code differs: the first tensor cores; wgmma, beside all that devices with bf16 and asynchronous copies run. Without tensor
# cores: see 12.4.
NVRTC_ARCHITECTURES = "75", "90a"

# NVRTC knows no header but CUDA's, and no host: its half becomes device code, which it is enough to parse.
NVRTC_HEADERS = {
    "stdint.h": """
        typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t; typedef long intptr_t;
        typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t; typedef unsigned long uint64_t;
        typedef unsigned long uintptr_t;
        #define INT32_MAX 2147483647
        #define INT32_MIN (-INT32_MAX - 1)
        #define INT64_MAX 9223372036854775807L""",
    "math.h": """
        #define INFINITY __int_as_float(0x7f800000)
        #define NAN __int_as_float(0x7fffffff)""",
    "stdio.h": "template <typename... T> int snprintf(T...); template <typename... T> int vsnprintf(T...);",
    "stdlib.h": "void *calloc(size_t, size_t); void *realloc(void *, size_t);",
    "stddef.h": "#define offsetof(type, member) ((size_t)&((type *)0)->member)",
    "string.h": "int memcmp(const void *, const void *, size_t);",
    "stdbool.h": "", "stdarg.h": "",
    "time.h": "typedef long time_t; time_t time(time_t *); double difftime(time_t, time_t);",
}
NVRTC_PRELUDE = """
    namespace std {
    template <bool, typename A, typename> struct conditional { typedef A type; };
    template <typename A, typename B> struct conditional<false, A, B> { typedef B type; };
    template <typename, typename> struct is_same { static constexpr bool value = false; };
    template <typename A> struct is_same<A, A> { static constexpr bool value = true; };
    }
    const char *cudaGetErrorString(cudaError_t);
    template <typename T> static __inline__ __device__ cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, T *kernel) {
        return kernel ? cudaSuccess : cudaGetLastError();
    }
"""


class Skip(Exception):
    pass


def run(*command, **options):
    """The command's output; its failure is an error with that output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}\n{done.stdout[-4000:]}")
    return done.stdout


# ---- fetching

fetching = threading.Lock()


def fetched(name, fetch):
    """The folder of that name in the cache; fetch(folder) fills a new one, which takes its place when it is whole."""
    folder = os.path.join(cache, name)
    with fetching:
        if not os.path.isdir(folder):
            new = f"{folder}.{os.getpid()}"
            os.makedirs(new)
            try:
                fetch(new)
                os.rename(new, folder)
            except RuntimeError as error:
                raise Skip(f"{name} cannot be fetched: {str(error).strip().splitlines()[-1]}")
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return folder


def wheels(folder, *packages):
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder, *packages)
    for wheel in glob.glob(f"{folder}/*.whl"):
        run(sys.executable, "-m", "zipfile", "-e", wheel, folder)
        os.remove(wheel)


def toolkit_12_1(folder):
    wheels(folder, "nvidia-cuda-nvcc-cu12==12.1.105", "nvidia-cuda-nvrtc-cu12==12.1.105", "nvidia-cuda-runtime-cu12==12.1.105")
    os.chmod(f"{folder}/nvidia/cuda_nvcc/bin/ptxas", 0o755)


def toolkit_12_4(folder):
    """Programs from Debian's package, headers and library from PyPI's, laid out as NVIDIA does."""
    wheels(folder, "nvidia-cuda-nvcc-cu12==12.4.131", "nvidia-cuda-runtime-cu12==12.4.127")
    apt = f"{folder}/apt"
    for part in "lists/partial", "cache/archives/partial":
        os.makedirs(f"{apt}/{part}")
    open(f"{apt}/status", "w").close()
    with open(f"{apt}/sources.list", "w") as file:
        file.write("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie non-free\n")
    options = [f"-oDir::Etc::sourcelist={apt}/sources.list", "-oDir::Etc::sourceparts=-", f"-oDir::State::lists={apt}/lists",
               f"-oDir::Cache={apt}/cache", f"-oDir::State::status={apt}/status", "-oAcquire::Retries=1", "-oAcquire::http::Timeout=30"]
    if not shutil.which("apt-get"):
        raise RuntimeError("there is no apt-get")
    run("apt-get", *options, "update")
    run("apt-get", *options, "download", "nvidia-cuda-toolkit", cwd=folder)
    package, = glob.glob(f"{folder}/*.deb")
    run("dpkg-deb", "-x", package, apt)
    os.makedirs(f"{folder}/bin")
    os.makedirs(f"{folder}/nvvm/bin")
    os.makedirs(f"{folder}/lib")
    for name in "cudafe++", "ptxas", "fatbinary", "nvlink":
        shutil.move(f"{apt}/usr/bin/{name}", f"{folder}/bin/{name}")
    debian = f"{apt}/usr/lib/nvidia-cuda-toolkit"
    shutil.move(f"{debian}/bin/nvcc", f"{folder}/bin/nvcc")
    shutil.move(f"{debian}/bin/cicc", f"{folder}/nvvm/bin/cicc")
    shutil.move(f"{debian}/bin/crt", f"{folder}/bin/crt")
    shutil.move(f"{debian}/libdevice", f"{folder}/nvvm/libdevice")
    for part in "runtime", "nvcc":
        shutil.copytree(f"{folder}/nvidia/cuda_{part}/include", f"{folder}/include", dirs_exist_ok=True)
    shutil.move(f"{folder}/nvidia/cuda_runtime/lib/libcudart.so.12", f"{folder}/lib/libcudart.so.12")
    os.symlink("libcudart.so.12", f"{folder}/lib/libcudart.so")
    with open(f"{folder}/bin/nvcc.profile", "w") as file:
        file.write("TOP = $(_HERE_)/..\nCICC_PATH = $(TOP)/nvvm/bin\nNVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice\n"
                   "PATH += $(CICC_PATH):$(_HERE_):\nINCLUDES += \"-I$(TOP)/include\" $(_SPACE_)\nLIBRARIES =+ $(_SPACE_) \"-L$(TOP)/lib\"\n")
    os.remove(package)
    shutil.rmtree(apt)


def toolkit_13(folder):
    wheels(folder, "nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-runtime")
    for program in glob.glob(f"{folder}/nvidia/cu13/bin/*") + glob.glob(f"{folder}/nvidia/cu13/nvvm/bin/*"):
        os.chmod(program, 0o755)


# ---- building

def nvrtc(folder, architecture):
    """The PTX of kernels.cu."""
    library = ctypes.CDLL(f"{folder}/nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    with open("kernels.cu") as file:
        source = file.read()
    called = sorted(set(re.findall(r"\b(cuda[A-Z]\w*)\(", source)) - {"cudaGetErrorString", "cudaFuncGetAttributes"})
    called.append("cudaGetDeviceProperties_v2")
    prelude = NVRTC_PRELUDE + "".join(f"template <typename... T> cudaError_t {name}(T...);\n" for name in called)
    headers = dict(NVRTC_HEADERS, prelude=prelude)
    options = [f"--gpu-architecture=compute_{architecture}", "-std=c++17", "-default-device", "-rdc=true", "-I.", "--pre-include=prelude",
               f"-I{folder}/nvidia/cuda_runtime/include", f"-I{folder}/nvidia/cuda_nvcc/include"]

    def strings(texts):
        return (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])

    def text(size, get):
        count = ctypes.c_size_t()
        size(program, ctypes.byref(count))
        buffer = ctypes.create_string_buffer(count.value)
        get(program, buffer)
        return buffer.value.decode()

    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", len(headers), strings(headers.values()), strings(headers))
    status = library.nvrtcCompileProgram(program, len(options), strings(options))
    log = text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
    if status or "warning" in log:
        raise RuntimeError(f"NVRTC: status {status}\n{log[:4000]}")
    return text(library.nvrtcGetPTXSize, library.nvrtcGetPTX)


def check_nvrtc(architecture):
    folder = fetched("12.1", toolkit_12_1)
    ptx, cubin = f"{out}/{architecture}.ptx", f"{out}/{architecture}.cubin"
    with open(ptx, "w") as file:
        file.write(nvrtc(folder, architecture))
    log = run(f"{folder}/nvidia/cuda_nvcc/bin/ptxas", "-v", "-c", f"-arch=sm_{architecture}", ptx, "-o", cubin)
    kernels = log.count("Compiling entry function")
    if "warning" in log or kernels < 100:
        raise RuntimeError(f"{kernels} kernels\n{log[:4000]}")
    return f"{kernels} kernels, {os.path.getsize(cubin)} bytes"


def check_headers_12_1():
    """Of the device's half no more than PTX: ptxas is what other checks are about."""
    old, new = fetched("12.1", toolkit_12_1), fetched("12.4", toolkit_12_4)
    run(f"{new}/bin/nvcc", *STRICT, "-arch=compute_70", f"-I{old}/nvidia/cuda_runtime/include", f"-I{old}/nvidia/cuda_nvcc/include", "-c", "kernels.cu",
        "-o", f"{out}/headers.o")
    return f"{os.path.getsize(f'{out}/headers.o')} bytes"


def check_nvcc(bin, architecture, name, *link):
    program, environment = f"{out}/yolo-{name}", dict(os.environ, LD_LIBRARY_PATH=f"{bin}/../lib")
    fast = ["-Ofc", "max"] if "Ofast-compile" in run(f"{bin}/nvcc", "--help") else ["-O1"]  # the same code generators, in less time
    run(f"{bin}/nvcc", *STRICT, *fast, f"-arch=sm_{architecture}", f"{out}/yolo.o", "kernels.cu", "-o", program, *link)
    run(program, "devices", env=environment)
    version = re.search(r"V[\d.]+", run(f"{bin}/nvcc", "--version"))[0]
    return f"{version}, sm_{architecture}, {os.path.getsize(program)} bytes"


def main(wanted):
    os.makedirs(out, exist_ok=True)
    run("cc", "-std=c11", "-O0", "-w", "-c", "yolo.c", "-o", f"{out}/yolo.o")  # knows nothing of CUDA, serves all
    checks = []
    if "13" in wanted:
        checks.append(("13: nvcc", lambda: check_nvcc(fetched("13", toolkit_13) + "/nvidia/cu13/bin", "90a", "13")))
    if "12.4" in wanted:
        checks.append(("12.4: nvcc", lambda: check_nvcc(fetched("12.4", toolkit_12_4) + "/bin", "60", "12.4", "-cudart", "shared")))
    if "12.1" in wanted:
        checks.append(("12.1: headers", check_headers_12_1))
        checks += [(f"12.1: NVRTC and ptxas, compute_{a}", lambda a=a: check_nvrtc(a)) for a in NVRTC_ARCHITECTURES]
    counts = dict(ok=0, FAIL=0, skip=0)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (name, _), future in [(check, pool.submit(check[1])) for check in checks]:
            try:
                verdict, text = "ok", future.result()
            except Skip as reason:
                verdict, text = "skip", str(reason)
            except Exception as error:
                verdict, text = "FAIL", str(error)
            counts[verdict] += 1
            print(f"{verdict:4} {name}: {text}", flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return counts["FAIL"] != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["12.1", "12.4", "13"]))
