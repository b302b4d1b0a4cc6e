/* emulate.h - CUDA on the host, for tests: what a test may set and ask. Also for C.

   kernels.cu is compiled as C++ with the headers of this folder in place of CUDA's, and linked with emulate.cpp:

     g++ -std=c++17 -O2 -x c++ -Itests/emulate -I. -c kernels.cu -o build/kernels.o
     g++ -std=c++17 -O2 -Itests/emulate -c tests/emulate/emulate.cpp -o build/emulate.o
     g++ test.o build/kernels.o build/emulate.o -lpthread

   Each CUDA thread is a fiber. Those of a block take turns: one runs until it has to wait for others. What a kernel does wrong
   (a barrier that not all reach, lanes missing from a mask, a row that is not aligned, memory overrun) ends the program: "emulate: "
   on stderr with kernel, block, thread and line, then abort(). What the host does wrong is an error code, as from CUDA.

   What finds what:
     all ones          memory, shared memory and targets of cp.async hold them until something is written
     orders            emulate_set_order: a missing barrier gives other results in some of them
     -fsanitize=address,undefined   overruns at once, with their place, and whatever else they find in C++. Of static shared
                       arrays it is `undefined` that knows the bounds, as long as the index is applied to the array itself
     -fsanitize=thread races within a block and between blocks, with both places, whether or not a result differs. kernels.cu and the
                       tests are compiled with it, emulate.cpp with -DEMULATE_TSAN in its stead; clang's is many times faster than gcc's.
                       A shuffle, a vote or an mma orders no memory, __syncwarp does, as CUDA has it. Blocks that happen to run one
                       after the other on one OS thread are not compared: more workers, more blocks
     emulate_set_lazy, emulate_set_protect, emulate_fail_after   what the host does not wait for, touch, or expect

   Events tell a time that is made up: work moves a device's clock on by the number of its threads, or bytes. Work put onto one stream
   by one thread takes the same every time.

   Of Hopper there are barriers that count bytes, copies of tensors and wgmma; emulate.cpp's section 7 lists what it takes them to do, and
   from which document.

   Not emulated: real time, caches, weakly ordered memory (a missing __threadfence is not found), limits of registers and of
   __launch_bounds__, waiting in a loop for another thread's write (it never gets its turn), textures, clusters, cooperative
   launches. Kernels may have 128 KiB of stack. Linux, x86-64 and aarch64; other CPUs by ucontext, slowly.

   MIT licence, see LICENSE. */
#ifndef EMULATE_H
#define EMULATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All of the below as it was at the start. Memory stays allocated, handles stay valid. */
void emulate_reset(void);

/* Number of devices, 2 at first. 0: cudaErrorNoDevice, -1: no driver is installed, -2: the driver is too old. */
void emulate_set_device_count(int count);
/* Bytes that each device has, 2 GiB at first. */
void emulate_set_memory(size_t bytes);
/* Compute capability, 8.6 at first; it decides how much shared memory a block may have. */
void emulate_set_capability(int major, int minor);

/* In which order threads and blocks take turns. 0: forward, as at first; 1: backward; others are seeds of a shuffle that also
   changes in between. A correct kernel gives the same bits in every order. */
void emulate_set_order(uint64_t seed);
/* OS threads that run blocks of a grid; 0: as many as there are cores, as at first. */
void emulate_set_workers(int count);
/* When work is done that has been put onto a stream. 0: at once, as at first; 1: as late as somebody waits for it; 2: just as late,
   but then the streams that nobody waits for are first to go, as far as their events let them; others are seeds of a mixture of
   both. Finds hosts that do not wait, and streams that do not wait for each other: for what comes (1), with what goes (2). */
void emulate_set_lazy(uint64_t lazy);
/* Memory of devices that is allocated from now on can be touched by kernels of its device and of devices that have peer access,
   and by copies, but not by the host; false at first. Costs some microseconds an allocation and launch. */
void emulate_set_protect(int protect);

/* What becomes of it when a device reaches into the memory of another: nothing, as at first; none can; kernels read and write a
   byte of each piece of memory wrongly; the stream that a kernel is put onto never goes on, and who waits for it ends the
   program. Setting it again lets such streams go on. */
typedef enum emulate_peers { EMULATE_PEERS_GOOD, EMULATE_PEERS_NONE, EMULATE_PEERS_WRONG, EMULATE_PEERS_HANG } emulate_peers;
void emulate_set_peers(emulate_peers peers);

/* The n-th call from now fails (1: the next), launches included; 0: none does. Calls that free or destroy do so all the same. */
void emulate_fail_after(int64_t n);
/* What that call fails with, a number of CUDA (0: the usual one), and whether all calls after it do, as those to a GPU that is
   lost. To be called after emulate_fail_after, which puts it back. */
void emulate_fail_with(int error, int for_good);
/* Did that call come? */
int emulate_failed(void);

/* Counts since the start or emulate_reset: kernels launched, calls of the runtime. */
int64_t emulate_launches(void);
int64_t emulate_launched(const char *kernel); /* of those whose name contains `kernel`, as K_LAUNCH has it; since the start */
int64_t emulate_calls(void);
/* Bytes now allocated on a device, or pinned on the host: -1. */
size_t emulate_allocated(int device);
/* Number of streams, events, graphs that live. */
int emulate_handles(void);

/* Looks at the guard bands of all memory; an overrun ends the program. Synchronising and freeing do so too. */
void emulate_check(void);

#ifdef __cplusplus
}
#endif
#endif
