/* emulate.cpp - CUDA on the host, for tests: what runs kernels, and the runtime. See emulate.h.

   CONTENTS
     1  state and complaints
     2  guarded memory
     3  static shared memory
     4  fibers
     5  a block: turns, barriers, meetings of lanes
     6  warps: votes, shuffles, matrices, copies
     7  Hopper: barriers with phases, tensors, products of warpgroups
     8  a grid: workers
     9  the runtime: errors and devices
     10 the runtime: memory
     11 the runtime: streams, events, graphs, launches
     12 knobs

   MIT licence, see LICENSE. */
#include "emulate.h"
#include "cuda.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#define EMULATE_UCONTEXT
#endif
#ifdef EMULATE_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATE_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define EMULATE_ASAN
#endif
#ifdef EMULATE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#error "emulate.cpp itself is compiled with -DEMULATE_TSAN in place of -fsanitize=thread"
#endif
#ifdef EMULATE_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(const void *memory, unsigned long bytes);
extern "C" void __tsan_write_range(void *memory, unsigned long bytes);
extern "C" void AnnotateIgnoreReadsBegin(const char *file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char *file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char *file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

__thread const uint3 *emulate_thread_index;
__thread const emulate_block *emulate_block_now;

namespace {

/* ==== 1 state and complaints ==================================================================================== */

enum { WARP = 32, THREADS = 1024, WARPS = THREADS / WARP, DEVICES = 16, L2_CACHE = 4 << 20 };

struct settings {
    int device_count = 2;
    size_t memory = (size_t)2 << 30;
    int major = 8, minor = 6;
    uint64_t order = 0;
    int workers = 0;
    uint64_t lazy = 0;
    bool protect = false;
    emulate_peers peers = EMULATE_PEERS_GOOD;
};
settings knobs;
std::atomic<int64_t> fail_after{0}, call_count{0}, launch_count{0};
std::atomic<bool> call_failed{false};
std::mutex launch_lock;
std::map<std::string, int64_t> launch_names;
std::atomic<int> failure{0}; /* of the call that fails; 0: its usual one */
std::atomic<bool> lost{false}, loses{false}; /* do all calls fail, will they after that one? */

/* A static shared variable: where it is in an OS thread's thread-local block. */
struct region { size_t offset, bytes; };

/* A kernel launched: everything that running it needs. */
struct work {
    std::string name;
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    std::unique_ptr<const emulate_callable> thread;
    const std::vector<region> *statics;
};

const char *kind_name(emulate_kind kind) {
    static const char *names[] = {"a barrier of the block", "__syncwarp", "a vote of the warp", "a shuffle", "mma", "ldmatrix", "a barrier of some warps",
                                  "mma of a tile", "a phase of a barrier", "wgmma", "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group"};
    return names[kind];
}

[[noreturn]] void die() {
    fflush(stdout);
    fflush(stderr);
    abort();
}

/* ==== 2 guarded memory ==========================================================================================
   Bands of a pattern before and behind what was asked for. With the address sanitizer nothing may touch them; without,
   they are looked at when memory is freed, a block ends, or the host synchronises. */

enum { BAND = 256 };
const unsigned char band_byte = 0xa5;
struct band_pattern {
    unsigned char bytes[BAND + 16];
    band_pattern() { memset(bytes, band_byte, sizeof bytes); }
};
const band_pattern band;

struct guarded {
    unsigned char *user = NULL;
    size_t bytes = 0, tail = 0;
    bool pages = false; /* has pages for itself */
};

guarded guarded_make(size_t bytes, bool pages) {
    guarded memory;
    void *base = NULL;
    memory.bytes = bytes;
    memory.tail = BAND + (-bytes & 15);
    memory.pages = pages;
    if (pages) {
        base = mmap(NULL, BAND + bytes + memory.tail, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return memory;
        madvise(base, BAND + bytes + memory.tail, MADV_HUGEPAGE); /* fewer pages to open and close */
    } else if (posix_memalign(&base, 256, BAND + bytes + memory.tail)) return memory;
    memory.user = (unsigned char *)base + BAND;
    memset(base, band_byte, BAND);
    memset(memory.user, 0xff, bytes);
    memset(memory.user + bytes, band_byte, memory.tail);
#ifdef EMULATE_ASAN
    __asan_poison_memory_region(base, BAND);
    __asan_poison_memory_region(memory.user + bytes, memory.tail);
#endif
    return memory;
}

/* Only of memory that has pages for itself. */
void guarded_open(const guarded &memory, bool open) {
    if (memory.pages) mprotect(memory.user - BAND, BAND + memory.bytes + memory.tail, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* Offset from the memory's start of a byte that was overwritten; 0 = none. */
ptrdiff_t guarded_overrun(const guarded &memory) {
#ifndef EMULATE_ASAN
    if (!memcmp(memory.user - BAND, band.bytes, BAND) && !memcmp(memory.user + memory.bytes, band.bytes, memory.tail)) return 0;
    for (ptrdiff_t i = -1; i >= -BAND; i--)
        if (memory.user[i] != band_byte) return i;
    for (size_t i = memory.bytes; i < memory.bytes + memory.tail; i++)
        if (memory.user[i] != band_byte) return (ptrdiff_t)i;
#endif
    (void)memory;
    return 0;
}

void guarded_free(guarded *memory) {
    if (!memory->user) return;
    unsigned char *base = memory->user - BAND;
#ifdef EMULATE_ASAN
    __asan_unpoison_memory_region(base, BAND + memory->bytes + memory->tail);
#endif
    if (memory->pages) munmap(base, BAND + memory->bytes + memory->tail);
    else free(base);
    *memory = guarded();
}

/* ==== 3 static shared memory ====================================================================================
   Static shared variables are thread-local ones of functions. The executable's table of symbols tells which a kernel has, so
   that they too are all ones at a block's start. Those of device functions (d_...) are taken as every kernel's. Where there is
   no table, they keep what they had. */

/* This OS thread's thread-local block of the executable. */
struct thread_locals { uintptr_t load; unsigned char *start; size_t bytes; };

int see_object(struct dl_phdr_info *info, size_t, void *out) {
    thread_locals *t = (thread_locals *)out;
    t->load = info->dlpi_addr;
    t->start = (unsigned char *)info->dlpi_tls_data;
    t->bytes = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_TLS) t->bytes = info->dlpi_phdr[i].p_memsz;
    return 1; /* the executable comes first, and is all */
}

thread_locals thread_locals_find() {
    thread_locals t = {0, NULL, 0};
    dl_iterate_phdr(see_object, &t);
    if (!t.start) t.bytes = 0;
    return t;
}

struct symbol_table {
    std::map<uintptr_t, std::string> functions; /* by address; names without _Z, L */
    std::vector<std::pair<std::string, region>> statics; /* names without _ZZ, L: function, E, variable */
};

std::string stem(const char *mangled, size_t prefix) {
    mangled += prefix;
    return mangled + (*mangled == 'L');
}

symbol_table symbols_read() {
    symbol_table table;
    struct stat status;
    const uintptr_t load = thread_locals_find().load;
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) return table;
    const size_t bytes = (size_t)status.st_size;
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (memory == MAP_FAILED) return table;
    const char *image = (const char *)memory;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)image;
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(image + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const ElfW(Sym) *symbols = (const ElfW(Sym) *)(image + sections[i].sh_offset);
        const char *names = image + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++) {
            const ElfW(Sym) *s = &symbols[k];
            const char *name = names + s->st_name;
            if ((s->st_info & 15) == STT_TLS && !strncmp(name, "_ZZ", 3)) table.statics.push_back({stem(name, 3), {s->st_value, s->st_size}});
            else if ((s->st_info & 15) == STT_FUNC && !strncmp(name, "_Z", 2)) table.functions[load + s->st_value] = stem(name, 2);
        }
    }
    munmap(memory, bytes);
    return table;
}

bool of_device_function(const std::string &name) {
    const size_t digits = name.find_first_not_of("0123456789");
    return digits && digits != std::string::npos && !name.compare(digits, 2, "d_");
}

struct kernel_statics { std::vector<region> regions; size_t own = 0; /* bytes of those that are the kernel's alone */ };

const kernel_statics *statics_of(const void *kernel) {
    static std::mutex guard;
    static std::map<const void *, kernel_statics> known;
    std::lock_guard<std::mutex> hold(guard);
    static const symbol_table table = symbols_read();
    const auto found = known.find(kernel);
    if (found != known.end()) return &found->second;
    kernel_statics *result = &known[kernel];
    const auto function = table.functions.find((uintptr_t)kernel);
    const std::string prefix = function == table.functions.end() ? "" : function->second + "E";
    for (const auto &s : table.statics) {
        const bool own = !prefix.empty() && !s.first.compare(0, prefix.size(), prefix);
        if (own) result->own += s.second.bytes;
        if (own || of_device_function(s.first)) result->regions.push_back(s.second);
    }
    return result;
}

/* ==== 4 fibers ==================================================================================================
   A stack each, and the registers that a call preserves on top of it. They stay on the OS thread that made them. */

/* Where somebody waits, and the sanitizer's part of it. */
struct place { void *stack_pointer, *fake; };

struct fiber {
    char *low; /* of the stack */
    size_t size;
    place idle; /* where it waits for a lane to begin */
};

#if defined(EMULATE_UCONTEXT)
void emulate_switch(void **from, void *to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, (ucontext_t *)to);
}
#elif defined(__x86_64__)
extern "C" void emulate_switch(void **from, void *to);
asm(R"(
    .text
    .globl emulate_switch
    .hidden emulate_switch
    .type emulate_switch,@function
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulate_switch,.-emulate_switch
)");
enum { SAVED_RETURN = 6, FRAME_WORDS = 8 };
#elif defined(__aarch64__)
extern "C" void emulate_switch(void **from, void *to);
asm(R"(
    .text
    .globl emulate_switch
    .hidden emulate_switch
    .type emulate_switch,%function
emulate_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulate_switch,.-emulate_switch
)");
enum { SAVED_RETURN = 11, FRAME_WORDS = 20 };
#endif

/* Where a new stack waits, so that a switch to it calls `function`. */
void *stack_start(char *low, size_t size, void (*function)()) {
#ifdef EMULATE_UCONTEXT
    ucontext_t *start = (ucontext_t *)(low + size) - 1;
    getcontext(start);
    start->uc_stack.ss_sp = low;
    start->uc_stack.ss_size = size - sizeof *start;
    start->uc_link = NULL;
    makecontext(start, function, 0);
    return start;
#else
    void **frame = (void **)(low + size) - FRAME_WORDS;
    for (int i = 0; i < FRAME_WORDS; i++) frame[i] = NULL;
    frame[SAVED_RETURN] = (void *)function;
    return frame;
#endif
}

/* For the thread sanitizer each lane is a thread of its own, which waits for others only by what a kernel says. Two lanes of
   a block must not have the same stack then, be it one after the other: what they keep there would look shared. */
#ifdef EMULATE_TSAN
const bool own_stacks = true;
inline void tsan_make(void **who) { /* who is made knows all that its maker does */
    if (!*who) *who = __tsan_create_fiber(0);
}
inline void tsan_forget(void *who) {
    if (who) __tsan_destroy_fiber(who);
}
inline void tsan_turn(void *who) { __tsan_switch_to_fiber(who, __tsan_switch_to_fiber_no_sync); }
inline void tsan_give(void *to) { __tsan_release(to); }
inline void tsan_take(void *from) { __tsan_acquire(from); }
inline void tsan_read(const void *memory, size_t bytes) { __tsan_read_range(memory, bytes); }
inline void tsan_write(void *memory, size_t bytes) { __tsan_write_range(memory, bytes); }
inline void *tsan_self() { return __tsan_get_current_fiber(); }
/* What is copied meanwhile is not the running lane's doing: even here memcpy and memset are the sanitizer's. */
struct tsan_blind {
    tsan_blind() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
    ~tsan_blind() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }
};
#else
const bool own_stacks = false;
inline void tsan_make(void **) {}
inline void tsan_forget(void *) {}
inline void tsan_turn(void *) {}
inline void tsan_give(void *) {}
inline void tsan_take(void *) {}
inline void tsan_read(const void *, size_t) {}
inline void tsan_write(void *, size_t) {}
inline void *tsan_self() { return NULL; }
struct tsan_blind { tsan_blind() {} };
#endif

#ifdef EMULATE_ASAN
const size_t stack_bytes = 512 << 10;
#else
const size_t stack_bytes = 128 << 10;
#endif
const size_t stack_guard = 4096;

/* Leaves `from` for `to`, which waits on `on`; returns when somebody comes back. */
inline void change_place(place *from, const place *to, const fiber *on) {
#ifdef EMULATE_ASAN
    __sanitizer_start_switch_fiber(&from->fake, on->low, on->size);
#endif
    (void)on;
    emulate_switch(&from->stack_pointer, to->stack_pointer);
#ifdef EMULATE_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

/* ==== 5 a block: turns, barriers, meetings of lanes =============================================================
   Lanes that can run are bits of their warp, warps that have some are bits of the block. A lane that has to wait gives its turn
   to the next; one that ends lets its fiber take the next lane that has not begun, so that a kernel which never waits is a
   loop on one stack. Nothing ready while some have not ended is a deadlock. */

struct async_copy { void *to; int bytes, group; unsigned char data[16]; };
struct async_copies { /* a vector's growth, out of the way of a loop that adds to it */
    async_copy *items = NULL;
    int count = 0, room = 0;
    ~async_copies() { free(items); }
    __attribute__((noinline)) void grow() { items = (async_copy *)realloc(items, (size_t)(room = 2 * room + 8) * sizeof *items); }
    async_copy *add() {
        if (count == room) grow();
        return &items[count++];
    }
};

/* Hopper's, see section 7. */
struct phased { unsigned char *at; int arrivals, missing, bytes; unsigned phase; bool fenced; };
const uint64_t map_magic = 0x70616d726f736e65u, phase_magic = 0x6573616870u;
struct tensor_map { /* what is in a CUtensorMap */
    uint64_t magic, strides[4];
    unsigned char *address;
    uint32_t sizes[5]; /* less 1 */
    uint16_t box[5];   /* im2col: channels, pixels */
    int8_t lower[2], upper[2];
    uint8_t steps[5], rank, element, swizzled, windows;
};
static_assert(sizeof(tensor_map) <= sizeof(CUtensorMap), "the driver's maps are as large");
struct tensor_copy { tensor_map map; unsigned char *to; int at[5], offsets[2]; unsigned char *barrier; };
struct named_barrier { int threads, arrived, waiting_count; struct lane *waiting[THREADS]; };
struct product { int group; uint64_t a, b, sum; int columns; };
struct accumulators { float *d[32]; int columns; std::vector<float> value; };

struct warp;
struct worker;

struct lane {
    uint3 index; /* what emulate_thread_index points to */
    unsigned number; /* in its warp */
    warp *team;
    worker *home;
    fiber *on; /* NULL: has not begun */
    place at;  /* where it waits */
    void *tsan;
    emulate_kind waits;
    unsigned mask;
    int line;
    const unsigned char *barrier; /* whose phase it waits for, NULL = none */
    int parity;
    int group; /* of copies, that is being filled */
    async_copies copies;
};

struct meeting { unsigned mask, arrived; emulate_kind kind; int detail; };

struct warp {
    unsigned bit; /* among warps */
    lane *first;
    unsigned lanes, ready, ended, at_barrier;
    int meeting_count;
    meeting meetings[WARP];
    uint64_t value[WARP], result[WARP];
    int source[WARP];
    float *d[WARP];
    const uint32_t *a[WARP], *b[WARP];
    const void *const *a_rows[WARP], *const *b_rows[WARP];
    uint32_t *r[WARP];
    const unsigned char *row[WARP];
    int product_group; /* of wgmma, that is being filled */
    bool product_fenced;
    std::vector<product> products;          /* begun and not yet waited for, in their order */
    std::vector<accumulators> accumulators_; /* of them */
    std::vector<uint64_t> descriptors;       /* of all since the block's start */
};

/* Products of 16 rows by 8 columns. Of A and B two 16-bit elements a word, the lower half first: of a row of A by columns, of B by rows. */
enum { PIECES_HIGH = 8, PIECES_WIDE = 32, PIECES = 64 };
struct tiles {
    alignas(64) uint32_t a[PIECES_HIGH][16][8], b[PIECES_WIDE][8][8];
    float right[PIECES_WIDE][16][8]; /* B as floats */
    float d[PIECES][16][8];
    int high, wide, pairs;
};

struct worker {
    emulate_block block;
    tiles product;
    const work *job = NULL;
    lane lanes[THREADS];
    warp warps[WARPS];
    unsigned ready; /* warps with ready lanes */
    warp *now; /* whose lanes take turns */
    int thread_count, live;
    int arrived, votes, barrier_line, barrier_result[2], barrier_count;
    bool forward, backward, shuffled;
    unsigned turn_lane, turn_warp; /* where the search for the next begins */
    uint64_t random;
    guarded shared;
    std::vector<phased> phases;
    std::vector<tensor_copy> tensor_copies; /* on their way */
    named_barrier named[16];
    thread_locals locals = thread_locals_find();
    fiber host;     /* what waits for the block's end */
    fiber *running; /* the one begun last */
    void *host_tsan;
    fiber stacks[THREADS];
    int stack_count = 0;
    fiber *idle[THREADS], *used[THREADS]; /* those used are idle from the next block on */
    int idle_count = 0, used_count = 0;
    char *stack_memory = NULL;
    worker();
    ~worker();
};

__thread worker *worker_now; /* while a kernel runs */

/* The lane that runs. */
inline lane *lane_now() { return (lane *)emulate_thread_index; }

uint64_t random_next(uint64_t *state) { /* splitmix64 */
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* One of the bits of `set`, which is not empty. */
inline int choose(const worker *w, unsigned set, unsigned turn) {
    if (w->backward) return 31 - __builtin_clz(set);
    const unsigned rotated = set >> turn | set << (-turn & 31);
    return (int)((unsigned)__builtin_ctz(rotated) + turn) & 31;
}

void shuffle_turns(worker *w) {
    const uint64_t x = random_next(&w->random);
    w->turn_lane = x & 31;
    w->turn_warp = x >> 8 & 31;
    w->backward = x >> 16 & 1;
}

[[noreturn]] void deadlock(worker *w) {
    const uint3 b = w->block.index;
    int shown = 0, ended = 0;
    for (int i = 0; i < w->thread_count; i++) ended += w->warps[i / WARP].ended >> i % WARP & 1;
    fprintf(stderr, "emulate: %s, block (%u,%u,%u): deadlock: %d of %d threads have ended, no other can go on\n", w->job->name.c_str(), b.x, b.y, b.z,
            ended, w->thread_count);
    for (int i = 0; i < w->thread_count && shown < 20; i++) {
        const lane *t = &w->lanes[i];
        if (w->warps[i / WARP].ended >> i % WARP & 1) continue;
        const lane *before = i > 0 ? &w->lanes[i - 1] : NULL;
        const bool same = before && !(w->warps[(i - 1) / WARP].ended >> (i - 1) % WARP & 1) && before->waits == t->waits && before->mask == t->mask && before->line == t->line;
        if (same) continue;
        shown++;
        fprintf(stderr, "emulate:   thread (%u,%u,%u) and on: waits at %s, line %d", t->index.x, t->index.y, t->index.z, kind_name(t->waits), t->line);
        if (t->waits != EMULATE_BARRIER) fprintf(stderr, ", mask 0x%08x", t->mask);
        fprintf(stderr, "\n");
    }
    die();
}

void tensor_arrives(worker *w, size_t which);

/* When the warp's lanes all wait or have ended: another warp. Copies of tensors arrive when nobody can go on without them. */
__attribute__((noinline)) bool next_warp(worker *w) {
    w->ready &= ~w->now->bit;
    while (!w->ready && !w->tensor_copies.empty() && w->live) {
        const size_t count = w->tensor_copies.size();
        tensor_arrives(w, w->shuffled ? random_next(&w->random) % count : w->backward ? count - 1 : 0);
    }
    if (!w->ready) {
        if (w->live) deadlock(w);
        return false;
    }
    if (w->shuffled) shuffle_turns(w);
    w->now = &w->warps[choose(w, w->ready, w->turn_warp)];
    return true;
}

/* A lane that can run; NULL when all have ended. */
inline lane *next_lane(worker *w) {
    if (!w->now->ready && !next_warp(w)) return NULL;
    warp *p = w->now;
    const int i = choose(w, p->ready, w->turn_lane);
    p->ready &= ~(1u << i);
    return p->first + i;
}

/* The same; first tries the lane after `t`, which the processor guesses before it knows. */
inline lane *lane_after(worker *w, lane *t) {
    if (!w->forward || !(t->team->ready >> t->number >> 1 & 1)) return next_lane(w);
    t->team->ready ^= 2u << t->number;
    return t + 1;
}

void fiber_main();

__attribute__((noinline)) fiber *fiber_take(worker *w) {
    if (w->idle_count) return w->idle[--w->idle_count];
    const size_t stride = stack_guard + stack_bytes;
    const int i = w->stack_count++;
    fiber *f = &w->stacks[i];
    if (!w->stack_memory) {
        void *memory = mmap(NULL, stride * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) { fprintf(stderr, "emulate: no memory for stacks\n"); die(); }
        w->stack_memory = (char *)memory;
    }
    f->low = w->stack_memory + stride * (size_t)i + stack_guard;
    mprotect(f->low - stack_guard, stack_guard, PROT_NONE);
    /* Tops at different distances from the page's end, lest all stacks share a few sets of the cache. */
    f->size = stack_bytes - (size_t)(i % 31) * 320;
    f->idle = {stack_start(f->low, f->size, fiber_main), NULL};
    return f;
}

/* Gives the turn to `next`. */
inline void go_on(worker *w, place *from, lane *next) {
    const place *to = &next->at;
    if (!next->on) {
        next->on = w->running = fiber_take(w);
        to = &next->on->idle;
    }
    emulate_thread_index = &next->index;
    tsan_turn(next->tsan);
    change_place(from, to, next->on);
}

/* The running lane waits until it is ready again. */
inline void wait_turn(worker *w, lane *self) {
    lane *next = lane_after(w, self);
    if (next != self) go_on(w, &self->at, next);
}

/* Runs lanes that have not begun, one after the other. */
void fiber_main() {
    worker *w = worker_now;
    fiber *self = w->running;
#ifdef EMULATE_ASAN
    const void *low;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &low, &size);
    if (!w->host.low) w->host.low = (char *)low, w->host.size = size;
#endif
    for (;;) {
        tsan_take(w);
        w->job->thread->call();
        lane *t = lane_now();
        tsan_give(&w->live);
        t->team->ended |= 1u << t->number;
        w->live--;
        t = lane_after(w, t);
        if (t && !t->on && !own_stacks) {
            t->on = self;
            emulate_thread_index = &t->index;
            continue;
        }
        if (own_stacks) w->used[w->used_count++] = self;
        else w->idle[w->idle_count++] = self;
        if (t) go_on(w, &self->idle, t);
        else {
            tsan_turn(w->host_tsan);
            change_place(&self->idle, &w->host.idle, &w->host);
        }
    }
}

/* Why a lane may not be at this meeting. */
__attribute__((noinline)) void check_meeting(const lane *t, const meeting *here, emulate_kind kind, int detail, unsigned mask, int line) {
    const warp *p = t->team;
    if (!(mask >> t->number & 1)) emulate_die("%s, line %d: the mask 0x%08x does not name the calling lane %u", kind_name(kind), line, mask, t->number);
    if (mask & ~p->lanes) emulate_die("%s, line %d: the mask 0x%08x names lanes that the warp has not: it has 0x%08x", kind_name(kind), line, mask, p->lanes);
    if (mask & p->ended) emulate_die("%s, line %d: of the mask 0x%08x, lanes 0x%08x have ended", kind_name(kind), line, mask, mask & p->ended);
    if (here->kind != kind) emulate_die("%s, line %d: other lanes of the mask 0x%08x are at %s", kind_name(kind), line, mask, kind_name(here->kind));
    if (here->detail != detail) emulate_die("%s, line %d: other lanes are at one of another kind", kind_name(kind), line);
}

/* Arrives at a meeting of the lanes of `mask`. True for the last one, which then works for all and calls meet_end; for the
   others it is over when this returns. */
inline __attribute__((always_inline)) bool meet(lane *t, emulate_kind kind, int detail, unsigned mask, int line) {
    warp *p = t->team;
    const unsigned bit = 1u << t->number;
    int m = 0;
    while (m < p->meeting_count && p->meetings[m].mask != mask) m++;
    meeting *here = &p->meetings[m];
    if (m == p->meeting_count) {
        *here = {mask, 0, kind, detail};
        check_meeting(t, here, kind, detail, mask, line);
        p->meeting_count++;
    } else if (here->kind != kind || here->detail != detail || !(mask & bit)) check_meeting(t, here, kind, detail, mask, line);
    here->arrived |= bit;
    t->line = line;
    t->mask = mask;
    t->waits = kind;
    /* Of all meetings only this one promises that memory is seen. */
    if (kind == EMULATE_SYNCWARP) tsan_give(p);
    const bool last = here->arrived == mask;
    if (last) *here = p->meetings[--p->meeting_count];
    else wait_turn(t->home, t);
    if (kind == EMULATE_SYNCWARP) tsan_take(p);
    return last;
}

inline void meet_end(lane *t, unsigned mask) {
    worker *w = t->home;
    if (w->shuffled && !(random_next(&w->random) & 3)) {
        t->team->ready |= mask;
        shuffle_turns(w);
        w->now = &w->warps[choose(w, w->ready, w->turn_warp)];
        wait_turn(w, t);
    } else t->team->ready |= mask & ~(1u << t->number);
}

worker::worker() {
    host.low = NULL;
    for (int i = 0; i < THREADS; i++) {
        lanes[i].number = (unsigned)i % WARP;
        lanes[i].team = &warps[i / WARP];
        lanes[i].home = this;
        lanes[i].group = 0;
        lanes[i].tsan = NULL;
    }
    for (int i = 0; i < WARPS; i++) {
        warps[i].bit = 1u << i;
        warps[i].first = &lanes[i * WARP];
    }
}

worker::~worker() {
    for (lane &t : lanes) tsan_forget(t.tsan);
    if (stack_memory) munmap(stack_memory, (stack_guard + stack_bytes) * THREADS);
    guarded_free(&shared);
}

void block_start(worker *w, uint64_t number) {
    const work *job = w->job;
    const dim3 g = job->grid, b = job->block;
    w->block.index = {(unsigned)(number % g.x), (unsigned)(number / g.x % g.y), (unsigned)(number / g.x / g.y)};
    w->thread_count = w->live = (int)(b.x * b.y * b.z);
    w->arrived = w->votes = w->barrier_count = 0;
    while (w->used_count) w->idle[w->idle_count++] = w->used[--w->used_count];
    w->ready = 0;
    w->forward = knobs.order == 0;
    w->backward = knobs.order == 1;
    w->shuffled = knobs.order > 1;
    w->turn_lane = w->turn_warp = 0;
    w->random = knobs.order * 0x2545f4914f6cdd1du ^ number;
    if (w->shuffled) shuffle_turns(w);
    for (int i = 0; i < w->thread_count; i++) {
        lane *t = &w->lanes[i];
        t->on = NULL;
        tsan_make(&t->tsan);
        t->group = t->copies.count = 0;
        t->barrier = NULL;
    }
    for (int i = 0; i * WARP < w->thread_count; i++) {
        warp *p = &w->warps[i];
        const int count = w->thread_count - i * WARP;
        p->lanes = p->ready = count >= WARP ? ~0u : (1u << count) - 1;
        p->ended = p->at_barrier = 0;
        p->meeting_count = 0;
        p->product_group = 0;
        p->product_fenced = false;
        p->descriptors.clear();
        w->ready |= p->bit;
    }
    w->now = &w->warps[choose(w, w->ready, w->turn_warp)];
    w->phases.clear();
    for (named_barrier &b : w->named) b.arrived = b.waiting_count = 0;
    if (w->shared.bytes) memset(w->shared.user, 0xff, w->shared.bytes);
    for (const region &r : *job->statics) memset(w->locals.start + r.offset, 0xff, r.bytes);
}

/* What a kernel may not leave behind. */
void hopper_end(worker *w) {
    const char *left = w->tensor_copies.empty() ? NULL : "copies of tensors are on their way";
    for (int i = 0; i * WARP < w->thread_count; i++) {
        const warp *p = &w->warps[i];
        if (!p->products.empty()) left = "a wgmma was not waited for";
        if (i % 4 && p->descriptors != (p - 1)->descriptors) left = "the warps of a warpgroup differ in their wgmma";
        if (!p->descriptors.empty() && w->thread_count < (i / 4 + 1) * 4 * WARP) left = "wgmma in a warpgroup of fewer than four warps";
    }
    if (!left) return;
    const uint3 b = w->block.index;
    fprintf(stderr, "emulate: %s, block (%u,%u,%u): at its end, %s\n", w->job->name.c_str(), b.x, b.y, b.z, left);
    die();
}

void block_run(worker *w, uint64_t number) {
    block_start(w, number);
    w->host_tsan = tsan_self();
    tsan_give(w);
    go_on(w, &w->host.idle, next_lane(w));
    tsan_take(&w->live);
    hopper_end(w);
    const ptrdiff_t overrun = w->shared.user ? guarded_overrun(w->shared) : 0;
    if (overrun) {
        const uint3 b = w->block.index;
        fprintf(stderr, "emulate: %s, block (%u,%u,%u): wrote to byte %td of %zu of dynamic shared memory\n", w->job->name.c_str(), b.x, b.y, b.z, overrun,
                w->shared.bytes);
        die();
    }
}

/* Threads are numbered x first; set once for all blocks of a grid. */
void block_shape(worker *w) {
    const dim3 b = w->job->block;
    unsigned i = 0;
    for (unsigned z = 0; z < b.z; z++)
        for (unsigned y = 0; y < b.y; y++)
            for (unsigned x = 0; x < b.x; x++) w->lanes[i++].index = {x, y, z};
    w->block.size = b;
    w->block.grid = w->job->grid;
    if (w->shared.bytes != w->job->shared_bytes || !w->shared.user) {
        guarded_free(&w->shared);
        w->shared = guarded_make(w->job->shared_bytes, false);
    }
    w->block.shared = w->shared.user;
}

} // namespace

void emulate_die(const char *format, ...) {
    const worker *w = worker_now;
    va_list arguments;
    if (w) {
        const uint3 b = w->block.index, t = *emulate_thread_index;
        fprintf(stderr, "emulate: %s, block (%u,%u,%u), thread (%u,%u,%u): ", w->job->name.c_str(), b.x, b.y, b.z, t.x, t.y, t.z);
    } else fprintf(stderr, "emulate: outside of a kernel: ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    die();
}

int emulate_barrier(bool value, int line) {
    lane *t = lane_now();
    worker *w = t->home;
    const int parity = w->barrier_count & 1;
    if (!w->arrived) w->barrier_line = line;
    else if (w->barrier_line != line) emulate_die("a barrier of the block at line %d, while others wait at that of line %d", line, w->barrier_line);
    w->votes += value;
    t->team->at_barrier |= 1u << t->number;
    t->line = line;
    t->waits = EMULATE_BARRIER;
    tsan_give(&w->barrier_result[parity]);
    if (++w->arrived == w->thread_count) {
        w->barrier_result[parity] = w->votes;
        w->barrier_count++;
        w->arrived = w->votes = 0;
        for (int p = 0; p * WARP < w->thread_count; p++) {
            w->warps[p].ready = w->warps[p].at_barrier;
            w->warps[p].at_barrier = 0;
            w->ready |= 1u << p;
        }
        if (w->shuffled) shuffle_turns(w);
        w->now = &w->warps[choose(w, w->ready, w->turn_warp)];
    }
    wait_turn(w, t);
    tsan_take(&w->barrier_result[parity]);
    return w->barrier_result[parity];
}

/* ==== 6 warps: votes, shuffles, matrices, copies ================================================================ */

int emulate_lane() { return (int)lane_now()->number; }

unsigned emulate_vote(emulate_kind kind, unsigned mask, bool value, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->value[t->number] = value;
    if (meet(t, kind, 0, mask, line)) {
        uint64_t votes = 0;
        for (int k = 0; k < WARP; k++)
            if (mask >> k & 1) votes |= p->value[k] << k;
        for (int k = 0; k < WARP; k++)
            if (mask >> k & 1) p->result[k] = votes;
        meet_end(t, mask);
    }
    return (unsigned)p->result[t->number];
}

uint64_t emulate_shuffle(unsigned mask, uint64_t value, int source, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->value[t->number] = value;
    p->source[t->number] = source;
    if (meet(t, EMULATE_SHUFFLE, 0, mask, line)) {
        for (int k = 0; k < WARP; k++) {
            if (!(mask >> k & 1)) continue;
            const int s = p->source[k] & 31;
            p->result[k] = mask >> s & 1 ? p->value[s] : ~(uint64_t)0;
        }
        meet_end(t, mask);
    }
    return p->result[t->number];
}

namespace {

typedef uint32_t words8 __attribute__((vector_size(32)));
typedef float floats8 __attribute__((vector_size(32)));
typedef uint32_t words4 __attribute__((vector_size(16)));
typedef float floats4 __attribute__((vector_size(16)));

#define EMULATE_INLINE inline __attribute__((always_inline, no_sanitize("address", "undefined")))

template <bool brain, typename F, typename U> EMULATE_INLINE void widen(F *to, const U &bits) {
    if (brain) {
        *to = (F)(bits << 16);
        return;
    }
    const U magnitude = (bits & 0x7fff) << 13; /* as in __half2float */
    const F scaled = (F)magnitude * 0x1p112f;
    *to = (F)((U)scaled | (bits & 0x8000) << 16 | ((U)(magnitude >= 0x0f800000) & 0x7f800000));
}

template <bool brain, typename F, typename U> EMULATE_INLINE void widen_both(F *low, F *high, const uint32_t *words) {
    U bits;
    memcpy(&bits, words, sizeof bits);
    widen<brain>(low, bits & 0xffff);
    widen<brain>(high, bits >> 16);
}

/* d += a b, products in the order of their column of a. */
template <bool brain, typename F, typename U> EMULATE_INLINE void multiply(tiles *t) {
    enum { WIDE = sizeof(F) / 4, PARTS = 8 / WIDE };
    alignas(64) float even[16][8], odd[16][8];
    for (int j = 0; j < t->wide; j++)
        for (int k = 0; k < t->pairs; k++)
            for (int c = 0; c < 8; c += WIDE) widen_both<brain, F, U>((F *)&t->right[j][2 * k][c], (F *)&t->right[j][2 * k + 1][c], &t->b[j][k][c]);
    for (int i = 0; i < t->high * 16; i += 4) {
        for (int row = 0; row < 4; row++)
            for (int k = 0; k < t->pairs; k += WIDE) widen_both<brain, F, U>((F *)&even[row][k], (F *)&odd[row][k], &t->a[i / 16][i % 16 + row][k]);
        for (int j = 0; j < t->wide * PARTS; j++) {
            const F *b = (const F *)t->right[j / PARTS][0] + j % PARTS;
            F *d = (F *)t->d[i / 16 * t->wide + j / PARTS][i % 16] + j % PARTS, s0 = d[0], s1 = d[PARTS], s2 = d[2 * PARTS], s3 = d[3 * PARTS];
            for (int k = 0; k < t->pairs; k++) {
                const F b0 = b[2 * k * PARTS], b1 = b[(2 * k + 1) * PARTS];
                s0 += even[0][k] * b0, s1 += even[1][k] * b0, s2 += even[2][k] * b0, s3 += even[3][k] * b0;
                s0 += odd[0][k] * b1, s1 += odd[1][k] * b1, s2 += odd[2][k] * b1, s3 += odd[3][k] * b1;
            }
            d[0] = s0, d[PARTS] = s1, d[2 * PARTS] = s2, d[3 * PARTS] = s3;
        }
    }
}

/* No FMA: the bits are the same on every processor. */
#ifdef __x86_64__
__attribute__((target("avx2"), no_sanitize("address", "undefined"))) void multiply_avx2(tiles *t, bool brain) {
    if (brain) multiply<true, floats8, words8>(t);
    else multiply<false, floats8, words8>(t);
}
const bool has_avx2 = __builtin_cpu_supports("avx2");
#else
const bool has_avx2 = false;
void multiply_avx2(tiles *, bool) {}
#endif
__attribute__((no_sanitize("address", "undefined"))) void multiply_any(tiles *t, bool brain) {
    if (brain) multiply<true, floats4, words4>(t);
    else multiply<false, floats4, words4>(t);
}

/* The same to the lanes' sums: d[piece][4], of rows g and g + 8 two columns each, where g is lane / 4. */
__attribute__((no_sanitize("address", "undefined"))) void multiply_of_lanes(tiles *t, float *const *lanes, bool brain) {
    const int pieces = t->high * t->wide;
    for (int l = 0; l < WARP; l++)
        for (int i = 0; i < pieces; i++)
            for (int h = 0; h < 2; h++) memcpy(&t->d[i][l / 4 + 8 * h][l % 4 * 2], lanes[l] + 4 * i + 2 * h, 8);
    if (has_avx2) multiply_avx2(t, brain);
    else multiply_any(t, brain);
    for (int l = 0; l < WARP; l++)
        for (int i = 0; i < pieces; i++)
            for (int h = 0; h < 2; h++) memcpy(lanes[l] + 4 * i + 2 * h, &t->d[i][l / 4 + 8 * h][l % 4 * 2], 8);
}

__attribute__((no_sanitize("address", "undefined"))) void mma_of_warp(const warp *p, emulate_mma_kind kind) {
    tiles *t = &p->first->home->product;
    const int halves = kind == EMULATE_F16_K8 ? 1 : 2;
    t->high = t->wide = 1, t->pairs = 4 * halves;
    if (halves == 1) memset(t->a[0], 0, sizeof t->a[0]);
    for (int l = 0; l < WARP; l++) {
        const int g = l / 4, c = l % 4;
        for (int h = 0; h < halves; h++) {
            t->a[0][g][c + 4 * h] = p->a[l][2 * h];
            t->a[0][g + 8][c + 4 * h] = p->a[l][2 * h + 1];
            t->b[0][c + 4 * h][g] = p->b[l][h];
        }
    }
    multiply_of_lanes(t, p->d, kind == EMULATE_BF16_K16);
}

} // namespace

void emulate_mma(emulate_mma_kind kind, float *d, const uint32_t *a, const uint32_t *b, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->d[t->number] = d;
    p->a[t->number] = a;
    p->b[t->number] = b;
    if (meet(t, EMULATE_MMA, kind, ~0u, line)) {
        mma_of_warp(p, kind);
        meet_end(t, ~0u);
    }
}

/* Does [p, p + bytes) lie in shared memory? */
static inline bool is_shared(const lane *t, const void *p, size_t bytes) {
    const worker *w = t->home;
    const uintptr_t dynamic = (uintptr_t)p - (uintptr_t)w->shared.user, fixed = (uintptr_t)p - (uintptr_t)w->locals.start;
    return (dynamic < w->shared.bytes && bytes <= w->shared.bytes - dynamic) || (fixed < w->locals.bytes && bytes <= w->locals.bytes - fixed);
}

/* To each lane its two elements of each matrix. */
template <bool transposed> __attribute__((no_sanitize("address", "undefined"))) static inline void hand_out(const warp *p, int matrices) {
    for (int k = 0; k < WARP; k++) {
        const int g = k / 4, c = k % 4;
        uint32_t *r = p->r[k];
        for (int m = 0; m < matrices; m++) {
            const unsigned char *const *rows = p->row + 8 * m;
            if (transposed) r[m] = ((const uint16_t *)rows[2 * c])[g] | (uint32_t)((const uint16_t *)rows[2 * c + 1])[g] << 16;
            else memcpy(&r[m], rows[g] + 4 * c, 4);
        }
    }
}

static inline void matrix_row(const lane *t, const void *row, int line) {
    if ((uintptr_t)row & 15) emulate_die("ldmatrix, line %d: the row's address is no multiple of 16", line);
    if (!is_shared(t, row, 16)) emulate_die("ldmatrix, line %d: the row is not in shared memory", line);
    tsan_read(row, 16);
}

void emulate_ldmatrix(uint32_t *r, const void *row, int matrices, bool transposed, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->r[t->number] = r;
    p->row[t->number] = (const unsigned char *)row;
    if ((int)t->number < 8 * matrices) matrix_row(t, row, line);
    if (!meet(t, EMULATE_LDMATRIX, matrices * 2 + transposed, ~0u, line)) return;
    if (transposed) hand_out<true>(p, matrices);
    else hand_out<false>(p, matrices);
    meet_end(t, ~0u);
}

/* A matrix of 8x8 elements, whose rows these 8 lanes gave, as 4 words of each of its 8 rows or, transposed, columns. */
__attribute__((no_sanitize("address", "undefined"))) static inline void matrix_words(const void *const *const *lanes, int which, bool transposed, uint32_t (*words)[4]) {
    uint16_t elements[8][8];
    for (int i = 0; i < 8; i++) memcpy(transposed ? (void *)elements[i] : (void *)words[i], lanes[i][which], 16);
    if (!transposed) return;
    for (int i = 0; i < 8; i++)
        for (int c = 0; c < 4; c++) words[i][c] = elements[2 * c][i] | (uint32_t)elements[2 * c + 1][i] << 16;
}

__attribute__((no_sanitize("address", "undefined"))) static void tile_of_warp(const warp *p, bool brain, int high, int wide, bool transposed) {
    tiles *t = &p->first->home->product;
    uint32_t words[8][4];
    t->high = high, t->wide = wide, t->pairs = 8;
    for (int m = 0; m < 4; m++) {
        for (int i = 0; i < high; i++) {
            matrix_words(p->a_rows + 8 * m, i, transposed, words);
            for (int row = 0; row < 8; row++) memcpy(&t->a[i][m % 2 * 8 + row][m / 2 * 4], words[row], 16);
        }
        for (int j = 0; j < wide / 2; j++) {
            matrix_words(p->b_rows + 8 * m, j, transposed, words);
            for (int k = 0; k < 4; k++)
                for (int column = 0; column < 8; column++) t->b[2 * j + m / 2][m % 2 * 4 + k][column] = words[column][k];
        }
    }
    multiply_of_lanes(t, p->d, brain);
}

void emulate_mma_tile(emulate_mma_kind kind, float *d, const void *const *a, const void *const *b, int high, int wide, bool transposed, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->d[t->number] = d;
    p->a_rows[t->number] = a;
    p->b_rows[t->number] = b;
    for (int i = 0; i < high; i++) matrix_row(t, a[i], line);
    for (int j = 0; j < wide / 2; j++) matrix_row(t, b[j], line);
    if (!meet(t, EMULATE_MMA_TILE, (kind * 2 + transposed) * 4096 + high * 64 + wide, ~0u, line)) return;
    tile_of_warp(p, kind == EMULATE_BF16_K16, high, wide, transposed);
    meet_end(t, ~0u);
}

/* The bytes are read now and written by the wait; until then the destination is all ones. So neither a read before the
   wait nor a copy into what others still read passes unseen. */
template <size_t bytes> static inline void copy_async(void *shared, const void *global, bool valid, int line) {
    lane *t = lane_now();
    if ((uintptr_t)shared & (bytes - 1)) emulate_die("cp.async, line %d: the shared address is no multiple of %zu", line, bytes);
    if (!is_shared(t, shared, bytes)) emulate_die("cp.async, line %d: the destination is not in shared memory", line);
    if (valid && (uintptr_t)global & (bytes - 1)) emulate_die("cp.async, line %d: the global address is no multiple of %zu", line, bytes);
    async_copy *copy = t->copies.add();
    copy->to = shared, copy->bytes = (int)bytes, copy->group = t->group;
    if (valid) {
        tsan_read(global, bytes);
        memcpy(copy->data, global, bytes);
    } else memset(copy->data, 0, bytes);
    tsan_write(shared, bytes);
    memset(shared, 0xff, bytes);
}
void emulate_copy_async16(void *shared, const void *global, bool valid, int line) { copy_async<16>(shared, global, valid, line); }
void emulate_copy_async8(void *shared, const void *global, bool valid, int line) { copy_async<8>(shared, global, valid, line); }
void emulate_copy_async4(void *shared, const void *global, bool valid, int line) { copy_async<4>(shared, global, valid, line); }

void emulate_copy_commit() { lane_now()->group++; }

void emulate_copy_wait(int pending) {
    async_copies *copies = &lane_now()->copies;
    const int before = lane_now()->group - pending;
    int done = 0;
    for (; done < copies->count && copies->items[done].group < before; done++) {
        const async_copy *copy = &copies->items[done];
        if (copy->bytes == 16) memcpy(copy->to, copy->data, 16);
        else memcpy(copy->to, copy->data, (size_t)copy->bytes);
    }
    if (done) memmove(copies->items, copies->items + done, (size_t)(copies->count -= done) * sizeof *copies->items);
}

/* ==== 7 Hopper: barriers with phases, tensors, products of warpgroups ============================================
   What a session with a Hopper checks first, with its source. "PTX" is the PTX ISA 9.0, "driver" the driver API's documentation of
   cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col (also in the toolkit's cuda.h).
     phases     mbarrier.init: the count of arrivals missing from each phase; try_wait.parity P: has the phase of parity P ended, where
                the one before phase 0 counts as of parity 1; a phase ends when no arrival and no byte is missing (PTX, mbarrier)
     bytes      a copy counts the whole box, what lies beyond the tensor included, filled with zeros (PTX, cp.async.bulk.tensor)
     swizzle    128 bytes: bits 4 to 6 of the shared address are combined (xor) with bits 7 to 9, Swizzle<3,4,3> (PTX, canonical layouts)
     windows    im2col mode: the coordinates are where tap (0,0) is, within the box from the lower corner up to, without, the tensor's size
                plus the upper corner; offsets are added behind that. Pixels follow each other along w, h, n, by the traversal strides;
                at the box's edge it goes on at the lower corner (PTX, im2col mode, figures 13 to 15). Corners are in the order w, h, as
                the tensor's dimensions are; the driver's documentation calls them "DHW"
     ranges     rank 4: corners of 8 bits with sign, offsets of 8 without (PTX, bounding box; driver)
     matrices   K-major, swizzled by 128 bytes: element (row, 16 bytes c) is at start + row / 8 * stride + row % 8 * 128 + 16 c, then
                swizzled; further along K the start is advanced by bytes within the first line; the pattern has to begin at a multiple of
                1024 where the base offset is 0 (PTX, matrix descriptor format)
     sums       warp w of a warpgroup has rows 16 w and on; fragments as of mma.m16n8k16, 8 columns after the other (PTX, figure 149)
   Copies arrive as late as can be, in an order that is the block's; in a shuffled one, some earlier. Until then their destination is all
   ones, and so are a wgmma's accumulators until it was waited for. Its operands must not change before that. */

namespace {

/* Where dynamic shared memory begins for PTX: no rounder than what CUDA promises. */
enum { SHARED_START = 1024 + 128 };

unsigned char *shared_pointer(const worker *w, unsigned address) { return w->shared.user + (address - SHARED_START); }

phased *phase_of(worker *w, const void *barrier, int line) {
    uint64_t magic = 0;
    for (phased &b : w->phases) {
        if (b.at != barrier) continue;
        memcpy(&magic, barrier, sizeof magic);
        if (magic != phase_magic) emulate_die("line %d: a barrier's memory was overwritten", line);
        if (!b.fenced) emulate_die("line %d: no d_phase_fence after this barrier was made", line);
        tsan_read(barrier, 8);
        return &b;
    }
    emulate_die("line %d: this barrier was never made", line);
}

bool phase_over(const phased *b, int parity) { return (int)(b->phase & 1) != parity; }

/* Ends the phase when nothing is missing, and wakes those who waited for that. */
void phase_check(worker *w, phased *b) {
    if (b->missing || b->bytes) return;
    b->phase++;
    b->missing = b->arrivals;
    for (int i = 0; i < w->thread_count; i++) {
        lane *t = &w->lanes[i];
        if (t->barrier != b->at || !phase_over(b, t->parity)) continue;
        t->barrier = NULL;
        t->team->ready |= 1u << t->number;
        w->ready |= t->team->bit;
    }
}

unsigned swizzle(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

/* The pixels of an im2col copy in their order. */
struct window { int x, y, n; };

void window_next(const tensor_map *m, window *p) {
    p->x += m->steps[1];
    if (p->x < (int)m->sizes[1] + 1 + m->upper[0]) return;
    p->x = m->lower[0];
    p->y += m->steps[2];
    if (p->y < (int)m->sizes[2] + 1 + m->upper[1]) return;
    p->y = m->lower[1];
    p->n++;
}

/* A line of the box, `at` the coordinates of its first element: zeros where there is no tensor. */
void tensor_line(worker *w, const tensor_map *m, unsigned to, const int *at) {
    unsigned char line[1024];
    const int bytes = m->box[0] * m->element;
    bool inside = true;
    const unsigned char *from = m->address;
    for (int d = 1; d < m->rank; d++) {
        inside = inside && at[d] >= 0 && (uint32_t)at[d] <= m->sizes[d];
        from += at[d] * (int64_t)m->strides[d - 1];
    }
    memset(line, 0, sizeof line);
    for (int c = 0; inside && c < m->box[0]; c++)
        if (at[0] + c >= 0 && (uint32_t)(at[0] + c) <= m->sizes[0]) memcpy(line + c * m->element, from + (int64_t)(at[0] + c) * m->element, m->element);
    for (int i = 0; i < bytes; i += 16) memcpy(shared_pointer(w, m->swizzled ? swizzle(to + (unsigned)i) : to + (unsigned)i), line + i, 16);
}

int tensor_lines(const tensor_map *m) {
    int lines = 1;
    for (int d = 1; d < (m->windows ? 2 : m->rank); d++) lines *= m->box[d];
    return lines;
}

void tensor_arrives(worker *w, size_t which) {
    const tsan_blind blind;
    const tensor_copy copy = w->tensor_copies[which];
    w->tensor_copies.erase(w->tensor_copies.begin() + (ptrdiff_t)which);
    const tensor_map *m = &copy.map;
    const int lines = tensor_lines(m), bytes = m->box[0] * m->element;
    const unsigned to = d_shared_address(copy.to);
    window p = {copy.at[1], copy.at[2], copy.at[3]};
    for (int i = 0; i < lines; i++) {
        int at[5] = {copy.at[0]};
        if (m->windows) {
            at[1] = p.x + copy.offsets[0], at[2] = p.y + copy.offsets[1], at[3] = p.n;
            window_next(m, &p);
        } else for (int d = 1, rest = i; d < m->rank; rest /= m->box[d++]) at[d] = copy.at[d] + rest % m->box[d];
        tensor_line(w, m, to + (unsigned)(i * bytes), at);
    }
    for (phased &b : w->phases)
        if (b.at == copy.barrier) {
            b.bytes -= lines * bytes;
            phase_check(w, &b);
        }
}

void tensor_depart(worker *w, const tensor_copy &copy) {
    const tsan_blind blind;
    w->tensor_copies.push_back(copy);
}

/* Sometimes, where the order is a shuffled one. */
void tensor_hurry(worker *w) {
    if (w->shuffled && !w->tensor_copies.empty() && !(random_next(&w->random) & 3)) tensor_arrives(w, random_next(&w->random) % w->tensor_copies.size());
}

const unsigned char *matrix_piece(const worker *w, uint64_t descriptor, int row, int piece) {
    const unsigned start = (unsigned)(descriptor & 0x3fff) << 4, stride = (unsigned)(descriptor >> 32 & 0x3fff) << 4;
    return shared_pointer(w, swizzle(start + (unsigned)row / 8 * stride + (unsigned)row % 8 * 128 + 16 * (unsigned)piece));
}

/* The lines of 8 rows, within which swizzling stays. */
const unsigned char *matrix_lines(const worker *w, uint64_t descriptor, int row) {
    const unsigned start = (unsigned)(descriptor & 0x3fff) << 4, stride = (unsigned)(descriptor >> 32 & 0x3fff) << 4;
    return shared_pointer(w, (start & ~1023u) + (unsigned)row / 8 * stride);
}

void matrix_check(const lane *t, uint64_t descriptor, int rows, const char *name, int line) {
    const unsigned start = (unsigned)(descriptor & 0x3fff) << 4;
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) || (descriptor >> 16 & 0x3fff) != 1)
        emulate_die("wgmma, line %d: descriptor %s: only the swizzle of 128 bytes with leading offset 1 and base offset 0 is emulated", line, name);
    if ((start & 1023) >= 128) emulate_die("wgmma, line %d: matrix %s begins in the midst of the swizzle's pattern", line, name);
    if ((start & 127) <= 96 && is_shared(t, matrix_lines(t->home, descriptor, 0), 1024) && is_shared(t, matrix_lines(t->home, descriptor, rows - 8), 1024)) return;
    for (int row = 0; row < rows; row++)
        for (int piece = 0; piece < 2; piece++)
            if (!is_shared(t, matrix_piece(t->home, descriptor, row, piece), 16)) emulate_die("wgmma, line %d: matrix %s is not in shared memory", line, name);
}

/* Of the operands of a warp's part: does anybody write them before they were waited for? */
uint64_t operands_sum(const warp *p, uint64_t a, uint64_t b, int columns) {
    const worker *w = p->first->home;
    const int first = (int)((p - w->warps) % 4) * 16;
    uint64_t sums[4] = {0}, sum = 0, bits[2];
    for (int row = 0; row < 16 + columns; row++)
        for (int piece = 0; piece < 2; piece++) {
            memcpy(bits, row < 16 ? matrix_piece(w, a, first + row, piece) : matrix_piece(w, b, row - 16, piece), 16);
            for (int i = 0; i < 2; i++) {
                uint64_t *s = &sums[2 * piece + i];
                *s = (*s ^ bits[i]) * 0x9e3779b97f4a7c15u;
                *s ^= *s >> 29;
            }
        }
    for (uint64_t s : sums) sum = (sum ^ s) * 0x9e3779b97f4a7c15u;
    return sum;
}

/* The warp's 16 rows, all columns; `value`: the lanes' sums, one lane after the other. */
__attribute__((no_sanitize("address", "undefined"))) void product_of_warp(const warp *p, uint64_t a, uint64_t b, int columns, bool brain, float *value) {
    worker *w = p->first->home;
    const int first = (int)((p - w->warps) % 4) * 16;
    tiles *t = &w->product;
    float *lanes[WARP];
    uint32_t words[8];
    t->high = 1, t->wide = columns / 8, t->pairs = 8;
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 8; k += 4) memcpy(&t->a[0][i][k], matrix_piece(w, a, first + i, k / 4), 16);
    for (int column = 0; column < columns; column++) {
        for (int k = 0; k < 8; k += 4) memcpy(words + k, matrix_piece(w, b, column, k / 4), 16);
        for (int k = 0; k < 8; k++) t->b[column / 8][k][column % 8] = words[k];
    }
    for (int l = 0; l < WARP; l++) lanes[l] = value + l * columns / 2;
    multiply_of_lanes(t, lanes, brain);
}

/* The sums that the lanes' pointers p->d name, as of what was begun; taken from the lanes where nothing is on its way. */
__attribute__((no_sanitize("address", "undefined"))) accumulators *accumulators_of(warp *p, int columns, int line) {
    const size_t bytes = (size_t)columns / 2 * sizeof(float);
    for (accumulators &s : p->accumulators_) {
        if (s.d[0] != p->d[0]) continue;
        for (int l = 0; l < WARP; l++)
            for (int i = 0; i < columns / 2; i++)
                if (__float_as_uint(s.d[l][i]) != ~0u) emulate_die("wgmma, line %d: accumulators were written before they were waited for", line);
        return &s;
    }
    p->accumulators_.emplace_back();
    accumulators *s = &p->accumulators_.back();
    s->columns = columns;
    s->value.resize((size_t)(WARP * columns / 2));
    for (int l = 0; l < WARP; l++) {
        s->d[l] = p->d[l];
        memcpy(&s->value[(size_t)(l * columns / 2)], s->d[l], bytes);
        memset(s->d[l], 0xff, bytes);
    }
    return s;
}

__attribute__((no_sanitize("address", "undefined"))) void accumulators_back(const accumulators &s) {
    const size_t each = (size_t)s.columns / 2;
    for (int l = 0; l < WARP; l++) memcpy(s.d[l], &s.value[(size_t)l * each], each * sizeof(float));
}

void products_begin(warp *p, uint64_t a, uint64_t b, int columns, bool brain, int line) {
    const tsan_blind blind;
    accumulators *s = accumulators_of(p, columns, line);
    product_of_warp(p, a, b, columns, brain, s->value.data());
    p->products.push_back({p->product_group, a, b, operands_sum(p, a, b, columns), columns});
    p->descriptors.push_back(a);
    p->descriptors.push_back(b);
}

void products_done(warp *p, int pending, int line) {
    const tsan_blind blind;
    size_t done = 0;
    for (; done < p->products.size() && p->products[done].group < p->product_group - pending; done++) {
        const product &x = p->products[done];
        if (operands_sum(p, x.a, x.b, x.columns) != x.sum) emulate_die("wgmma.wait_group, line %d: operands were written before they were waited for", line);
    }
    p->products.erase(p->products.begin(), p->products.begin() + (ptrdiff_t)done);
    if (!p->products.empty()) return;
    for (const accumulators &s : p->accumulators_) accumulators_back(s);
    p->accumulators_.clear();
    p->product_fenced = false;
}

} // namespace

unsigned d_shared_address(const void *shared) {
    const lane *t = lane_now();
    const uintptr_t offset = (uintptr_t)shared - (uintptr_t)t->home->shared.user;
    if (offset > t->home->shared.bytes) emulate_die("the address of what is not in dynamic shared memory");
    return SHARED_START + (unsigned)offset;
}

void emulate_named_barrier(int index, int threads, int line) {
    lane *t = lane_now();
    worker *w = t->home;
    if (index < 0 || index > 15 || threads < WARP || threads % WARP) emulate_die("barrier %d of %d threads, line %d: there are 16, of whole warps", index, threads, line);
    named_barrier *b = &w->named[index];
    if (b->arrived && b->threads != threads) emulate_die("barrier %d of %d threads, line %d, while others wait for %d", index, threads, line, b->threads);
    b->threads = threads;
    t->line = line;
    t->waits = EMULATE_NAMED;
    tsan_give(b);
    if (++b->arrived < threads) {
        b->waiting[b->waiting_count++] = t;
        wait_turn(w, t);
    } else {
        for (int i = 0; i < b->waiting_count; i++) {
            b->waiting[i]->team->ready |= 1u << b->waiting[i]->number;
            w->ready |= b->waiting[i]->team->bit;
        }
        b->waiting_count = b->arrived = 0;
    }
    tsan_take(b);
}

void emulate_phase_make(uint64_t *barrier, int arrivals, int line) {
    lane *t = lane_now();
    if ((uintptr_t)barrier & 7 || !is_shared(t, barrier, 8)) emulate_die("line %d: a barrier needs 8 aligned bytes of shared memory", line);
    if (arrivals < 1 || arrivals >= 1 << 20) emulate_die("line %d: a barrier of %d arrivals", line, arrivals);
    tsan_write(barrier, 8);
    memcpy(barrier, &phase_magic, sizeof phase_magic);
    t->home->phases.push_back({(unsigned char *)barrier, arrivals, arrivals, 0, 0, false});
}

void emulate_phase_fence() {
    for (phased &b : lane_now()->home->phases) b.fenced = true;
}

void emulate_phase_arrive(uint64_t *barrier, int bytes, int line) {
    worker *w = lane_now()->home;
    phased *b = phase_of(w, barrier, line);
    if (bytes < 0 || bytes >= 1 << 20 || b->bytes + bytes >= 1 << 20) emulate_die("line %d: a phase cannot count %d bytes", line, b->bytes + bytes);
    tsan_give(barrier);
    if (!b->missing) emulate_die("line %d: more arrivals than the barrier's phase has", line);
    b->bytes += bytes;
    b->missing--;
    phase_check(w, b);
}

void emulate_phase_wait(uint64_t *barrier, int parity, int line) {
    lane *t = lane_now();
    worker *w = t->home;
    tensor_hurry(w);
    const phased *b = phase_of(w, barrier, line);
    if (parity & ~1) emulate_die("line %d: a parity of %d", line, parity);
    if (!phase_over(b, parity)) {
        t->barrier = b->at;
        t->parity = parity;
        t->line = line;
        t->waits = EMULATE_PHASE;
        wait_turn(w, t);
    }
    tsan_take(barrier);
}

void emulate_tensor_copy(void *shared, const CUtensorMap *map, const int *at, int rank, const int *offsets, uint64_t *barrier, int line) {
    lane *t = lane_now();
    worker *w = t->home;
    const tensor_map *m = (const tensor_map *)map;
    phase_of(w, barrier, line);
    if (m->magic != map_magic || m->rank != rank || m->windows != (offsets != NULL)) emulate_die("line %d: no tensor map of this kind", line);
    const size_t bytes = (size_t)(tensor_lines(m) * m->box[0] * m->element);
    if (d_shared_address(shared) & 127 || !is_shared(t, shared, bytes)) emulate_die("line %d: a tensor's copy needs %zu bytes of shared memory, 128-byte aligned", line, bytes);
    tensor_copy copy = {*m, (unsigned char *)shared, {0}, {0}, (unsigned char *)barrier};
    for (int d = 0; d < rank; d++) copy.at[d] = at[d];
    for (int d = 0; offsets && d < 2; d++) {
        copy.offsets[d] = offsets[d];
        if (offsets[d] < 0 || offsets[d] > 255) emulate_die("line %d: an offset of %d, at most 255", line, offsets[d]);
        if (at[d + 1] < m->lower[d] || at[d + 1] >= (int)m->sizes[d + 1] + 1 + m->upper[d]) emulate_die("line %d: window %d is outside of the box", line, at[d + 1]);
    }
    tsan_write(shared, bytes);
    memset(shared, 0xff, bytes);
    tsan_give(barrier);
    tensor_depart(w, copy);
    tensor_hurry(w);
}

void emulate_wgmma_fence(int line) {
    lane *t = lane_now();
    if (!meet(t, EMULATE_WGMMA_FENCE, 0, ~0u, line)) return;
    t->team->product_fenced = true;
    meet_end(t, ~0u);
}

void emulate_wgmma_commit(int line) {
    lane *t = lane_now();
    if (!meet(t, EMULATE_WGMMA_COMMIT, 0, ~0u, line)) return;
    t->team->product_group++;
    meet_end(t, ~0u);
}

void emulate_wgmma(float *d, uint64_t a, uint64_t b, int columns, bool brain, int line) {
    lane *t = lane_now();
    warp *p = t->team;
    p->d[t->number] = d;
    p->value[t->number] = a ^ b << 1;
    if (t->number == 0) { /* the lane that will say that it has read them */
        matrix_check(t, a, 64, "A", line);
        matrix_check(t, b, columns, "B", line);
        const int first = (int)((p - t->home->warps) % 4) * 16;
        for (int row = 0; row < 16; row++)
            for (int piece = 0; piece < 2; piece++) tsan_read(matrix_piece(t->home, a, first + row, piece), 16);
        for (int row = 0; row < columns; row++)
            for (int piece = 0; piece < 2; piece++) tsan_read(matrix_piece(t->home, b, row, piece), 16);
    }
    if (!meet(t, EMULATE_WGMMA, columns * 2 + brain, ~0u, line)) return;
    for (int l = 1; l < WARP; l++)
        if (p->value[l] != p->value[0]) emulate_die("wgmma, line %d: descriptors differ", line);
    if (!p->product_fenced) emulate_die("wgmma, line %d: no wgmma.fence since the last wait", line);
    products_begin(p, a, b, columns, brain, line);
    meet_end(t, ~0u);
}

void emulate_wgmma_wait(int pending, int line) {
    lane *t = lane_now();
    if (!meet(t, EMULATE_WGMMA_WAIT, pending, ~0u, line)) return;
    products_done(t->team, pending, line);
    meet_end(t, ~0u);
}

/* ---- tensor maps: what the driver documents about arguments is checked */

static bool map_begin(tensor_map *m, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes, const cuuint64_t *strides,
                      const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapFloatOOBfill fill) {
    *m = tensor_map();
    if (rank < 1 || rank > 5 || (uintptr_t)address & 15 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return false;
    if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && swizzle != CU_TENSOR_MAP_SWIZZLE_128B) return false; /* the others are not emulated */
    if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) return false;
    m->magic = map_magic;
    m->address = (unsigned char *)address;
    m->rank = (uint8_t)rank;
    m->element = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
    m->swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    for (cuuint32_t d = 0; d < rank; d++) {
        if (sizes[d] < 1 || sizes[d] > (cuuint64_t)1 << 32 || steps[d] < 1 || steps[d] > 8) return false;
        m->sizes[d] = (uint32_t)(sizes[d] - 1);
        m->steps[d] = (uint8_t)steps[d];
    }
    for (cuuint32_t d = 0; d + 1 < rank; d++) {
        if (strides[d] % 16 || strides[d] >= (cuuint64_t)1 << 40) return false;
        m->strides[d] = strides[d];
    }
    return true;
}

/* The innermost dimension of a box. */
static bool map_line(const tensor_map *m) {
    const int bytes = m->box[0] * m->element;
    return bytes % 16 == 0 && bytes <= (m->swizzled ? 128 : 1024);
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes, const cuuint64_t *strides,
                                const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
    tensor_map m;
    if (!map_begin(&m, type, rank, address, sizes, strides, steps, interleave, swizzle, fill)) return CUDA_ERROR_INVALID_VALUE;
    for (cuuint32_t d = 0; d < rank; d++) {
        if (box[d] < 1 || box[d] > 256 || steps[d] != 1) return CUDA_ERROR_INVALID_VALUE; /* other steps are not emulated */
        m.box[d] = (uint16_t)box[d];
    }
    if (!map_line(&m)) return CUDA_ERROR_INVALID_VALUE;
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes, const cuuint64_t *strides,
                                 const int *lower, const int *upper, cuuint32_t channels, cuuint32_t pixels, const cuuint32_t *steps,
                                 CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
    tensor_map m;
    if (!map_begin(&m, type, rank, address, sizes, strides, steps, interleave, swizzle, fill)) return CUDA_ERROR_INVALID_VALUE;
    if (rank != 4 || channels < 1 || channels > 256 || pixels < 1 || pixels > 1024) return CUDA_ERROR_INVALID_VALUE; /* other ranks are not emulated */
    for (int d = 0; d < 2; d++) {
        if (lower[d] < -128 || lower[d] > 127 || upper[d] < -128 || upper[d] > 127) return CUDA_ERROR_INVALID_VALUE;
        if (lower[d] >= (int64_t)sizes[d + 1] + upper[d]) return CUDA_ERROR_INVALID_VALUE;
        m.lower[d] = (int8_t)lower[d];
        m.upper[d] = (int8_t)upper[d];
    }
    m.box[0] = (uint16_t)channels;
    m.box[1] = (uint16_t)pixels;
    m.windows = 1;
    if (!map_line(&m)) return CUDA_ERROR_INVALID_VALUE;
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

/* ==== 8 a grid: workers =========================================================================================
   The thread that launches runs blocks; others help where the grid is large and they are free. */

namespace {

struct grid {
    const work *job;
    uint64_t count, first, step;
    std::atomic<uint64_t> next{0};
    int helpers = 0;
};

struct helper_pool {
    std::mutex lock;
    std::condition_variable come, gone;
    grid *now = NULL;
    int threads = 0;
};
helper_pool *pool = new helper_pool; /* never freed: helpers outlive main */

struct worker_owner {
    worker *mine = NULL;
    ~worker_owner() { delete mine; }
};
thread_local worker_owner owner;

void grid_work(grid *g) {
    if (!owner.mine) owner.mine = new worker;
    worker *w = owner.mine;
    uint64_t i = g->next++;
    if (i >= g->count) return;
    w->job = g->job;
    worker_now = w;
    emulate_block_now = &w->block;
    block_shape(w);
    for (; i < g->count; i = g->next++) block_run(w, (uint64_t)(((unsigned __int128)i * g->step + g->first) % g->count));
    worker_now = NULL;
    emulate_block_now = NULL;
    emulate_thread_index = NULL;
}

void helper_main() {
    std::unique_lock<std::mutex> hold(pool->lock);
    for (;;) {
        pool->come.wait(hold, [] { return pool->now && pool->now->next < pool->now->count; });
        grid *g = pool->now;
        g->helpers++;
        hold.unlock();
        grid_work(g);
        hold.lock();
        if (!--g->helpers) pool->gone.notify_all();
    }
}

/* In a forked child the helpers are not there. */
void forked() { pool = new helper_pool; }

int core_count() {
    static const int count = (int)std::thread::hardware_concurrency();
    return count ? count : 1;
}

uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }

void grid_run(const work &job) {
    grid g;
    g.job = &job;
    g.count = (uint64_t)job.grid.x * job.grid.y * job.grid.z;
    g.first = 0;
    g.step = 1;
    if (knobs.order == 1) g.first = g.count - 1, g.step = g.count - 1;
    else if (knobs.order > 1 && g.count > 2) {
        uint64_t random = knobs.order;
        g.first = random_next(&random) % g.count;
        do g.step = random_next(&random) % g.count;
        while (gcd(g.step, g.count) != 1);
    }
    const int workers = knobs.workers ? knobs.workers : core_count();
    const bool large = g.count > 1 && (knobs.workers || g.count * job.block.x * job.block.y * job.block.z >= 4096);
    bool shared = false;
    if (large && workers > 1) {
        std::lock_guard<std::mutex> hold(pool->lock);
        static std::once_flag once;
        std::call_once(once, [] { pthread_atfork(NULL, NULL, forked); });
        if (!pool->now) {
            shared = true;
            pool->now = &g;
            for (; pool->threads < workers - 1; pool->threads++) std::thread(helper_main).detach();
            pool->come.notify_all();
        }
    }
    grid_work(&g);
    if (shared) {
        std::unique_lock<std::mutex> hold(pool->lock);
        pool->now = NULL;
        pool->gone.wait(hold, [&g] { return !g.helpers; });
    }
}

} // namespace

/* ==== 9 the runtime: errors and devices ========================================================================= */

namespace {

std::recursive_mutex lock; /* of everything below */
typedef std::lock_guard<std::recursive_mutex> locked;

struct allocation { guarded memory; int device; /* -1: the host's */ };
std::map<uintptr_t, allocation> allocations;
size_t device_bytes[DEVICES + 1];
std::atomic<int64_t> device_clock[DEVICES]; /* nanoseconds; moved on by work, the same for the same work */

typedef std::function<void()> operation;

struct event_state {
    emulate_stream *stream = NULL;
    int64_t recorded = 0, reached = 0; /* how often */
    int64_t when = 0; /* on the device's clock */
    emulate_graph *captured = NULL;
};

/* Work of a stream; one that waits for an event can be done once that has been reached `target` times. */
struct queued {
    operation run;
    std::shared_ptr<event_state> event;
    int64_t target = 0;
};

} // namespace

struct emulate_stream {
    int device;
    unsigned flags;
    std::deque<queued> queue;
    emulate_graph *capture = NULL; /* being recorded */
    bool origin = false;
    bool hangs = false; /* does nothing any more */
};
struct emulate_event { int device; unsigned flags; std::shared_ptr<event_state> state; };
struct emulate_graph {
    std::vector<operation> operations;
    emulate_stream *origin = NULL;
    std::set<emulate_stream *> joined;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id owner;
    bool invalid = false, recording = false;
};
struct emulate_graph_exec { std::vector<operation> operations; int device; };

namespace {

std::set<const void *> handles;
emulate_stream legacy[DEVICES];
std::set<emulate_stream *> streams;
std::set<emulate_graph *> recordings;
bool peer_access[DEVICES][DEVICES];
std::map<const void *, int> dynamic_limits;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int device_now = 0;

cudaError_t leave(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

bool capture_forbids() {
    for (emulate_graph *g : recordings)
        if (g->mode == cudaStreamCaptureModeGlobal || (g->mode == cudaStreamCaptureModeThreadLocal && g->owner == std::this_thread::get_id())) {
            g->invalid = true;
            return true;
        }
    return false;
}

/* At the start of each call: is there a reason for it to fail? */
cudaError_t enter(cudaError_t injected = cudaErrorUnknown, bool waits = false) {
    call_count++;
    if (lost) return (cudaError_t)failure.load();
    if (fail_after > 0 && --fail_after == 0) {
        call_failed = true;
        lost = loses.load();
        return failure ? (cudaError_t)failure.load() : injected;
    }
    if (knobs.device_count == -1) return cudaErrorInsufficientDriver;
    if (knobs.device_count == -2) return cudaErrorInsufficientDriver;
    if (knobs.device_count == 0) return cudaErrorNoDevice;
    locked hold(lock);
    if (waits && capture_forbids()) return cudaErrorStreamCaptureUnsupported;
    return cudaSuccess;
}
#define ENTER(...) do { const cudaError_t entered = enter(__VA_ARGS__); if (entered != cudaSuccess) return leave(entered); } while (0)

bool device_exists(int device) { return device >= 0 && device < knobs.device_count; }

} // namespace

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define NAME(x) case x: return #x;
    NAME(cudaSuccess) NAME(cudaErrorInvalidValue) NAME(cudaErrorMemoryAllocation) NAME(cudaErrorInitializationError)
    NAME(cudaErrorInvalidConfiguration) NAME(cudaErrorInvalidPitchValue) NAME(cudaErrorInvalidSymbol)
    NAME(cudaErrorInvalidDevicePointer) NAME(cudaErrorInvalidMemcpyDirection) NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorInvalidDeviceFunction) NAME(cudaErrorNoDevice) NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorPeerAccessUnsupported) NAME(cudaErrorInvalidResourceHandle) NAME(cudaErrorNotReady)
    NAME(cudaErrorIllegalAddress) NAME(cudaErrorLaunchOutOfResources) NAME(cudaErrorPeerAccessAlreadyEnabled)
    NAME(cudaErrorPeerAccessNotEnabled) NAME(cudaErrorMisalignedAddress) NAME(cudaErrorLaunchFailure)
    NAME(cudaErrorDevicesUnavailable) NAME(cudaErrorNoKernelImageForDevice) NAME(cudaErrorECCUncorrectable)
    NAME(cudaErrorUnsupportedPtxVersion) NAME(cudaErrorLaunchTimeout)
    NAME(cudaErrorNotSupported) NAME(cudaErrorStreamCaptureUnsupported) NAME(cudaErrorStreamCaptureInvalidated)
    NAME(cudaErrorStreamCaptureMerge) NAME(cudaErrorStreamCaptureUnmatched) NAME(cudaErrorStreamCaptureUnjoined)
    NAME(cudaErrorStreamCaptureIsolation) NAME(cudaErrorStreamCaptureImplicit) NAME(cudaErrorCapturedEvent)
    NAME(cudaErrorStreamCaptureWrongThread) NAME(cudaErrorUnknown)
#undef NAME
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorUnknown: return "unknown error";
    default: return cudaGetErrorName(error);
    }
}

cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    ENTER();
    *count = knobs.device_count;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    ENTER();
    if (!device_exists(device)) return leave(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    ENTER();
    *device = device_now;
    return cudaSuccess;
}

namespace {

size_t shared_most() { /* that a block may ask for */
    const int capability = knobs.major * 10 + knobs.minor;
    const int kib = capability < 75 ? 96 : capability < 80 ? 64 : capability == 80 || capability == 87 ? 163 : capability < 90 ? 99 : capability < 120 ? 227 : 99;
    return (size_t)kib << 10;
}
size_t shared_per_multiprocessor() { return shared_most() + (knobs.major * 10 + knobs.minor < 80 ? 0 : 1024); }
int threads_per_multiprocessor() {
    const int capability = knobs.major * 10 + knobs.minor;
    return capability == 75 ? 1024 : capability == 86 || capability == 89 || capability >= 120 ? 1536 : 2048;
}

} // namespace

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    ENTER();
    if (!device_exists(device)) return leave(cudaErrorInvalidDevice);
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "Emulated GPU %d", device);
    p->totalGlobalMem = knobs.memory;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = shared_most();
    p->sharedMemPerMultiprocessor = shared_per_multiprocessor();
    p->totalConstMem = 64 << 10;
    p->memPitch = 0x7fffffff;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = WARP;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = THREADS;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = knobs.major;
    p->minor = knobs.minor;
    p->multiProcessorCount = 4;
    p->maxThreadsPerMultiProcessor = threads_per_multiprocessor();
    p->maxBlocksPerMultiProcessor = 16;
    p->l2CacheSize = L2_CACHE;
    p->memoryBusWidth = 384;
    p->asyncEngineCount = 2;
    p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    ENTER();
    if (!device_exists(device)) return leave(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = THREADS; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = WARP; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = 4; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = threads_per_multiprocessor(); return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = knobs.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = knobs.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)shared_per_multiprocessor(); return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)shared_most(); return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = L2_CACHE; return cudaSuccess;
    }
    return leave(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER();
    locked hold(lock);
    *total_bytes = knobs.memory;
    *free_bytes = knobs.memory - (device_bytes[device_now] < knobs.memory ? device_bytes[device_now] : knobs.memory);
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    call_count++;
    *version = knobs.device_count == -1 ? 0 : knobs.device_count == -2 ? 10020 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    call_count++;
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags, cudaDriverEntryPointQueryResult *result) {
    ENTER();
    if (flags != cudaEnableDefault) return leave(cudaErrorInvalidValue);
    *function = !strcmp(name, "cuTensorMapEncodeTiled") ? (void *)cuTensorMapEncodeTiled : !strcmp(name, "cuTensorMapEncodeIm2col") ? (void *)cuTensorMapEncodeIm2col : NULL;
    *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    ENTER();
    if (!device_exists(device) || !device_exists(peer)) return leave(cudaErrorInvalidDevice);
    *can = device != peer && knobs.peers != EMULATE_PEERS_NONE;
    return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    ENTER();
    if (!device_exists(peer) || peer == device_now) return leave(cudaErrorInvalidDevice);
    if (flags) return leave(cudaErrorInvalidValue);
    locked hold(lock);
    if (peer_access[device_now][peer]) return leave(cudaErrorPeerAccessAlreadyEnabled);
    peer_access[device_now][peer] = true;
    return cudaSuccess;
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
    ENTER();
    if (!device_exists(peer)) return leave(cudaErrorInvalidDevice);
    locked hold(lock);
    if (!peer_access[device_now][peer]) return leave(cudaErrorPeerAccessNotEnabled);
    peer_access[device_now][peer] = false;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    ENTER();
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

/* ==== 10 the runtime: memory =====================================================================================
   Memory of a device that is protected is open only while somebody may touch it. */

namespace {

int open_count[DEVICES];
bool is_open[DEVICES];
int staying; /* depth of memory_stays */

enum { EVERY_DEVICE = -1 };

/* What `device` may touch: its own memory and that of devices whose peer it is. */
bool may_touch(int device, int owner) { return device == EVERY_DEVICE || device == owner || peer_access[device][owner]; }

void change(int device, bool open) {
    if (is_open[device] == open) return;
    is_open[device] = open;
    for (const auto &i : allocations)
        if (i.second.device == device) guarded_open(i.second.memory, open);
}

void close_unused() {
    for (int d = 0; d < DEVICES; d++)
        if (!open_count[d]) change(d, false);
}

/* As long as one lives the host does not go on, so that what was opened may stay so until another device must not touch it. */
struct memory_stays {
    memory_stays() { locked hold(lock); staying++; }
    ~memory_stays() {
        locked hold(lock);
        if (!--staying) close_unused();
    }
    memory_stays(const memory_stays &) = delete;
};

/* Opens memory as long as it lives. */
struct opened {
    bool devices[DEVICES];
    explicit opened(int device) {
        locked hold(lock);
        for (int d = 0; d < DEVICES; d++) {
            devices[d] = may_touch(device, d);
            open_count[d] += devices[d];
            change(d, open_count[d] > 0);
        }
    }
    ~opened() {
        locked hold(lock);
        for (int d = 0; d < DEVICES; d++) open_count[d] -= devices[d];
        if (!staying) close_unused();
    }
    opened(const opened &) = delete;
};

void check_allocation(const allocation &a) {
    const opened open(EVERY_DEVICE);
    const ptrdiff_t overrun = guarded_overrun(a.memory);
    if (!overrun) return;
    fprintf(stderr, "emulate: wrote to byte %td of %zu of memory %p of %s %d\n", overrun, a.memory.bytes, (void *)a.memory.user, a.device < 0 ? "the host," : "device", a.device);
    die();
}

/* The allocation that [p, p + bytes) begins in, or NULL; *whole: it also ends there. */
const allocation *find(const void *p, size_t bytes, bool *whole) {
    auto i = allocations.upper_bound((uintptr_t)p);
    if (i == allocations.begin()) return NULL;
    const allocation &a = (--i)->second;
    const size_t offset = (uintptr_t)p - i->first;
    if (offset >= a.memory.bytes) return NULL;
    *whole = bytes <= a.memory.bytes - offset;
    return &a;
}

cudaError_t allocate(void **memory, size_t bytes, int device) {
    locked hold(lock);
    *memory = NULL;
    if (!bytes) return cudaSuccess;
    size_t *used = &device_bytes[device < 0 ? (int)DEVICES : device];
    const size_t rounded = (bytes + 511) & ~(size_t)511;
    if (rounded < bytes || (device >= 0 && (*used > knobs.memory || rounded > knobs.memory - *used))) return cudaErrorMemoryAllocation;
    const guarded g = guarded_make(bytes, device >= 0 && knobs.protect);
    if (!g.user) return cudaErrorMemoryAllocation;
    if (device >= 0 && !is_open[device]) guarded_open(g, false);
    *used += rounded;
    allocations[(uintptr_t)g.user] = {g, device};
    *memory = g.user;
    return cudaSuccess;
}

void drain_device(int device);

cudaError_t release(void *memory, bool host) {
    if (!memory) return cudaSuccess;
    locked hold(lock);
    auto i = allocations.find((uintptr_t)memory);
    if (i == allocations.end() || (i->second.device < 0) != host) return cudaErrorInvalidValue;
    for (int d = 0; d < DEVICES; d++) drain_device(d);
    check_allocation(i->second);
    device_bytes[host ? (int)DEVICES : i->second.device] -= (i->second.memory.bytes + 511) & ~(size_t)511;
    guarded_open(i->second.memory, true);
    guarded_free(&i->second.memory);
    allocations.erase(i);
    return cudaSuccess;
}

/* Does [p, p + bytes) lie where a copy of this kind has it? */
bool good_side(const void *p, size_t bytes, bool device) {
    bool whole = true;
    const allocation *a = find(p, bytes, &whole);
    return whole && (a && a->device >= 0) == device;
}

cudaError_t check_copy(const void *to, const void *from, size_t to_bytes, size_t from_bytes, cudaMemcpyKind kind) {
    locked hold(lock);
    bool whole = true;
    if (kind == cudaMemcpyDefault) return (find(to, to_bytes, &whole), whole) && (find(from, from_bytes, &whole), whole) ? cudaSuccess : cudaErrorInvalidValue;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return good_side(to, to_bytes, to_device) && good_side(from, from_bytes, from_device) ? cudaSuccess : cudaErrorInvalidValue;
}

bool pageable(const void *p) {
    bool whole;
    locked hold(lock);
    return !find(p, 1, &whole);
}

} // namespace

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    *memory = NULL;
    ENTER(cudaErrorMemoryAllocation, true);
    return leave(allocate(memory, bytes, device_now));
}
cudaError_t cudaFree(void *memory) {
    const cudaError_t entered = enter(cudaErrorUnknown, true), error = release(memory, false);
    return leave(entered != cudaSuccess ? entered : error);
}
cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    *memory = NULL;
    ENTER(cudaErrorMemoryAllocation, true);
    return leave(allocate(memory, bytes, -1));
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) { return cudaMallocHost(memory, bytes); }
cudaError_t cudaFreeHost(void *memory) {
    const cudaError_t entered = enter(cudaErrorUnknown, true), error = release(memory, true);
    return leave(entered != cudaSuccess ? entered : error);
}

/* ==== 11 the runtime: streams, events, graphs, launches ==========================================================
   What is put onto a stream runs at once, unless the stream is recorded or the host is to be shown that it does not wait. */

namespace {

void check_all() {
    locked hold(lock);
    const opened open(EVERY_DEVICE);
    for (const auto &i : allocations) check_allocation(i.second);
}

void run_front(emulate_stream *s) {
    const queued next = std::move(s->queue.front());
    s->queue.pop_front();
    next.run();
}

/* Streams that are not waited for go as far as their events let them: always, or by chance. */
void run_ahead(const emulate_stream *of) {
    static uint64_t chance;
    for (emulate_stream *s : streams) {
        if (knobs.lazy < 2 || s == of || s->hangs) continue;
        while (!s->queue.empty() && (!s->queue.front().event || s->queue.front().event->reached >= s->queue.front().target)) {
            chance = chance * 6364136223846793005u + knobs.lazy;
            if (knobs.lazy > 2 && chance >> 62) break;
            run_front(s);
        }
    }
}

void drain_event(const std::shared_ptr<event_state> &e, int64_t target);

/* One operation, or what it waits for: meanwhile it stays in the queue, so that nothing behind it goes ahead. */
bool run_one(emulate_stream *s) {
    run_ahead(s);
    if (s->queue.empty() || s->hangs) return false;
    const std::shared_ptr<event_state> event = s->queue.front().event;
    const int64_t target = s->queue.front().target;
    if (event && event->reached < target) {
        drain_event(event, target);
        return event->reached >= target; /* false: its stream hangs */
    }
    run_front(s);
    return true;
}
void drain(emulate_stream *s) {
    const memory_stays stays;
    while (run_one(s)) {}
    if (s->queue.empty() && !s->hangs) return;
    fprintf(stderr, "emulate: waits for a stream of device %d that hangs\n", s->device);
    die();
}
void drain_device(int device) {
    for (emulate_stream *s : streams)
        if (s->device == device) drain(s);
}
void drain_event(const std::shared_ptr<event_state> &e, int64_t target) {
    const memory_stays stays;
    while (e->reached < target && handles.count(e->stream) && run_one(e->stream)) {}
}

emulate_stream *stream_of(cudaStream_t stream) {
    if (!stream) {
        legacy[device_now].device = device_now;
        return &legacy[device_now];
    }
    return handles.count(stream) ? stream : NULL;
}

cudaError_t submit(cudaStream_t handle, const operation &next, const std::shared_ptr<event_state> &event = NULL, int64_t target = 0) {
    {
        locked hold(lock);
        emulate_stream *s = stream_of(handle);
        if (!s) return cudaErrorInvalidResourceHandle;
        if (s->capture) {
            if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
            s->capture->operations.push_back(next);
            return cudaSuccess;
        }
        if (!handle) {
            for (emulate_stream *other : streams)
                if (other->device == s->device && !(other->flags & cudaStreamNonBlocking)) {
                    if (other->capture) {
                        other->capture->invalid = true;
                        return cudaErrorStreamCaptureImplicit;
                    }
                    drain(other);
                }
        } else if (knobs.lazy || s->hangs) {
            s->queue.push_back({next, event, target});
            return cudaSuccess;
        } else drain(s);
        if (event) drain_event(event, target);
    }
    next();
    return cudaSuccess;
}

/* What work takes on a device's clock, in nanoseconds of nobody's: a thread of a kernel one, 16 bytes of a copy one. */
void take_time(int device, uint64_t threads) { device_clock[device] += 1000 + (int64_t)threads; }

/* May the host wait for this stream? */
cudaError_t waitable(emulate_stream *s) {
    if (!s) return cudaErrorInvalidResourceHandle;
    if (!s->capture) return cudaSuccess;
    s->capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t copy_on(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (!width || !height) return cudaSuccess;
    if (to_pitch < width || from_pitch < width) return cudaErrorInvalidPitchValue;
    const cudaError_t error = check_copy(to, from, to_pitch * (height - 1) + width, from_pitch * (height - 1) + width, kind);
    if (error != cudaSuccess) return error;
    const int device = device_now;
    if (pageable(from) && knobs.lazy) { /* such memory is read before the call returns */
        std::vector<unsigned char> kept(width * height);
        for (size_t y = 0; y < height; y++) memcpy(kept.data() + y * width, (const char *)from + y * from_pitch, width);
        return submit(stream, [=]() {
            const opened open(EVERY_DEVICE);
            for (size_t y = 0; y < height; y++) memcpy((char *)to + y * to_pitch, kept.data() + y * width, width);
            take_time(device, width * height / 16);
        });
    }
    const cudaError_t submitted = submit(stream, [=]() {
        const opened open(EVERY_DEVICE);
        if (width == to_pitch && width == from_pitch) memmove(to, from, width * height);
        else for (size_t y = 0; y < height; y++) memmove((char *)to + y * to_pitch, (const char *)from + y * from_pitch, width);
        take_time(device, width * height / 16);
    });
    if (submitted == cudaSuccess && pageable(to) && knobs.lazy) { /* and written before it returns */
        locked hold(lock);
        emulate_stream *s = stream_of(stream);
        if (!s->capture) drain(s);
    }
    return submitted;
}

cudaError_t set_on(void *memory, int value, size_t bytes, cudaStream_t stream) {
    if (!bytes) return cudaSuccess;
    {
        locked hold(lock);
        bool whole = true;
        if (!find(memory, bytes, &whole) || !whole) return cudaErrorInvalidValue;
    }
    const int device = device_now;
    return submit(stream, [=]() {
        const opened open(EVERY_DEVICE);
        memset(memory, value, bytes);
        take_time(device, bytes / 16);
    });
}

} // namespace

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) { return cudaMemcpy2D(to, bytes, from, bytes, bytes, 1, kind); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind) {
    ENTER(cudaErrorUnknown, true);
    return leave(copy_on(to, to_pitch, from, from_pitch, width, height, kind, 0));
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    ENTER();
    return leave(copy_on(to, to_pitch, from, from_pitch, width, height, kind, stream));
}
cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes) { return cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, 0); }
cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t stream) {
    ENTER();
    if (!device_exists(to_device) || !device_exists(from_device)) return leave(cudaErrorInvalidDevice);
    {
        locked hold(lock);
        bool whole;
        const allocation *a = find(to, bytes, &whole), *b = find(from, bytes, &whole);
        if (!a || !b || a->device != to_device || b->device != from_device) return leave(cudaErrorInvalidValue);
    }
    return leave(copy_on(to, bytes, from, bytes, bytes, 1, cudaMemcpyDeviceToDevice, stream));
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    ENTER();
    return leave(set_on(memory, value, bytes, 0));
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    ENTER();
    return leave(set_on(memory, value, bytes, stream));
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    *stream = NULL;
    ENTER();
    if (flags & ~1u) return leave(cudaErrorInvalidValue);
    locked hold(lock);
    *stream = new emulate_stream();
    (*stream)->device = device_now;
    (*stream)->flags = flags;
    handles.insert(*stream);
    streams.insert(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const cudaError_t entered = enter();
    locked hold(lock);
    if (!stream || !handles.count(stream)) return leave(cudaErrorInvalidResourceHandle);
    drain(stream);
    if (stream->capture) stream->capture->invalid = true, stream->capture->joined.erase(stream);
    streams.erase(stream);
    handles.erase(stream);
    delete stream;
    return leave(entered);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    ENTER();
    locked hold(lock);
    emulate_stream *s = stream_of(stream);
    const cudaError_t error = waitable(s);
    if (error != cudaSuccess) return leave(error);
    drain(s);
    check_all();
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    ENTER();
    locked hold(lock);
    emulate_stream *s = stream_of(stream);
    const cudaError_t error = waitable(s);
    if (error != cudaSuccess) return leave(error);
    run_one(s);
    return s->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize() {
    ENTER(cudaErrorUnknown, true);
    locked hold(lock);
    drain_device(device_now);
    check_all();
    return cudaSuccess;
}
cudaError_t cudaDeviceReset() {
    ENTER();
    locked hold(lock);
    drain_device(device_now);
    for (auto i = allocations.begin(); i != allocations.end();) {
        if (i->second.device == device_now) {
            check_allocation(i->second);
            guarded_open(i->second.memory, true);
            guarded_free(&i->second.memory);
            i = allocations.erase(i);
        } else ++i;
    }
    device_bytes[device_now] = 0;
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *data) {
    ENTER();
    return leave(submit(stream, [=]() { function(data); }));
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = NULL;
    ENTER();
    locked hold(lock);
    *event = new emulate_event{device_now, flags, std::make_shared<event_state>()};
    handles.insert(*event);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const cudaError_t entered = enter();
    locked hold(lock);
    if (!event || !handles.count(event)) return leave(cudaErrorInvalidResourceHandle);
    handles.erase(event);
    delete event;
    return leave(entered);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ENTER();
    std::shared_ptr<event_state> e;
    int64_t target;
    {
        locked hold(lock);
        emulate_stream *s = stream_of(stream);
        if (!event || !handles.count(event) || !s || s->device != event->device) return leave(cudaErrorInvalidResourceHandle);
        e = event->state;
        e->captured = s->capture;
        e->stream = s;
        if (s->capture) return cudaSuccess;
        target = ++e->recorded;
    }
    const int device = event->device;
    return leave(submit(stream, [e, target, device]() {
        e->reached = target;
        e->when = device_clock[device];
    }));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    ENTER();
    locked hold(lock);
    emulate_stream *s = stream_of(stream);
    if (!event || !handles.count(event) || !s) return leave(cudaErrorInvalidResourceHandle);
    std::shared_ptr<event_state> e = event->state;
    if (e->captured) { /* what waits for recorded work is recorded too */
        if (!recordings.count(e->captured)) return leave(cudaErrorCapturedEvent);
        if (s->capture && s->capture != e->captured) return leave(cudaErrorStreamCaptureMerge);
        if (!s->capture) {
            s->capture = e->captured;
            e->captured->joined.insert(s);
        }
        if (s != e->stream) e->captured->joined.erase(e->stream == s->capture->origin ? NULL : e->stream);
        return cudaSuccess;
    }
    if (s->capture) return leave(cudaErrorStreamCaptureIsolation);
    const int64_t target = e->recorded;
    return leave(submit(stream, []() {}, e, target));
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    ENTER();
    locked hold(lock);
    if (!event || !handles.count(event)) return leave(cudaErrorInvalidResourceHandle);
    if (event->state->captured) return leave(cudaErrorCapturedEvent);
    drain_event(event->state, event->state->recorded);
    check_all();
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    ENTER();
    locked hold(lock);
    if (!event || !handles.count(event)) return leave(cudaErrorInvalidResourceHandle);
    if (event->state->captured) return leave(cudaErrorCapturedEvent);
    if (event->state->reached < event->state->recorded && handles.count(event->state->stream) && !run_one(event->state->stream)) usleep(500); /* it hangs */
    return event->state->reached < event->state->recorded ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    ENTER();
    locked hold(lock);
    if (!handles.count(from) || !handles.count(to) || (from->flags | to->flags) & cudaEventDisableTiming || !from->state->recorded || !to->state->recorded)
        return leave(cudaErrorInvalidResourceHandle);
    if (from->state->reached < from->state->recorded || to->state->reached < to->state->recorded) return cudaErrorNotReady;
    *milliseconds = (float)(to->state->when - from->state->when) * 1e-6f;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    ENTER();
    locked hold(lock);
    if (!stream) return leave(cudaErrorStreamCaptureUnsupported);
    if (!handles.count(stream)) return leave(cudaErrorInvalidResourceHandle);
    if (stream->capture) return leave(cudaErrorInvalidValue);
    emulate_graph *g = new emulate_graph;
    g->origin = stream;
    g->mode = mode;
    g->owner = std::this_thread::get_id();
    stream->capture = g;
    recordings.insert(g);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    const cudaError_t entered = enter();
    locked hold(lock);
    if (!stream || !handles.count(stream)) return leave(cudaErrorInvalidResourceHandle);
    emulate_graph *g = stream->capture;
    if (!g) return leave(cudaErrorInvalidValue);
    if (g->origin != stream) return leave(cudaErrorStreamCaptureUnmatched);
    if (g->mode != cudaStreamCaptureModeRelaxed && g->owner != std::this_thread::get_id()) return leave(cudaErrorStreamCaptureWrongThread);
    const cudaError_t error = entered != cudaSuccess ? entered : g->invalid ? cudaErrorStreamCaptureInvalidated : g->joined.empty() ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
    for (emulate_stream *s : streams)
        if (s->capture == g) s->capture = NULL;
    recordings.erase(g);
    if (error != cudaSuccess) {
        delete g;
        return leave(error);
    }
    handles.insert(g);
    *graph = g;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    ENTER();
    locked hold(lock);
    emulate_stream *s = stream_of(stream);
    if (!s) return leave(cudaErrorInvalidResourceHandle);
    *status = !s->capture ? cudaStreamCaptureStatusNone : s->capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = NULL;
    ENTER();
    locked hold(lock);
    if (!graph || !handles.count(graph)) return leave(cudaErrorInvalidValue);
    *exec = new emulate_graph_exec{graph->operations, device_now};
    handles.insert(*exec);
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) { return cudaGraphInstantiateWithFlags(exec, graph, flags); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    ENTER(cudaErrorLaunchFailure);
    std::vector<operation> operations;
    {
        locked hold(lock);
        if (!exec || !handles.count(exec)) return leave(cudaErrorInvalidValue);
        operations = exec->operations;
    }
    return leave(submit(stream, [operations]() { for (const operation &o : operations) o(); }));
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
    ENTER();
    locked hold(lock);
    return leave(exec && handles.count(exec) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    const cudaError_t entered = enter();
    locked hold(lock);
    if (!exec || !handles.erase(exec)) return leave(cudaErrorInvalidValue);
    delete exec;
    return leave(entered);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const cudaError_t entered = enter();
    locked hold(lock);
    if (!graph || !handles.erase(graph)) return leave(cudaErrorInvalidValue);
    delete graph;
    return leave(entered);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *, size_t *count) {
    ENTER();
    locked hold(lock);
    if (!graph || !handles.count(graph)) return leave(cudaErrorInvalidValue);
    *count = graph->operations.size();
    return cudaSuccess;
}

cudaError_t emulate_function_set(const void *function, cudaFuncAttribute attribute, int value) {
    ENTER();
    locked hold(lock);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || (size_t)value + statics_of(function)->own > shared_most()) return leave(cudaErrorInvalidValue);
    dynamic_limits[function] = value;
    return cudaSuccess;
}

namespace {

size_t dynamic_limit(const void *kernel) {
    locked hold(lock);
    const auto i = dynamic_limits.find(kernel);
    const size_t fixed = statics_of(kernel)->own, usual = (48 << 10) - (fixed < 48 << 10 ? fixed : 48 << 10);
    return i == dynamic_limits.end() || (size_t)i->second < usual ? usual : (size_t)i->second;
}

cudaError_t check_launch(const work &w, cudaStream_t stream) {
    const dim3 g = w.grid, b = w.block;
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return cudaErrorInvalidConfiguration;
    if (g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
    if (b.x > THREADS || b.y > THREADS || b.z > 64 || (uint64_t)b.x * b.y * b.z > THREADS) return cudaErrorInvalidConfiguration;
    if (w.shared_bytes > dynamic_limit(w.kernel)) return cudaErrorInvalidValue;
    locked hold(lock);
    const emulate_stream *s = stream_of(stream);
    return s && s->device == device_now ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

} // namespace

cudaError_t emulate_function_get(cudaFuncAttributes *attributes, const void *function) {
    ENTER(cudaErrorNoKernelImageForDevice);
    const int version = 10 * knobs.major + knobs.minor;
    *attributes = {statics_of(function)->own, THREADS, 32, (int)dynamic_limit(function), version, version};
    return cudaSuccess;
}
cudaError_t emulate_occupancy(int *blocks, const void *function, int block, size_t shared_bytes) {
    ENTER();
    if (block < 1 || block > THREADS) return leave(cudaErrorInvalidValue);
    const size_t reserved = shared_bytes + statics_of(function)->own + 1024;
    int most = threads_per_multiprocessor() / ((block + WARP - 1) / WARP * WARP);
    if ((size_t)most > shared_per_multiprocessor() / reserved) most = (int)(shared_per_multiprocessor() / reserved);
    *blocks = shared_bytes > dynamic_limit(function) ? 0 : most > 16 ? 16 : most;
    return cudaSuccess;
}

namespace {

/* Turns over a byte of each piece of memory that the device reaches in others; twice: as it was. */
void spoil_peers(int device) {
    if (knobs.peers != EMULATE_PEERS_WRONG) return;
    locked hold(lock);
    for (const auto &i : allocations) {
        const allocation &a = i.second;
        if (a.device >= 0 && a.device != device && peer_access[device][a.device]) a.memory.user[a.memory.bytes / 2] ^= 0x40;
    }
}

/* Is this the launch after which a device hangs that reaches into another's memory? */
bool hangs_now(int device) {
    bool reaches = false;
    for (int d = 0; d < DEVICES; d++) reaches |= peer_access[device][d];
    return knobs.peers == EMULATE_PEERS_HANG && reaches;
}

} // namespace

void emulate_submit(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, const emulate_callable *thread) {
    std::unique_ptr<const emulate_callable> owned(thread);
    cudaError_t error = enter(cudaErrorLaunchFailure);
    if (error == cudaSuccess) {
        const std::shared_ptr<const work> w(new work{name, kernel, grid, block, shared_bytes, std::move(owned), &statics_of(kernel)->regions});
        error = check_launch(*w, stream);
        const int device = device_now;
        if (error == cudaSuccess && hangs_now(device)) stream_of(stream)->hangs = true;
        if (error == cudaSuccess) error = submit(stream, [w, device]() {
            const opened open(device);
            launch_count++;
            { std::lock_guard<std::mutex> hold(launch_lock); launch_names[w->name]++; }
            spoil_peers(device);
            grid_run(*w);
            spoil_peers(device);
            const dim3 g = w->grid, b = w->block;
            take_time(device, (uint64_t)g.x * g.y * g.z * b.x * b.y * b.z);
        });
    }
    leave(error);
}

/* ==== 12 knobs ================================================================================================== */

void emulate_reset(void) {
    knobs = settings();
    fail_after = call_count = launch_count = 0;
    emulate_fail_after(0);
    cudaGetLastError();
    locked hold(lock);
    memset(peer_access, 0, sizeof peer_access);
}
void emulate_set_device_count(int count) { knobs.device_count = count > DEVICES ? (int)DEVICES : count; }
void emulate_set_memory(size_t bytes) { knobs.memory = bytes; }
void emulate_set_capability(int major, int minor) { knobs.major = major, knobs.minor = minor; }
void emulate_set_order(uint64_t seed) { knobs.order = seed; }
void emulate_set_workers(int count) { knobs.workers = count; }
void emulate_set_lazy(uint64_t lazy) { knobs.lazy = lazy; }
void emulate_set_peers(emulate_peers peers) {
    locked hold(lock);
    knobs.peers = peers;
    for (emulate_stream *s : streams) s->hangs = false;
}
static void touched(int, siginfo_t *info, void *) {
    bool whole;
    const allocation *a = find(info->si_addr, 1, &whole);
    if (a && a->device >= 0) {
        const ptrdiff_t offset = (unsigned char *)info->si_addr - a->memory.user;
        if (worker_now) emulate_die("touches byte %td of %zu of memory of device %d, whose peer it is not", offset, a->memory.bytes, a->device);
        fprintf(stderr, "emulate: the host touches byte %td of %zu of memory of device %d\n", offset, a->memory.bytes, a->device);
        die();
    }
    signal(SIGSEGV, SIG_DFL);
}
void emulate_set_protect(int protect) {
    struct sigaction action = {};
    action.sa_sigaction = touched;
    action.sa_flags = SA_SIGINFO;
    if (protect) sigaction(SIGSEGV, &action, NULL);
    knobs.protect = protect != 0;
}
void emulate_fail_after(int64_t n) { fail_after = n, call_failed = false, failure = 0, lost = loses = false; }
void emulate_fail_with(int error, int for_good) { failure = error, loses = for_good != 0; }
int emulate_failed(void) { return call_failed; }
int64_t emulate_launches(void) { return launch_count; }
int64_t emulate_launched(const char *kernel) {
    std::lock_guard<std::mutex> hold(launch_lock);
    int64_t count = 0;
    for (const auto &launched : launch_names) count += launched.first.find(kernel) != std::string::npos ? launched.second : 0;
    return count;
}
int64_t emulate_calls(void) { return call_count; }
size_t emulate_allocated(int device) {
    locked hold(lock);
    return device_bytes[device < 0 ? (int)DEVICES : device];
}
int emulate_handles(void) {
    locked hold(lock);
    return (int)handles.size();
}
void emulate_check(void) { check_all(); }
