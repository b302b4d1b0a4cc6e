/* kernels.cu - the GPU half of the engine; yolo.c is the other half, yolo.h's private part the boundary between them.

   It is: CUDA C++ behind plain C names (yg_*), linked with cudart alone, statically, so that the executable starts on a
   machine without a driver. It is not: a library of its own; no cuDNN, no cuBLAS, and NCCL is never linked.
   So far it finds devices; no kernel is here yet.

   CONTENTS (tests/check_layout.sh compares this list with the banners below)
     K1 k_             conventions: error texts
     K2 yg_            devices: discovery, memory, peer access, versions

   LAYERING: a section calls only itself and sections above it.

   MIT licence, see LICENSE. */
#define YOLO_PRIVATE
#include "yolo.h"

#include <cuda_runtime.h>
#include <stdio.h>

/* ==== K1 k_: conventions ========================================================================================
   A call that can fail returns its CUDA error number, 0 for success, and leaves a sentence in the caller's buffer.
   CUDA keeps the last error of a thread; whoever reports one clears it, so that it is not reported twice. */

/* Writes "what: CUDA's text (error N)" into `reason` and returns the error's number. */
static int k_reason(cudaError_t error, const char *what, char *reason, size_t reason_size) {
    if (error == cudaSuccess) return 0;
    (void)cudaGetLastError();
    if (reason && reason_size) snprintf(reason, reason_size, "%s: %s (CUDA error %d)", what, cudaGetErrorString(error), (int)error);
    return (int)error;
}

/* "13.0" for 13000. */
static void k_version_text(int version, char *text, size_t size) {
    snprintf(text, size, "%d.%d", version / 1000, version % 1000 / 10);
}

/* ==== K2 yg_: devices ===========================================================================================
   Discovery only reads. It makes a context on a device where free memory is asked for, and changes no device's state;
   the calling thread's current device is the same afterwards. */

void yg_versions(int *driver, int *runtime) {
    if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
    if (cudaRuntimeGetVersion(runtime) != cudaSuccess) *runtime = 0;
    (void)cudaGetLastError();
}

int yg_device_count(char *reason, size_t reason_size) {
    int driver, runtime, count = 0;
    char have[16], need[16];
    yg_versions(&driver, &runtime);
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) return count;
    (void)cudaGetLastError();
    if (error == cudaErrorNoDevice) return 0;
    k_version_text(driver, have, sizeof have);
    k_version_text(runtime, need, sizeof need);
    if (!driver) snprintf(reason, reason_size, "no NVIDIA driver is installed, or it does not run");
    else if (error == cudaErrorInsufficientDriver)
        snprintf(reason, reason_size, "the NVIDIA driver supports CUDA %s, this program needs %s: install a newer driver", have, need);
    else k_reason(error, "GPUs cannot be counted", reason, reason_size);
    return -1;
}

/* Which of `count` devices this one reads directly, as bits. */
static uint64_t yg_peers(int index, int count) {
    uint64_t peers = 0;
    for (int other = 0; other < count && other < 64; other++) {
        int direct = 0;
        if (other != index && cudaDeviceCanAccessPeer(&direct, index, other) == cudaSuccess && direct) peers |= (uint64_t)1 << other;
    }
    (void)cudaGetLastError();
    return peers;
}

int yg_device_get(int index, yg_device *device, char *reason, size_t reason_size) {
    cudaDeviceProp properties;
    int count = 0, current = 0;
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
    if (error != cudaSuccess) return k_reason(error, "the GPU's properties cannot be read", reason, reason_size);
    *device = yg_device();
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->memory_total = properties.totalGlobalMem;
    device->compute_major = properties.major;
    device->compute_minor = properties.minor;
    device->multiprocessors = properties.multiProcessorCount;
    device->peer_access = yg_peers(index, count);
    if ((error = cudaGetDevice(&current)) == cudaSuccess && (error = cudaSetDevice(index)) == cudaSuccess) {
        error = cudaMemGetInfo(&free_bytes, &total_bytes);
        (void)cudaSetDevice(current);
    }
    device->memory_free = free_bytes;
    return k_reason(error, "the GPU's free memory cannot be read", reason, reason_size);
}
