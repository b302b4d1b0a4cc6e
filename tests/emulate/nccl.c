/* nccl.c - stands in for NCCL where GPUs are emulated: ranks of several processes on one machine, whose device memory the host sees, add
   up in their order through a file that all have mapped. Processes share the current folder. A call waits for the other ranks, until its
   communicator is aborted: as NCCL's may.

     cc -shared -fPIC -O2 tests/emulate/nccl.c -o FOLDER-OF-YOLO/libnccl.so.2 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 64, PIECE = 1 << 16 /* bytes */, OK = 0, FAILED = 2, FLOAT = 7, SUM = 0 };

typedef struct { char bytes[128]; } id;
typedef struct { int arrived, meetings; unsigned char offers[RANKS][PIECE]; } board;
typedef struct { board *board; int size, rank, aborts, calls; } comm;

static board *open_board(const char *path, int flags) {
    const int file = open(path, O_RDWR | flags, 0600);
    if (file < 0 || ftruncate(file, sizeof(board))) return NULL;
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return b == MAP_FAILED ? NULL : b;
}

/* A barrier; false when the communicator is aborted. */
static bool meet(comm *c) {
    board *b = c->board;
    const struct timespec pause = {0, 20000};
    const int meeting = __atomic_load_n(&b->meetings, __ATOMIC_SEQ_CST);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_SEQ_CST) == c->size) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&b->meetings, 1, __ATOMIC_SEQ_CST);
    }
    while (__atomic_load_n(&b->meetings, __ATOMIC_SEQ_CST) == meeting && !__atomic_load_n(&c->aborts, __ATOMIC_SEQ_CST)) nanosleep(&pause, NULL);
    return !__atomic_load_n(&c->aborts, __ATOMIC_SEQ_CST);
}

int ncclGetVersion(int *version) { return *version = 29999, OK; }
const char *ncclGetErrorString(int result) { return result ? "emulated error" : "no error"; }

int ncclGetUniqueId(id *to) {
    memset(to, 0, sizeof *to);
    snprintf(to->bytes, sizeof to->bytes, "nccl-%ld", (long)getpid());
    return open_board(to->bytes, O_CREAT | O_TRUNC) ? OK : FAILED;
}

int ncclCommInitRank(comm **out, int size, id from, int rank) {
    comm *c = calloc(1, sizeof *c);
    *out = c;
    if (!c || size > RANKS || !(c->board = open_board(from.bytes, 0))) return FAILED;
    c->size = size;
    c->rank = rank;
    return meet(c) ? OK : FAILED;
}

/* What is still called with a communicator reads it: it is not freed. */
int ncclCommAbort(comm *c) {
    __atomic_store_n(&c->aborts, 1, __ATOMIC_SEQ_CST);
    fprintf(stderr, "NCCL: rank %d of %d aborts after %d sums\n", c->rank, c->size, c->calls);
    return OK;
}

int ncclCommDestroy(comm *c) {
    fprintf(stderr, "NCCL: rank %d of %d ends after %d sums\n", c->rank, c->size, c->calls);
    return OK;
}

int ncclCommGetAsyncError(comm *c, int *result) { return *result = c->aborts ? FAILED : OK, OK; }

static void add(comm *c, void *to, size_t bytes, bool wide) {
    memcpy(to, c->board->offers[0], bytes);
    for (int r = 1; r < c->size; r++)
        for (size_t i = 0; i < bytes / (wide ? 8 : 4); i++) {
            if (wide) ((double *)to)[i] += ((const double *)(void *)c->board->offers[r])[i];
            else ((float *)to)[i] += ((const float *)(void *)c->board->offers[r])[i];
        }
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, comm *c, void *stream) {
    const size_t size = count * (type == FLOAT ? 4 : 8);
    c->calls++;
    if (operation != SUM || !stream) return FAILED;
    for (size_t at = 0; at < size; at += PIECE) {
        const size_t bytes = size - at < PIECE ? size - at : PIECE;
        memcpy(c->board->offers[c->rank], (const char *)from + at, bytes);
        if (!meet(c)) return FAILED;
        add(c, (char *)to + at, bytes, type != FLOAT);
        if (!meet(c)) return FAILED;
    }
    return OK;
}
