/* yolo.c - the engine and the command line of `yolo`; see yolo.h for what it does.

   It is one translation unit: portable C11, no dependency but the C library, stb_image and stb_image_write.
   It is not a framework: the graph is YOLOv8's, the tensors are NHWC floats, the rest is files.

   CONTENTS (tests/check_layout.sh compares this list with the banners below)
     1  os_            platform: files, folders, threads, clock, terminal, libraries
     2  err_ log_      errors, assertions, log and progress
     3  mem_ arena_    memory: checked allocation, arenas, fault injection
     4  thr_           threads: pool and parallel loops
     5  str_ path_ hash_ rng_ f16_ cur_ val_  base: strings, paths, numbers, byte cursor, value trees
     6  ten_           tensors and dtypes
     7  img_           image core: resize, letterbox, drawing
     8  codec_         picture files
     9  yaml_ lbl_ data_  dataset text: yaml, class names, labels, picture lists
     10 zip_           archives: inflate, CRC, zip
     11 pkl_           pickles: machine and writer
     12 net_           model graph: tables, shapes, parameters, memory plan, summary
     13 pt_            checkpoints (.pt)
     14 op_            CPU operators
     15 run_            executor
     16 grad_           training pass
     17 det_ nms_ pipe_ head decoding and suppression, pictures in and boxes out
     18 loss_           training loss
     19 opt_            optimizers, schedules, moving average of the weights
     20 aug_ dl_        augmentation and training batches
     21 ev_             evaluator
     22 plot_           charts and sheets of pictures
     23 prep_           data preparation
     24 lab_            labelling a tree of pictures
     25 tr_             trainer
     26 dev_ bench_     devices and benchmark
     27 demo_           drawn data set
     28 yolo_           public interface
     29 cli_            command line

   LAYERING: a section calls only itself and sections above it. Names begin with the prefix of their section.
   Dimensions: N batch, C input channels, K output channels, H W height and width, R S kernel height and width,
   A anchors, Z classes.

   MIT licence, see LICENSE. */

#ifndef OP_PASS /* section 14 includes this file again, for its kernels alone */

#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* fsync, dlopen, sysconf, nanosleep under -std=c11 */
#endif
#if defined(_WIN32) && !defined(_CRT_SECURE_NO_WARNINGS)
#define _CRT_SECURE_NO_WARNINGS /* fopen and friends only ever see paths widened by os_ */
#endif
#define YOLO_PRIVATE
#include "yolo.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#include <direct.h>
#include <io.h>
#include <process.h>
#include <shellapi.h>
#include <psapi.h>
#else
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define YOLO_X86 1
#include <immintrin.h>
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#ifdef __GNUC__
#define YOLO_PRINTF(text, first) __attribute__((format(YOLO_PRINTF_KIND, text, first)))
#ifdef __MINGW32__
#define YOLO_PRINTF_KIND gnu_printf
#else
#define YOLO_PRINTF_KIND printf
#endif
#else
#define YOLO_PRINTF(text, first)
#endif

#define YOLO_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define YOLO_MIN(a, b) ((a) < (b) ? (a) : (b))
#define YOLO_MAX(a, b) ((a) > (b) ? (a) : (b))
#define YOLO_CLAMP(x, low, high) YOLO_MIN(YOLO_MAX(x, low), high)

#ifndef YOLO_MAX_DIM
#define YOLO_MAX_DIM 65500
#endif

/* ==== 1 os_: platform ==========================================================================================
   The only section that knows the operating system. Paths are UTF-8 everywhere inside and are widened here on
   Windows. Functions return false or NULL on failure and leave the reason for os_reason(). Nothing here allocates
   but os_list_directory and the path conversions. */

/* The text of the last failure of an os_ call in this thread, into `text`. */
static const char *os_reason(char *text, size_t size) {
#ifdef _WIN32
    DWORD code = GetLastError();
    wchar_t wide[256];
    if (!FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, code, 0, wide, 256, NULL) ||
        !WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, (int)size, NULL, NULL))
        snprintf(text, size, "Windows error %lu", (unsigned long)code);
    size_t length = strlen(text);
    while (length && (text[length - 1] == '\n' || text[length - 1] == '\r' || text[length - 1] == '.')) text[--length] = 0;
#else
    snprintf(text, size, "%s", strerror(errno));
#endif
    return text;
}

#ifdef _WIN32
#define OS_PATH_UNITS 32768
/* Widens a UTF-8 path; long absolute paths get the \\?\ prefix so that MAX_PATH does not bind. Caller frees. */
static wchar_t *os_wide(const char *path) {
    int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (units <= 0 || units > OS_PATH_UNITS) return NULL;
    wchar_t *wide = malloc(sizeof(wchar_t) * (size_t)units);
    if (!wide) return NULL;
    MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, units);
    if (units < 240) return wide;
    wchar_t *full = malloc(sizeof(wchar_t) * (OS_PATH_UNITS + 8));
    if (!full) { free(wide); return NULL; }
    wcscpy(full, L"\\\\?\\");
    DWORD length = GetFullPathNameW(wide, OS_PATH_UNITS, full + 4, NULL);
    free(wide);
    if (!length || length >= OS_PATH_UNITS) { free(full); return NULL; }
    if (full[4] == L'\\' && full[5] == L'\\') { /* \\server\share needs the UNC spelling */
        memmove(full + 7, full + 5, sizeof(wchar_t) * (length));
        memcpy(full + 4, L"UNC", 3 * sizeof(wchar_t));
    }
    return full;
}
/* Narrows to UTF-8; false when it does not fit. */
static bool os_narrow(const wchar_t *wide, char *text, int size) {
    return WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, size, NULL, NULL) > 0;
}
#endif

/* fopen for UTF-8 paths. Windows' C library reports in errno; it is copied to where os_reason looks. */
static FILE *os_open(const char *path, const char *mode) {
#ifdef _WIN32
    wchar_t *wide = os_wide(path), wide_mode[8] = {0};
    for (int i = 0; mode[i] && i < 7; i++) wide_mode[i] = (wchar_t)mode[i];
    FILE *file = wide ? _wfopen(wide, wide_mode) : NULL;
    if (!file && !wide) SetLastError(ERROR_BAD_PATHNAME);
    free(wide);
    return file;
#else
    return fopen(path, mode);
#endif
}

static int64_t os_file_size(FILE *file) {
#ifdef _WIN32
    return _fseeki64(file, 0, SEEK_END) ? -1 : (_ftelli64(file) >= 0 ? _ftelli64(file) : -1);
#else
    return fseeko(file, 0, SEEK_END) ? -1 : (int64_t)ftello(file);
#endif
}

/* Flushes a file's bytes to the disk, so that a rename after it never exposes an empty file. */
static bool os_flush(FILE *file) {
    if (fflush(file)) return false;
#ifdef _WIN32
    return _commit(_fileno(file)) == 0;
#else
    return fsync(fileno(file)) == 0;
#endif
}

static bool os_remove(const char *path) {
#ifdef _WIN32
    wchar_t *wide = os_wide(path);
    bool done = wide && DeleteFileW(wide);
    free(wide);
    return done;
#else
    return unlink(path) == 0;
#endif
}

/* Replaces `to` atomically. */
static bool os_rename(const char *from, const char *to) {
#ifdef _WIN32
    wchar_t *wide_from = os_wide(from), *wide_to = os_wide(to);
    bool done = wide_from && wide_to && MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
    free(wide_from);
    free(wide_to);
    return done;
#else
    return rename(from, to) == 0;
#endif
}

/* A second name for the same bytes; false where the file system cannot. */
static bool os_hard_link(const char *from, const char *to) {
#ifdef _WIN32
    wchar_t *wide_from = os_wide(from), *wide_to = os_wide(to);
    bool done = wide_from && wide_to && CreateHardLinkW(wide_to, wide_from, NULL);
    free(wide_from);
    free(wide_to);
    return done;
#else
    return link(from, to) == 0;
#endif
}

typedef enum os_kind { OS_NOTHING, OS_FILE, OS_DIRECTORY, OS_OTHER } os_kind;

static os_kind os_path_kind(const char *path) {
#ifdef _WIN32
    wchar_t *wide = os_wide(path);
    DWORD attributes = wide ? GetFileAttributesW(wide) : INVALID_FILE_ATTRIBUTES;
    free(wide);
    if (attributes == INVALID_FILE_ATTRIBUTES) return OS_NOTHING;
    return attributes & FILE_ATTRIBUTE_DIRECTORY ? OS_DIRECTORY : OS_FILE;
#else
    struct stat info;
    if (stat(path, &info)) return OS_NOTHING;
    return S_ISDIR(info.st_mode) ? OS_DIRECTORY : S_ISREG(info.st_mode) ? OS_FILE : OS_OTHER;
#endif
}

/* Makes one folder; true when it exists afterwards. */
static bool os_make_directory(const char *path) {
#ifdef _WIN32
    wchar_t *wide = os_wide(path);
    bool done = wide && (CreateDirectoryW(wide, NULL) || GetLastError() == ERROR_ALREADY_EXISTS);
    free(wide);
    return done && os_path_kind(path) == OS_DIRECTORY;
#else
    return mkdir(path, 0777) == 0 || (errno == EEXIST && os_path_kind(path) == OS_DIRECTORY);
#endif
}

/* Calls `each` for every entry but . and .. in no particular order, with what the entry is (links followed). False
   when the folder cannot be read or `each` returned false. */
static bool os_list_directory(const char *path, bool (*each)(void *user, const char *name, os_kind kind), void *user) {
#ifdef _WIN32
    size_t length = strlen(path);
    char *pattern = malloc(length + 3);
    if (!pattern) return false;
    snprintf(pattern, length + 3, "%s\\*", path);
    wchar_t *wide = os_wide(pattern);
    free(pattern);
    WIN32_FIND_DATAW entry;
    HANDLE handle = wide ? FindFirstFileW(wide, &entry) : INVALID_HANDLE_VALUE;
    free(wide);
    if (handle == INVALID_HANDLE_VALUE) return false;
    bool going = true;
    do {
        char name[1024];
        if (!wcscmp(entry.cFileName, L".") || !wcscmp(entry.cFileName, L"..")) continue;
        os_kind kind = entry.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY ? OS_DIRECTORY : OS_FILE;
        if (os_narrow(entry.cFileName, name, (int)sizeof name)) going = each(user, name, kind);
    } while (going && FindNextFileW(handle, &entry));
    FindClose(handle);
    return going;
#else
    DIR *directory = opendir(path);
    if (!directory) return false;
    bool going = true;
    struct dirent *entry;
    while (going && (entry = readdir(directory))) {
        struct stat info;
        os_kind kind = OS_NOTHING;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (entry->d_type == DT_REG) kind = OS_FILE;
        else if (entry->d_type == DT_DIR) kind = OS_DIRECTORY;
        else if (!fstatat(dirfd(directory), entry->d_name, &info, 0)) /* a link, or a file system that does not say */
            kind = S_ISDIR(info.st_mode) ? OS_DIRECTORY : S_ISREG(info.st_mode) ? OS_FILE : OS_OTHER;
        going = each(user, entry->d_name, kind);
    }
    closedir(directory);
    return going;
#endif
}

/* The canonical absolute path, links resolved, into `real`; false when it does not exist or does not fit. */
static bool os_real_path(const char *path, char *real, size_t size) {
#ifdef _WIN32
    wchar_t *wide = os_wide(path);
    HANDLE handle = wide ? CreateFileW(wide, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                                       OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL) : INVALID_HANDLE_VALUE;
    free(wide);
    if (handle == INVALID_HANDLE_VALUE) return false;
    wchar_t *full = malloc(sizeof(wchar_t) * OS_PATH_UNITS);
    DWORD length = full ? GetFinalPathNameByHandleW(handle, full, OS_PATH_UNITS, 0) : 0;
    CloseHandle(handle);
    const wchar_t *start = full;
    if (length > 4 && !wcsncmp(full, L"\\\\?\\", 4) && wcsncmp(full, L"\\\\?\\UNC", 7)) start = full + 4;
    bool done = length > 0 && length < OS_PATH_UNITS && os_narrow(start, real, (int)size);
    free(full);
    return done;
#else
    char *resolved = realpath(path, NULL);
    if (!resolved) return false;
    bool fits = strlen(resolved) < size;
    if (fits) memcpy(real, resolved, strlen(resolved) + 1);
    free(resolved);
    return fits;
#endif
}

/* Seconds from an arbitrary start, never going back. */
static double os_clock(void) {
#ifdef _WIN32
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&frequency);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

/* Cores this process may use. */
static int os_core_count(void) {
#ifdef _WIN32
    return YOLO_MAX(1, (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS));
#elif defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return YOLO_MAX(1, CPU_COUNT(&set));
    return 1;
#else
    return (int)YOLO_MAX(1, sysconf(_SC_NPROCESSORS_ONLN));
#endif
}

/* Highest resident memory of this process so far, bytes. */
static uint64_t os_peak_memory(void) {
#ifdef _WIN32
    PROCESS_MEMORY_COUNTERS counters;
    return K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) ? counters.PeakWorkingSetSize : 0;
#else
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage)) return 0;
#ifdef __APPLE__
    return (uint64_t)usage.ru_maxrss;
#else
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
#endif
}

static uint64_t os_memory_total(void) {
#ifdef _WIN32
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    return GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : 0;
#else
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
#endif
}

/* Bytes of memory that are free or can be had at once: of the system, or of the group the process is confined to. 0 = unknown. */
static uint64_t os_memory_available(void) {
#ifdef _WIN32
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    return GlobalMemoryStatusEx(&status) ? status.ullAvailPhys : 0;
#else
    unsigned long long kilobytes = 0, most = 0, used = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && !kilobytes && fgets(line, sizeof line, file)) (void)sscanf(line, "MemAvailable: %llu", &kilobytes);
    if (file) fclose(file);
    uint64_t available = kilobytes ? (uint64_t)kilobytes << 10 : os_memory_total();
    if ((file = fopen("/sys/fs/cgroup/memory.max", "r"))) {
        if (fscanf(file, "%llu", &most) != 1) most = 0; /* "max" */
        fclose(file);
        if (most && (file = fopen("/sys/fs/cgroup/memory.current", "r"))) {
            if (fscanf(file, "%llu", &used) == 1) available = YOLO_MIN(available, most > used ? most - used : 1);
            fclose(file);
        }
    }
    return available;
#endif
}

/* When a file was last written, in seconds since some day. */
static bool os_modified(const char *path, double *seconds) {
#ifdef _WIN32
    WIN32_FILE_ATTRIBUTE_DATA data;
    wchar_t *wide = os_wide(path);
    bool found = wide && GetFileAttributesExW(wide, GetFileExInfoStandard, &data);
    free(wide);
    *seconds = found ? data.ftLastWriteTime.dwHighDateTime * 429.4967296 + data.ftLastWriteTime.dwLowDateTime * 1e-7 : 0;
    return found;
#else
    struct stat status;
    if (stat(path, &status)) return false;
    *seconds = (double)status.st_mtime;
    return true;
#endif
}

#if !defined(YOLO_NO_MAIN) || defined(YOLO_TESTING) /* what only a command line program needs */
static bool os_is_terminal(FILE *stream) {
#ifdef _WIN32
    return _isatty(_fileno(stream)) != 0;
#else
    return isatty(fileno(stream)) != 0;
#endif
}

/* Columns of the terminal behind `stream`, or 80. */
static int os_terminal_columns(FILE *stream) {
#ifdef _WIN32
    CONSOLE_SCREEN_BUFFER_INFO info;
    HANDLE handle = (HANDLE)_get_osfhandle(_fileno(stream));
    return GetConsoleScreenBufferInfo(handle, &info) ? info.srWindow.Right - info.srWindow.Left + 1 : 80;
#else
    struct winsize size;
    return !ioctl(fileno(stream), TIOCGWINSZ, &size) && size.ws_col > 0 ? size.ws_col : 80;
#endif
}

/* Console settings of a command line program: UTF-8 on Windows for as long as it runs. */
static unsigned os_console_begin(void) {
#ifdef _WIN32
    unsigned before = GetConsoleOutputCP();
    SetConsoleOutputCP(CP_UTF8);
    return before;
#else
    return 0;
#endif
}
static void os_console_end(unsigned before) {
#ifdef _WIN32
    if (before) SetConsoleOutputCP(before);
#else
    (void)before;
#endif
}

/* Does the console window vanish with this process (started by a double-click)? */
static bool os_console_is_own(void) {
#ifdef _WIN32
    DWORD processes[2];
    return GetConsoleProcessList(processes, 2) == 1;
#else
    return false;
#endif
}

/* The arguments as UTF-8: what main got, but on Windows from the wide command line. NULL for want of memory; where
   it differs from argv it is one block, alive until the process ends. */
static char **os_arguments(int *argc, char **argv) {
#ifdef _WIN32
    int count = 0, units = 0;
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &count);
    (void)argv;
    if (!wide) return NULL;
    for (int i = 0; i < count; i++) units += WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
    char **narrow = malloc(sizeof *narrow * ((size_t)count + 1) + (size_t)units);
    char *text = narrow ? (char *)(narrow + count + 1) : NULL;
    for (int i = 0; narrow && i < count; i++) {
        narrow[i] = text;
        text += WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, text, units, NULL, NULL);
    }
    if (narrow) narrow[count] = NULL;
    LocalFree(wide);
    *argc = count;
    return narrow;
#else
    (void)argc;
    return argv;
#endif
}

/* Has `handler` (async-signal-safe) called on the first Ctrl-C or request to end; the second one ends the process. */
static void os_on_interrupt(void (*handler)(int number)) {
#ifdef _WIN32
    signal(SIGINT, handler); /* the C library resets both to their default on delivery */
    signal(SIGBREAK, handler);
#else
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = (int)(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
#endif
}

/* Writes to standard error; async-signal-safe. */
static void os_note(const char *text) {
#ifdef _WIN32
    _write(2, text, (unsigned)strlen(text));
#else
    if (write(2, text, strlen(text)) < 0) return;
#endif
}

#endif

/* Shared libraries, for what is used only where it is installed (NCCL, the CUDA driver). */
static void *os_library_open(const char *name) {
#ifdef _WIN32
    wchar_t *wide = os_wide(name);
    void *library = wide ? (void *)LoadLibraryW(wide) : NULL;
    free(wide);
    return library;
#else
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
#endif
}

static void *os_library_symbol(void *library, const char *name) {
#ifdef _WIN32
    return (void *)(uintptr_t)GetProcAddress((HMODULE)library, name);
#else
    return dlsym(library, name);
#endif
}

static void os_library_close(void *library) {
#ifdef _WIN32
    FreeLibrary((HMODULE)library);
#else
    dlclose(library);
#endif
}

/* Threads, locks, conditions, atomics: the intersection of POSIX and Win32. */
#ifdef _WIN32
typedef HANDLE os_thread;
typedef SRWLOCK os_mutex;
typedef CONDITION_VARIABLE os_condition;
#define OS_THREAD_RESULT unsigned
#define OS_THREAD_CALL __stdcall
static bool os_thread_start(os_thread *thread, OS_THREAD_RESULT(OS_THREAD_CALL *entry)(void *), void *context) {
    *thread = (HANDLE)_beginthreadex(NULL, 0, entry, context, 0, NULL);
    return *thread != NULL;
}
static void os_thread_join(os_thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
static void os_mutex_init(os_mutex *mutex) { InitializeSRWLock(mutex); }
static void os_mutex_destroy(os_mutex *mutex) { (void)mutex; }
static void os_mutex_lock(os_mutex *mutex) { AcquireSRWLockExclusive(mutex); }
static void os_mutex_unlock(os_mutex *mutex) { ReleaseSRWLockExclusive(mutex); }
static void os_condition_init(os_condition *condition) { InitializeConditionVariable(condition); }
static void os_condition_destroy(os_condition *condition) { (void)condition; }
static void os_condition_wait(os_condition *condition, os_mutex *mutex) {
    SleepConditionVariableSRW(condition, mutex, INFINITE, 0);
}
static void os_condition_wake_all(os_condition *condition) { WakeAllConditionVariable(condition); }
#else
typedef pthread_t os_thread;
typedef pthread_mutex_t os_mutex;
typedef pthread_cond_t os_condition;
#define OS_THREAD_RESULT void *
#define OS_THREAD_CALL
static bool os_thread_start(os_thread *thread, OS_THREAD_RESULT (*entry)(void *), void *context) {
    return pthread_create(thread, NULL, entry, context) == 0;
}
static void os_thread_join(os_thread thread) { pthread_join(thread, NULL); }
static void os_mutex_init(os_mutex *mutex) { pthread_mutex_init(mutex, NULL); }
static void os_mutex_destroy(os_mutex *mutex) { pthread_mutex_destroy(mutex); }
static void os_mutex_lock(os_mutex *mutex) { pthread_mutex_lock(mutex); }
static void os_mutex_unlock(os_mutex *mutex) { pthread_mutex_unlock(mutex); }
static void os_condition_init(os_condition *condition) { pthread_cond_init(condition, NULL); }
static void os_condition_destroy(os_condition *condition) { pthread_cond_destroy(condition); }
static void os_condition_wait(os_condition *condition, os_mutex *mutex) { pthread_cond_wait(condition, mutex); }
static void os_condition_wake_all(os_condition *condition) { pthread_cond_broadcast(condition); }
#endif

/* Atomic 32-bit counter, sequentially consistent. */
typedef struct os_atomic { volatile long value; } os_atomic;
#ifdef _MSC_VER
static long os_atomic_add(os_atomic *a, long amount) { return InterlockedExchangeAdd(&a->value, amount); } /* old value */
static long os_atomic_get(os_atomic *a) { return InterlockedCompareExchange(&a->value, 0, 0); }
static void os_atomic_set(os_atomic *a, long value) { InterlockedExchange(&a->value, value); }
#else
static long os_atomic_add(os_atomic *a, long amount) { return __atomic_fetch_add(&a->value, amount, __ATOMIC_SEQ_CST); }
static long os_atomic_get(os_atomic *a) { return __atomic_load_n(&a->value, __ATOMIC_SEQ_CST); }
static void os_atomic_set(os_atomic *a, long value) { __atomic_store_n(&a->value, value, __ATOMIC_SEQ_CST); }
#endif

/* Tells the core that this is a spin loop. */
static void os_spin_pause(void) {
#ifdef YOLO_X86
    _mm_pause();
#endif
}

/* ==== 2 err_ log_: errors, assertions, log and progress =========================================================
   Three tiers. Bad data, I/O and memory: a yolo_status with a sentence in the caller's yolo_error. A broken
   invariant: YOLO_ASSERT aborts, in release builds too. Exit statuses are the command line's business alone.
   The interrupt flag is the one piece of process-wide state of this section. */

#define YOLO_ASSERT(condition) \
    ((condition) ? (void)0 : (fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition), abort()))

static volatile sig_atomic_t err_interrupted;

void yolo_interrupt(void) { err_interrupted = 1; }
void yolo_interrupt_clear(void) { err_interrupted = 0; }

/* Fills *error (NULL allowed) and returns `status`, so that a failing path is one statement. */
YOLO_PRINTF(3, 4)
static yolo_status err_set(yolo_error *error, yolo_status status, const char *format, ...) {
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

/* "PATH: VERB: reason of the operating system". Call it before anything else touches errno. */
static yolo_status err_os(yolo_error *error, const char *path, const char *verb) {
    char reason[256];
    os_reason(reason, sizeof reason);
    return err_set(error, YOLO_ERROR_IO, "%s: cannot %s: %s", path, verb, reason);
}

static yolo_status err_memory(yolo_error *error, uint64_t bytes) {
    return err_set(error, YOLO_ERROR_MEMORY, "out of memory: %.1f MiB wanted", (double)bytes / 1048576.0);
}

YOLO_PRINTF(3, 4)
static void log_write(const yolo_log *log, yolo_log_level level, const char *format, ...) {
    if (!log || !log->write) return;
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log->write(log->user, level, text);
}

/* "9 s", "1:05", "2:03:04". */
static const char *log_duration(double seconds, char *text, size_t size) {
    long s = seconds < 0 ? 0 : seconds > 3e6 ? 3000000 : (long)(seconds + 0.5);
    if (s < 60) snprintf(text, size, "%ld s", s);
    else if (s < 3600) snprintf(text, size, "%ld:%02ld", s / 60, s % 60);
    else snprintf(text, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    return text;
}

/* How far a run is, told as PROGRESS lines: ten times a second at most for people, and with the bar last, so that a
   narrow terminal cuts the bar and not the numbers; or "Progress:N%" for programs, each N once and rising. */
typedef struct log_meter {
    const yolo_log *log;
    yolo_progress kind;
    const char *what;  /* begins the bar: "label" */
    const char *plain; /* begins the plain line: "Progress" */
    int64_t total;     /* pictures */
    double start, shown;
    int percent;       /* last one told plainly */
} log_meter;

static log_meter log_meter_start(const yolo_log *log, yolo_progress kind, const char *what, const char *plain, int64_t total) {
    return (log_meter){.log = log, .kind = kind, .what = what, .plain = plain, .total = total, .start = os_clock(), .percent = -1};
}

static void log_meter_step(log_meter *meter, int64_t done) {
    enum { CELLS = 30 };
    static const char full[CELLS + 1] = "##############################", rest[CELLS + 1] = "..............................";
    if (meter->kind == YOLO_PROGRESS_NONE || !meter->total) return;
    int percent = (int)(done * 100 / meter->total);
    if (meter->kind == YOLO_PROGRESS_PLAIN) {
        if (percent > meter->percent) log_write(meter->log, YOLO_LOG_PROGRESS, "%s:%d%%", meter->plain, percent);
        meter->percent = YOLO_MAX(meter->percent, percent);
        return;
    }
    double now = os_clock(), elapsed = now - meter->start, rate = elapsed > 0 ? (double)done / elapsed : 0;
    if (done < meter->total && now - meter->shown < 0.1) return;
    meter->shown = now;
    char left[32];
    int cells = (int)(done * CELLS / meter->total);
    log_write(meter->log, YOLO_LOG_PROGRESS, "%s %lld/%lld %3d%% %5.1f img/s %7s left [%.*s%.*s]", meter->what, (long long)done,
              (long long)meter->total, percent, rate,
              rate > 0 ? log_duration((double)(meter->total - done) / rate, left, sizeof left) : "?", cells, full, CELLS - cells, rest);
}

/* ==== 3 mem_ arena_: memory =====================================================================================
   mem_ blocks are 64-byte aligned and freed with mem_free. Every size that comes from a file goes through
   mem_array, whose multiplication is checked. An arena is for many small things that die together. With
   YOLO_TESTING, mem_fail_after = n makes the n-th allocation from now fail (0 = never), for fault injection. */

#define MEM_CAP ((uint64_t)1 << 40)

#ifdef YOLO_TESTING
static os_atomic mem_fail_after;
#endif

/* NULL when it cannot be had. size 0 gives a valid block. */
static void *mem_alloc(size_t size) {
#ifdef YOLO_TESTING
    if (os_atomic_get(&mem_fail_after) > 0 && os_atomic_add(&mem_fail_after, -1) == 1) return NULL;
#endif
    if (size > MEM_CAP) return NULL;
    size = size ? (size + 63) & ~(size_t)63 : 64;
#ifdef _WIN32
    return _aligned_malloc(size, 64);
#else
    void *block = NULL;
    return posix_memalign(&block, 64, size) ? NULL : block;
#endif
}

static void mem_free(void *block) {
#ifdef _WIN32
    _aligned_free(block);
#else
    free(block);
#endif
}

/* count * size zeroed bytes, or NULL: also when the product overflows or exceeds the cap. */
static void *mem_array(uint64_t count, size_t size) {
    if (size && count > MEM_CAP / size) return NULL;
    void *block = mem_alloc((size_t)count * size);
    if (block) memset(block, 0, (size_t)count * size);
    return block;
}

/* Grows *block (capacity *capacity items) so that `wanted` items fit, doubling; false leaves all as it was. */
static bool mem_grow(void *block, int64_t *capacity, int64_t wanted, size_t size) {
    if (wanted <= *capacity) return true;
    int64_t larger = YOLO_MAX(wanted, YOLO_MAX(16, *capacity * 2));
    void *old, *grown = mem_array((uint64_t)larger, size);
    if (!grown) return false;
    memcpy(&old, block, sizeof old);
    if (old) memcpy(grown, old, (size_t)*capacity * size);
    mem_free(old);
    memcpy(block, &grown, sizeof grown);
    *capacity = larger;
    return true;
}

typedef struct arena_block arena_block;
struct arena_block { arena_block *next; size_t used, size; };
typedef struct arena { arena_block *blocks; uint64_t total, cap; } arena; /* {0} is ready to use; cap 0 = none */

/* Zeroed, 16-byte aligned; NULL when memory or the arena's cap is spent. */
static void *arena_alloc(arena *a, uint64_t size) {
    if (size > MEM_CAP) return NULL;
    size = (size + 15) & ~(uint64_t)15;
    if (a->cap && a->total + size > a->cap) return NULL;
    arena_block *block = a->blocks;
    if (!block || block->size - block->used < size) {
        size_t bytes = (size_t)YOLO_MAX(size, 65536 - 64);
        block = mem_alloc(64 + bytes);
        if (!block) return NULL;
        block->next = a->blocks;
        block->size = bytes;
        block->used = 0;
        a->blocks = block;
    }
    void *item = (char *)block + 64 + block->used;
    block->used += (size_t)size;
    a->total += size;
    memset(item, 0, (size_t)size);
    return item;
}

static void *arena_array(arena *a, uint64_t count, size_t size) {
    return size && count > MEM_CAP / size ? NULL : arena_alloc(a, count * size);
}

/* A NUL-terminated copy of length bytes. */
static char *arena_text(arena *a, const char *text, size_t length) {
    char *copy = arena_alloc(a, (uint64_t)length + 1);
    if (copy) memcpy(copy, text, length);
    return copy;
}

static void arena_free(arena *a) {
    for (arena_block *block = a->blocks, *next; block; block = next) {
        next = block->next;
        mem_free(block);
    }
    a->blocks = NULL;
    a->total = 0;
}

/* ==== 4 thr_: threads ===========================================================================================
   A pool runs one parallel loop at a time; the calling thread is worker 0 and takes part. Indices are claimed one
   by one, so which worker runs an index is not fixed: a body must write only what belongs to its index (or to its
   worker, as scratch), which makes every result independent of the thread count. Workers spin a moment before they
   sleep, because the loops of one forward pass follow one another within microseconds. A loop ends when its indices
   are done, not when every worker has been there: one that the system has not let run is not waited for. It counts
   itself into `inside` before it looks at `open`, and the caller closes before it waits for `inside` to be 0, so nobody
   reads the fields of a loop while they change. */

enum { THR_SPINS = 4000, THR_MAX = 256 };

typedef struct thr_pool {
    int size; /* workers, the caller included */
    os_thread threads[THR_MAX];
    os_mutex mutex;
    os_condition wake;
    os_atomic generation; /* raised once a loop */
    os_atomic next, open, inside, sleeping, closing;
    int count;
    void (*body)(void *context, int index, int worker);
    void *context;
    os_atomic started; /* hands each thread its worker number */
} thr_pool;

static void thr_claim(thr_pool *pool, int worker) {
    for (;;) {
        long index = os_atomic_add(&pool->next, 1);
        if (index >= pool->count) return;
        pool->body(pool->context, (int)index, worker);
    }
}

static OS_THREAD_RESULT OS_THREAD_CALL thr_main(void *argument) {
    thr_pool *pool = argument;
    int worker = (int)os_atomic_add(&pool->started, 1) + 1;
    long seen = 0;
    for (;;) {
        for (int spin = 0; spin < THR_SPINS && os_atomic_get(&pool->generation) == seen; spin++) os_spin_pause();
        if (os_atomic_get(&pool->generation) == seen) {
            os_mutex_lock(&pool->mutex);
            os_atomic_add(&pool->sleeping, 1);
            while (os_atomic_get(&pool->generation) == seen) os_condition_wait(&pool->wake, &pool->mutex);
            os_atomic_add(&pool->sleeping, -1);
            os_mutex_unlock(&pool->mutex);
        }
        seen = os_atomic_get(&pool->generation);
        if (os_atomic_get(&pool->closing)) return 0;
        os_atomic_add(&pool->inside, 1);
        if (os_atomic_get(&pool->open)) thr_claim(pool, worker);
        os_atomic_add(&pool->inside, -1);
    }
}

static int thr_pool_size(const thr_pool *pool) { return pool ? pool->size : 1; }

static void thr_wake(thr_pool *pool) {
    os_atomic_add(&pool->generation, 1);
    if (os_atomic_get(&pool->sleeping)) {
        os_mutex_lock(&pool->mutex); /* a worker between its last look and its wait holds this lock */
        os_condition_wake_all(&pool->wake);
        os_mutex_unlock(&pool->mutex);
    }
}

/* A pool of `size` workers; fewer when the system gives fewer threads, never NULL but for want of memory. */
static thr_pool *thr_pool_create(int size) {
    thr_pool *pool = mem_array(1, sizeof *pool);
    if (!pool) return NULL;
    os_mutex_init(&pool->mutex);
    os_condition_init(&pool->wake);
    pool->size = 1;
    size = YOLO_CLAMP(size, 1, THR_MAX);
    while (pool->size < size && os_thread_start(&pool->threads[pool->size], thr_main, pool)) pool->size++;
    return pool;
}

static void thr_pool_destroy(thr_pool *pool) {
    if (!pool) return;
    os_atomic_set(&pool->closing, 1);
    os_mutex_lock(&pool->mutex);
    os_atomic_add(&pool->generation, 1);
    os_condition_wake_all(&pool->wake);
    os_mutex_unlock(&pool->mutex);
    for (int i = 1; i < pool->size; i++) os_thread_join(pool->threads[i]);
    os_condition_destroy(&pool->wake);
    os_mutex_destroy(&pool->mutex);
    mem_free(pool);
}

/* Runs body(context, index, worker) for every index in [0, count) and returns when all are done. worker is in
   [0, thr_pool_size(pool)). pool NULL, or one index: all in this thread as worker 0. Not re-entrant. */
static void thr_parallel_for(thr_pool *pool, int count, void (*body)(void *context, int index, int worker), void *context) {
    if (!pool || pool->size == 1 || count <= 1) {
        for (int i = 0; i < count; i++) body(context, i, 0);
        return;
    }
    pool->count = count;
    pool->body = body;
    pool->context = context;
    os_atomic_set(&pool->next, 0);
    os_atomic_set(&pool->open, 1);
    thr_wake(pool);
    thr_claim(pool, 0);
    os_atomic_set(&pool->open, 0);
    for (int spin = 0; os_atomic_get(&pool->inside); spin++) {
        os_spin_pause();
        if (spin > THR_SPINS) { /* more threads than cores: let the others run */
#ifdef _WIN32
            SwitchToThread();
#else
            sched_yield();
#endif
        }
    }
}

/* ==== 5 str_ path_ hash_ rng_ f16_ cur_ val_: base ===============================================================
   Strings are UTF-8. A str grows and never overflows; its error is sticky (failed), checked once at the end. A cur
   reads untrusted bytes: after the first failure every read gives zero and the position of the failure is kept, so
   a parser checks once per record. A val is a tree of plain data (yaml, json, pickles) living in one arena. */

typedef struct str { char *text; int64_t length, capacity; bool failed; } str; /* {0} is the empty string */

static void str_append(str *s, const char *text, size_t length) {
    if (s->failed || !mem_grow(&s->text, &s->capacity, s->length + (int64_t)length + 1, 1)) { s->failed = true; return; }
    if (length) memcpy(s->text + s->length, text, length);
    s->length += (int64_t)length;
    s->text[s->length] = 0;
}

static void str_add(str *s, const char *text) { str_append(s, text, strlen(text)); }

YOLO_PRINTF(2, 3)
static void str_format(str *s, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || s->failed || !mem_grow(&s->text, &s->capacity, s->length + length + 1, 1)) s->failed = true;
    else s->length += vsnprintf(s->text + s->length, (size_t)length + 1, format, again);
    va_end(again);
}

static void str_free(str *s) {
    mem_free(s->text);
    memset(s, 0, sizeof *s);
}

static char *str_copy(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = mem_alloc(size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

/* ASCII case folded: file extensions and option values, never file names. */
static bool str_equal_fold(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (tolower((unsigned char)*a) != tolower((unsigned char)*b)) return false;
    return *a == *b;
}

static bool str_ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

/* Is it well-formed UTF-8 (no overlong forms, no surrogates)? */
static bool str_is_utf8(const char *text, size_t length) {
    const unsigned char *p = (const unsigned char *)text, *end = p + length;
    while (p < end) {
        int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : *p >= 0xf0 && *p < 0xf5 ? 3 : -1;
        if (more < 0 || end - p <= more) return false;
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
            (*p == 0xf4 && p[1] > 0x8f)) return false;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += more + 1;
    }
    return true;
}

/* The C library reads and writes numbers as the process' locale has them; these two always use a point. */
static char str_decimal_point(void) {
    char text[8];
    snprintf(text, sizeof text, "%.1f", 0.5);
    return text[1];
}

/* A decimal number that fills `text` exactly (digits, at most one point, exponent; no inf, nan, hex, blanks).
   Correctly rounded. */
static bool str_to_number(const char *text, size_t length, double *number) {
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *p = text, *end = text + length;
    bool negative = p < end && *p == '-', any = false, point = false, exact = true;
    uint64_t mantissa = 0;
    int exponent = 0, written = 0;
    if (p < end && (*p == '-' || *p == '+')) p++;
    for (; p < end && ((*p >= '0' && *p <= '9') || (*p == '.' && !point)); p++) {
        if (*p == '.') { point = true; continue; }
        any = true;
        if (mantissa > ((uint64_t)1 << 53) / 10 - 1) exact = false;
        else {
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
            exponent -= point;
        }
    }
    if (!any) return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        bool minus = ++p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        if (p == end) return false;
        for (; p < end && *p >= '0' && *p <= '9'; p++) written = YOLO_MIN(written * 10 + (*p - '0'), 100000);
        exponent += minus ? -written : written;
    }
    if (p != end) return false;
    if (exact && exponent >= -22 && exponent <= 22) { /* both exact, so one rounding (Clinger 1990) */
        double value = exponent < 0 ? (double)mantissa / powers[-exponent] : (double)mantissa * powers[exponent];
        *number = negative ? -value : value;
        return true;
    }
    char copy[400];
    if (length >= sizeof copy) return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    char *dot = memchr(copy, '.', length);
    if (dot) *dot = str_decimal_point();
    *number = strtod(copy, NULL);
    return true;
}

/* At most `digits` significant digits of a finite number, as %g writes them, in the C locale. */
static void str_from_number(char text[40], double number, int digits) {
    snprintf(text, 40, "%.*g", YOLO_CLAMP(digits, 1, 17), number);
    char point = str_decimal_point(), *dot = strchr(text, point);
    if (point != '.' && dot) *dot = '.';
}

/* A number with so many decimals, whatever the locale. */
static void str_decimals(str *s, double number, int decimals) {
    char text[400];
    int length = snprintf(text, sizeof text, "%.*f", decimals, number);
    char *dot = strchr(text, str_decimal_point());
    if (dot) *dot = '.';
    str_append(s, text, (size_t)length);
}

/* A JSON string with its quotes. */
static void str_json(str *s, const char *text, size_t length) {
    str_add(s, "\"");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') str_format(s, "\\%c", c);
        else if (c < 32) str_format(s, "\\u%04x", c);
        else str_append(s, text + i, 1);
    }
    str_add(s, "\"");
}

static bool path_is_separator(char c) {
#ifdef _WIN32
    return c == '/' || c == '\\';
#else
    return c == '/';
#endif
}

static bool path_is_absolute(const char *path) {
#ifdef _WIN32
    if (isalpha((unsigned char)path[0]) && path[1] == ':') return true;
#endif
    return path_is_separator(path[0]);
}

/* The part after the last separator. */
static const char *path_name(const char *path) {
    const char *name = path;
    for (const char *p = path; *p; p++)
        if (path_is_separator(*p)) name = p + 1;
    return name;
}

/* The extension with its dot, or "" (a leading dot of the name does not count). */
static const char *path_extension(const char *path) {
    const char *name = path_name(path), *dot = strrchr(name, '.');
    return dot && dot != name ? dot : name + strlen(name);
}

/* directory + "/" + name; name alone when it is absolute or the directory is "". NULL for want of memory. mem_free. */
static char *path_join(const char *directory, const char *name) {
    size_t length = strlen(directory);
    if (!length || path_is_absolute(name)) return str_copy(name);
    bool separator = !path_is_separator(directory[length - 1]);
    size_t size = length + separator + strlen(name) + 1;
    char *path = mem_alloc(size);
    if (path) snprintf(path, size, "%s%s%s", directory, separator ? "/" : "", name);
    return path;
}

/* The path without its last name ("." for a bare name, "/" for the root). mem_free. */
static char *path_parent(const char *path) {
    size_t length = (size_t)(path_name(path) - path);
    while (length > 1 && path_is_separator(path[length - 1])) length--;
    char *parent = mem_alloc(length + 2);
    if (!parent) return NULL;
    memcpy(parent, length ? path : ".", length ? length : 1);
    parent[length ? length : 1] = 0;
    return parent;
}

/* The path with its extension replaced (".txt" for labels). mem_free. */
static char *path_with_extension(const char *path, const char *extension) {
    size_t stem = (size_t)(path_extension(path) - path), size = stem + strlen(extension) + 1;
    char *other = mem_alloc(size);
    if (other) snprintf(other, size, "%.*s%s", (int)stem, path, extension);
    return other;
}

/* Makes a folder and its missing parents. */
static yolo_status path_make_directories(const char *path, yolo_error *error) {
    char *copy = str_copy(path);
    if (!copy) return err_memory(error, strlen(path));
    yolo_status status = YOLO_OK;
    for (char *p = copy + 1; copy[0] && status == YOLO_OK; p++) {
        if (*p && !path_is_separator(*p)) continue;
        bool last = !*p;
        char separator = *p;
        *p = 0;
        if (os_path_kind(copy) != OS_DIRECTORY && !path_is_separator(p[-1]) && p[-1] != ':' && !os_make_directory(copy))
            status = err_os(error, copy, "make folder");
        *p = separator;
        if (last) break;
    }
    mem_free(copy);
    return status;
}

/* The whole file, with a NUL behind it; at most `cap` bytes. mem_free(*bytes). */
static yolo_status path_read(const char *path, uint64_t cap, uint8_t **bytes, size_t *size, yolo_error *error) {
    *bytes = NULL;
    *size = 0;
    if (os_path_kind(path) == OS_DIRECTORY) return err_set(error, YOLO_ERROR_IO, "%s: is a folder, expected a file", path);
    FILE *file = os_open(path, "rb");
    if (!file) return err_os(error, path, "open");
    yolo_status status = YOLO_OK;
    int64_t length = os_file_size(file);
    if (length < 0 || fseek(file, 0, SEEK_SET)) status = err_os(error, path, "read");
    else if ((uint64_t)length > cap)
        status = err_set(error, YOLO_ERROR_FORMAT, "%s: %.1f MiB, expected at most %.1f MiB", path,
                         (double)length / 1048576.0, (double)cap / 1048576.0);
    else if (!(*bytes = mem_alloc((size_t)length + 1))) status = err_memory(error, (uint64_t)length);
    else {
        *size = fread(*bytes, 1, (size_t)length, file);
        if (ferror(file)) status = err_os(error, path, "read");
        (*bytes)[*size] = 0;
    }
    fclose(file);
    if (status != YOLO_OK) {
        mem_free(*bytes);
        *bytes = NULL;
    }
    return status;
}

/* Starts an output beside its final place: *temporary (mem_free) is the name to give path_commit. The name is the
   same for the same path, so a killed run leaves at most one such file and the next run overwrites it. */
static yolo_status path_begin(const char *path, char **temporary, FILE **file, yolo_error *error) {
    size_t size = strlen(path) + 16;
    *file = NULL;
    *temporary = mem_alloc(size);
    if (!*temporary) return err_memory(error, size);
    snprintf(*temporary, size, "%s.partial", path);
    *file = os_open(*temporary, "wb");
    if (*file) return YOLO_OK;
    err_os(error, *temporary, "create");
    mem_free(*temporary);
    *temporary = NULL;
    return YOLO_ERROR_IO;
}

/* Ends what path_begin began. With `good`, flushes and renames; otherwise removes. Frees `temporary`. */
static yolo_status path_commit(const char *path, char *temporary, FILE *file, bool good, bool durable, yolo_error *error) {
    yolo_status status = YOLO_OK;
    if (good && (ferror(file) || (durable ? !os_flush(file) : fflush(file) != 0))) status = err_os(error, path, "write");
    if (fclose(file) && good && status == YOLO_OK) status = err_os(error, path, "write");
    if (good && status == YOLO_OK && !os_rename(temporary, path)) status = err_os(error, path, "rename into place");
    if (!good || status != YOLO_OK) os_remove(temporary);
    mem_free(temporary);
    return status;
}

/* Writes a whole file atomically. `durable` waits for the disk: for what took long to make, not for each label. */
static yolo_status path_write(const char *path, const void *bytes, size_t size, bool durable, yolo_error *error) {
    char *temporary;
    FILE *file;
    yolo_status status = path_begin(path, &temporary, &file, error);
    if (status != YOLO_OK) return status;
    bool good = fwrite(bytes, 1, size, file) == size;
    if (!good) err_os(error, path, "write");
    status = path_commit(path, temporary, file, good, durable, error);
    return good ? status : YOLO_ERROR_IO;
}

/* project/name, or name2, name3, ... where that exists and not `exist_ok`. *path: mem_free. */
static yolo_status path_run_folder(const char *project, const char *name, bool exist_ok, char **path, yolo_error *error) {
    enum { MOST = 100000 };
    str tried = {0};
    char *first = path_join(project, name);
    *path = NULL;
    if (!first) return err_memory(error, 4096);
    str_add(&tried, first);
    for (int n = 2; !exist_ok && !tried.failed && n < MOST && os_path_kind(tried.text) != OS_NOTHING; n++) {
        tried.length = 0;
        str_format(&tried, "%s%d", first, n);
    }
    mem_free(first);
    if (!tried.failed) {
        *path = tried.text;
        return YOLO_OK;
    }
    str_free(&tried);
    return err_memory(error, 4096);
}

/* FNV-1a with a final avalanche (MurmurHash3's finaliser), so that low bits are usable. */
static uint64_t hash_bytes(const void *bytes, size_t size, uint64_t seed) {
    const uint8_t *p = bytes;
    uint64_t h = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
    for (size_t i = 0; i < size; i++) h = (h ^ p[i]) * 0x100000001b3u;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
}

/* Counter-based random numbers (SplitMix64, Steele et al. 2014): the n-th draw is a function of key and n alone. */
typedef struct rng { uint64_t key, counter; } rng;

static uint64_t rng_next(rng *r) {
    uint64_t z = r->key + ++r->counter * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1). */
static double rng_uniform(rng *r) { return (double)(rng_next(r) >> 11) * (1.0 / 9007199254740992.0); }

/* IEEE half and bfloat16 <-> float; to_ rounds to nearest even. */
static float f16_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 1023, bits;
    if (exponent == 31) bits = sign | 0x7f800000u | mantissa << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else {
        float value = (float)mantissa * (1.0f / 16777216.0f);
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t f16_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff)); /* NaN stays NaN */
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* subnormal half: adding 0.5 lets the float unit round at the right bit */
        float absolute;
        memcpy(&absolute, &magnitude, 4);
        absolute += 0.5f;
        memcpy(&magnitude, &absolute, 4);
        return (uint16_t)(sign | (magnitude - 0x3f000000));
    }
    return (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13));
}

static float f16_from_bfloat(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

static uint16_t f16_to_bfloat(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A reader of untrusted bytes. */
typedef struct cur { const uint8_t *bytes; size_t size, at; bool failed; size_t failed_at; } cur;

static cur cur_make(const void *bytes, size_t size) { return (cur){.bytes = bytes, .size = size}; }

/* The next `count` bytes, or NULL (and the cursor has failed) where fewer are left. */
static const uint8_t *cur_take(cur *c, uint64_t count) {
    if (c->failed || count > c->size - c->at) {
        if (!c->failed) c->failed_at = c->at;
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->bytes + c->at;
    c->at += (size_t)count;
    return p;
}

static bool cur_seek(cur *c, uint64_t at) {
    if (!c->failed && at > c->size) {
        c->failed = true;
        c->failed_at = c->at;
    }
    if (!c->failed) c->at = (size_t)at;
    return !c->failed;
}

/* Little-endian unsigned integer of `count` <= 8 bytes. */
static uint64_t cur_le(cur *c, int count) {
    const uint8_t *p = cur_take(c, (uint64_t)count);
    uint64_t value = 0;
    for (int i = 0; p && i < count; i++) value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static uint64_t cur_be(cur *c, int count) {
    const uint8_t *p = cur_take(c, (uint64_t)count);
    uint64_t value = 0;
    for (int i = 0; p && i < count; i++) value = value << 8 | p[i];
    return value;
}

/* Plain data: what yaml, json and the data parts of a pickle have in common. */
typedef enum val_kind { VAL_NULL, VAL_BOOL, VAL_INT, VAL_FLOAT, VAL_STRING, VAL_LIST, VAL_MAP } val_kind;
typedef struct val val;
struct val {
    val_kind kind;
    int64_t integer;   /* INT; BOOL as 0 or 1 */
    double number;     /* FLOAT */
    const char *text;  /* STRING, NUL-terminated (may hold NULs: see length) */
    size_t length;
    int64_t count, capacity; /* LIST, MAP */
    val **items;       /* LIST items; MAP values */
    val **keys;        /* MAP keys, in order of insertion */
    int line;          /* where the text had it, for messages; 0 = nowhere */
};

static val *val_new(arena *a, val_kind kind) {
    val *v = arena_alloc(a, sizeof *v);
    if (v) v->kind = kind;
    return v;
}
static val *val_int(arena *a, int64_t integer) {
    val *v = val_new(a, VAL_INT);
    if (v) v->integer = integer;
    return v;
}
static val *val_bool(arena *a, bool truth) {
    val *v = val_new(a, VAL_BOOL);
    if (v) v->integer = truth;
    return v;
}
static val *val_float(arena *a, double number) {
    val *v = val_new(a, VAL_FLOAT);
    if (v) v->number = number;
    return v;
}
static val *val_string(arena *a, const char *text, size_t length) {
    val *v = val_new(a, VAL_STRING);
    if (!v || !(v->text = arena_text(a, text, length))) return NULL;
    v->length = length;
    return v;
}

/* Appends to a list (key NULL) or a map. False for want of memory, also when key or item is NULL where one is due:
   so constructors nest without a check each. */
static bool val_add(arena *a, val *container, val *key, val *item) {
    if (!container || !item || (container->kind == VAL_MAP && !key)) return false;
    if (container->count == container->capacity) {
        int64_t capacity = YOLO_MAX(8, container->capacity * 2);
        val **items = arena_array(a, (uint64_t)capacity, sizeof *items);
        val **keys = container->kind == VAL_MAP ? arena_array(a, (uint64_t)capacity, sizeof *keys) : NULL;
        if (!items || (container->kind == VAL_MAP && !keys)) return false;
        if (container->count) memcpy(items, container->items, (size_t)container->count * sizeof *items);
        if (container->count && keys) memcpy(keys, container->keys, (size_t)container->count * sizeof *keys);
        container->items = items;
        container->keys = keys;
        container->capacity = capacity;
    }
    if (container->keys) container->keys[container->count] = key;
    container->items[container->count++] = item;
    return true;
}

/* The value of a string key, or NULL: also when `map` is NULL or no map, so look-ups chain. The last one counts. */
static val *val_get(const val *map, const char *key) {
    if (!map || map->kind != VAL_MAP) return NULL;
    for (int64_t i = map->count - 1; i >= 0; i--)
        if (map->keys[i]->kind == VAL_STRING && !strcmp(map->keys[i]->text, key)) return map->items[i];
    return NULL;
}

static bool val_is_number(const val *v) { return v && (v->kind == VAL_INT || v->kind == VAL_FLOAT || v->kind == VAL_BOOL); }
static double val_number(const val *v, double otherwise) {
    return !val_is_number(v) ? otherwise : v->kind == VAL_FLOAT ? v->number : (double)v->integer;
}
static int64_t val_integer(const val *v, int64_t otherwise) {
    if (!val_is_number(v)) return otherwise;
    if (v->kind != VAL_FLOAT) return v->integer;
    return v->number > -9.2e18 && v->number < 9.2e18 ? (int64_t)v->number : otherwise;
}
static const char *val_text(const val *v, const char *otherwise) {
    return v && v->kind == VAL_STRING ? v->text : otherwise;
}

/* ==== 6 ten_: tensors ===========================================================================================
   A ten is a view of floats the holder does not own, always NHWC: element (n,y,x,c) lies at
   data[((n*h + y)*w + x)*pixel + c]. A slice of a concatenation is a view with pixel > c, so concat, split and
   chunk never copy. */

typedef struct ten { float *data; int n, h, w, c; int64_t pixel; } ten;

static float *ten_at(const ten *t, int n, int y, int x) {
    return t->data + (((int64_t)n * t->h + y) * t->w + x) * t->pixel;
}

/* What a checkpoint stores an element as. */
typedef enum ten_dtype { TEN_F32, TEN_F16, TEN_BF16, TEN_F64, TEN_I64, TEN_I32, TEN_I16, TEN_I8, TEN_U8, TEN_BOOL } ten_dtype;

static int ten_dtype_size(ten_dtype dtype) {
    static const int sizes[] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1};
    return sizes[dtype];
}
static const char *ten_dtype_name(ten_dtype dtype) {
    static const char *const names[] = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"};
    return names[dtype];
}

/* ==== 7 img_: image core ========================================================================================
   8-bit RGB in, 8-bit RGB or NHWC floats out. Resizing is bilinear with the sampling rule and the 11-bit fixed-point
   weights of OpenCV's INTER_LINEAR, bit for bit, because ultralytics' numbers depend on them. Nothing here
   allocates or fails: resizing works in tiles of columns whose tables fit on the stack, so any number of threads may
   resize at once. Drawing clips at the picture's edges and takes any coordinates. Text is drawn by strokes: ASCII,
   Latin-1 and Hangul, whose syllables are composed; it may be any bytes up to a NUL, and what is no UTF-8 or not in the
   font is an empty frame. A class whose name has such a character is called by its number. */

/* How a picture was placed in the network's input: x_network = x_picture * scale + pad. */
typedef struct img_letterbox {
    int width, height;               /* of the network's input */
    int scaled_width, scaled_height; /* of the picture in it */
    int pad_left, pad_top;
    double scale;
} img_letterbox;

enum { IMG_TILE = 256 }; /* output columns resized together */

/* Where an output position samples its axis: between positions at and at + 1, with weights that add up to 2048. */
typedef struct img_tap { int at; int16_t low, high; } img_tap;

static img_tap img_tap_make(int position, int out, int in) {
    double scale = 1.0 / ((double)out / in);
    float at = (float)((position + 0.5) * scale - 0.5);
    int low = (int)floorf(at);
    float part = at - (float)low;
    return (img_tap){low, (int16_t)lrintf((1.0f - part) * 2048.0f), (int16_t)lrintf(part * 2048.0f)};
}

/* Columns [first, first + count) of a resized picture, made a row at a time. */
typedef struct img_tile {
    const yolo_image *in;
    int width, height; /* of the whole output */
    int first, count;
    img_tap taps[IMG_TILE];           /* `at` counts bytes of a row here, clamped to the row */
    int16_t sums[2][IMG_TILE * 3 + 8]; /* input rows weighted along x, divided by 16 */
    int held[2];                      /* which input rows those are; -1 = none */
} img_tile;

static void img_tile_start(img_tile *tile, const yolo_image *in, int width, int height, int first) {
    tile->in = in;
    tile->width = width;
    tile->height = height;
    tile->first = first;
    tile->count = YOLO_MIN(IMG_TILE, width - first);
    tile->held[0] = tile->held[1] = -1;
    for (int i = 0; i < tile->count; i++) {
        img_tap tap = img_tap_make(first + i, width, in->width);
        if (tap.at < 0) tap = (img_tap){0, 2048, 0};
        if (tap.at >= in->width - 1) tap = (img_tap){YOLO_MAX(in->width - 2, 0), 0, 2048};
        tap.at *= 3;
        tile->taps[i] = tap;
    }
}

/* Weights one input row along x. The last output columns, whose 8-byte load would leave the row, go one by one. */
static void img_tile_sum(const img_tile *tile, int row, int16_t *sums) {
    const uint8_t *pixels = tile->in->pixels + (size_t)row * tile->in->width * 3;
    int next = tile->in->width > 1 ? 3 : 0, i = 0;
#ifdef YOLO_X86
    const __m128i zero = _mm_setzero_si128();
    for (; i < tile->count && tile->taps[i].at + 8 <= tile->in->width * 3; i++) {
        __m128i left = _mm_loadl_epi64((const __m128i *)(const void *)(pixels + tile->taps[i].at));
        __m128i pairs = _mm_unpacklo_epi8(left, _mm_srli_si128(left, 3)); /* r r' g g' b b' */
        int weights = (int)((uint32_t)(uint16_t)tile->taps[i].low | (uint32_t)tile->taps[i].high << 16);
        __m128i sum = _mm_srai_epi32(_mm_madd_epi16(_mm_unpacklo_epi8(pairs, zero), _mm_set1_epi32(weights)), 4);
        _mm_storel_epi64((__m128i *)(void *)(sums + 3 * i), _mm_packs_epi32(sum, sum)); /* the fourth is overwritten */
    }
#endif
    for (; i < tile->count; i++) {
        const uint8_t *p = pixels + tile->taps[i].at;
        int low = tile->taps[i].low, high = tile->taps[i].high;
        for (int c = 0; c < 3; c++) sums[3 * i + c] = (int16_t)((p[c] * low + p[next + c] * high) >> 4);
    }
}

/* The input row weighted along x, from the two kept when it is there. `keep` is a row not to be thrown out. */
static const int16_t *img_tile_row_sums(img_tile *tile, int row, int keep) {
    for (int i = 0; i < 2; i++)
        if (tile->held[i] == row) return tile->sums[i];
    int slot = tile->held[0] == keep;
    tile->held[slot] = row;
    img_tile_sum(tile, row, tile->sums[slot]);
    return tile->sums[slot];
}

/* Exactly half the size in both directions: OpenCV takes the mean of four, which bilinear weights would round
   differently. */
static void img_tile_halve(const img_tile *tile, int y, uint8_t *out) {
    size_t stride = (size_t)tile->in->width * 3;
    const uint8_t *p = tile->in->pixels + (size_t)y * 2 * stride + (size_t)tile->first * 6, *q = p + stride;
    for (int i = 0; i < tile->count; i++, p += 6, q += 6)
        for (int c = 0; c < 3; c++) out[3 * i + c] = (uint8_t)((p[c] + p[c + 3] + q[c] + q[c + 3] + 2) >> 2);
}

/* Row y of the tile: tile->count * 3 bytes. */
static void img_tile_row(img_tile *tile, int y, uint8_t *restrict out) {
    const yolo_image *in = tile->in;
    if (in->width == tile->width && in->height == tile->height) {
        memcpy(out, in->pixels + ((size_t)y * in->width + tile->first) * 3, (size_t)tile->count * 3);
        return;
    }
    if (in->width == tile->width * 2 && in->height == tile->height * 2) {
        img_tile_halve(tile, y, out);
        return;
    }
    img_tap tap = img_tap_make(y, tile->height, in->height);
    int top = YOLO_CLAMP(tap.at, 0, in->height - 1), bottom = YOLO_CLAMP(tap.at + 1, 0, in->height - 1);
    const int16_t *restrict upper = img_tile_row_sums(tile, top, bottom);
    const int16_t *restrict lower = img_tile_row_sums(tile, bottom, top);
    int low = tap.low, high = tap.high, count = tile->count * 3;
    for (int i = 0; i < count; i++)
        out[i] = (uint8_t)((((upper[i] * low) >> 16) + ((lower[i] * high) >> 16) + 2) >> 2);
}

/* The size at which ultralytics' data sets load a picture: longer side = imgsz. REF ultralytics/data/base.py load_image */
static void img_load_size(int width, int height, int imgsz, int *out_width, int *out_height) {
    double ratio = (double)imgsz / YOLO_MAX(width, height);
    bool same = imgsz == YOLO_MAX(width, height);
    *out_width = same ? width : (int)YOLO_MIN(ceil(width * ratio), imgsz);
    *out_height = same ? height : (int)YOLO_MIN(ceil(height * ratio), imgsz);
}

/* REF ultralytics/data/augment.py LetterBox. Python's round() is rint(): half to even. */
static img_letterbox img_letterbox_make(int width, int height, int out_width, int out_height, bool scale_up, int stride) {
    img_letterbox plan = {0};
    plan.scale = YOLO_MIN((double)out_height / height, (double)out_width / width);
    if (!scale_up) plan.scale = YOLO_MIN(plan.scale, 1.0);
    plan.scaled_width = (int)YOLO_MAX(rint(width * plan.scale), 1);
    plan.scaled_height = (int)YOLO_MAX(rint(height * plan.scale), 1);
    int spare_x = out_width - plan.scaled_width, spare_y = out_height - plan.scaled_height;
    if (stride) {
        spare_x %= stride;
        spare_y %= stride;
    }
    plan.pad_left = (int)rint(spare_x / 2.0 - 0.1);
    plan.pad_top = (int)rint(spare_y / 2.0 - 0.1);
    plan.width = plan.scaled_width + plan.pad_left + (int)rint(spare_x / 2.0 + 0.1);
    plan.height = plan.scaled_height + plan.pad_top + (int)rint(spare_y / 2.0 + 0.1);
    return plan;
}

/* The general rule: scaled to fit into out_width x out_height, centred. */
static img_letterbox img_letterbox_plan_fixed(int width, int height, int out_width, int out_height, bool scale_up) {
    return img_letterbox_make(width, height, out_width, out_height, scale_up, 0);
}

/* As ultralytics predicts: into a square of imgsz (a multiple of the stride), of which `rect` keeps only as much
   border as the stride asks for. */
static img_letterbox img_letterbox_plan(int width, int height, int imgsz, bool rect, int stride) {
    return img_letterbox_make(width, height, imgsz, imgsz, true, rect ? stride : 0);
}

static void img_fill(float *out, size_t count, float value) {
    for (size_t i = 0; i < count; i++) out[i] = value;
}

/* Fills out (plan->height, plan->width, 3) with the picture, 0..1, in a border of gray 114. The division is
   torch's `/ 255`. */
static void img_letterbox_run(const img_letterbox *plan, const yolo_image *in, float *restrict out) {
    const float border = 114.0f / 255.0f;
    size_t row = (size_t)plan->width * 3, left = (size_t)plan->pad_left * 3, used = (size_t)plan->scaled_width * 3;
    int bottom = plan->pad_top + plan->scaled_height;
    img_fill(out, row * (size_t)plan->pad_top, border);
    img_fill(out + row * (size_t)bottom, row * (size_t)(plan->height - bottom), border);
    for (int y = plan->pad_top; y < bottom; y++) {
        img_fill(out + row * (size_t)y, left, border);
        img_fill(out + row * (size_t)y + left + used, row - left - used, border);
    }
    for (int first = 0; first < plan->scaled_width; first += IMG_TILE) {
        img_tile tile;
        uint8_t bytes[IMG_TILE * 3];
        img_tile_start(&tile, in, plan->scaled_width, plan->scaled_height, first);
        for (int y = 0; y < plan->scaled_height; y++) {
            img_tile_row(&tile, y, bytes);
            float *to = out + row * (size_t)(plan->pad_top + y) + left + (size_t)first * 3;
            for (int i = 0; i < tile.count * 3; i++) to[i] = (float)bytes[i] / 255.0f;
        }
    }
}

/* ---- text ---- */

/* A font of strokes on a grid whose capitals are 12 units high. A point is x (0..9, A..F) and y: a letter, 'a' at the top
   of capitals, 'd' at the top of small letters, 'm' the base line. A small letter is a point of the stroke, a capital
   one the control point of a parabola, with a point of the stroke half way between two of them; a stroke ends at a blank.
   Strokes, not a bitmap, so that a name is as legible on a picture of 8,000 pixels as on one of 300. */
static const char *const img_ascii[] = { /* '!' to '~' */
    "0a0i 0m", "0a0d 3a3d", "3b1l 7b5l 1e8e 0i7i", "8d7B4b0B0d0F8H8j8L4l1L0j 4a4n", "9a1m 2a4A4c4E2e0E0c0A2a 8iAIAkAM8m6M6k6I8i",
    "8m2e1C1A3a5A5c5E2f0H0j0M3m6M8h", "0a0d", "3a0D0h0K3o", "0a3D3h3K0o", "3a3g 0b6f 6b0f", "4d4l 0h8h", "1l1m0o", "0h4h", "0m",
    "5a0o", "3a4a7A7e7i7M4m3m0M0i0e0A3a", "1c4a4m 1m7m", "0d0A3a4a7A7d7F4i0m7m", "0c1A3a4a7A7d7G4g2g 4g7G7j7M4m3m1M0k", "5m5a0i7i",
    "7a1a0g1E4e7E7i7M3m1M0k", "6b5A4a0A0i0M3m4m7M7i7E4e3e0E0i", "0a7a2m", "3a4a6A6d6G4g3g1G1d1A3a 3g0G0j0M3m4m7M7j7G4g",
    "1l2M3m7M7e7A4a3a0A0e0I3i4i7I7e", "0e 0m", "1e 1l1m0o", "7d0h7l", "0f7f 0j7j", "0d7h0l", "0c0A3a6A6d6F3h3i 3m",
    "7e7h7K9kAKAgAA5a0A0g0N5n7N8m 7h7E5e3E3h3K5k7K7h", "0m4a8m 1j7j", "0m0a4a7A7d7G4g0g 4g5g8G8j8M5m0m", "8c7A5a0A0g0M5m7M8k",
    "0a0m4m9M9g9A4a0a", "7a0a0m7m 0g6g", "7a0a0m 0g6g", "8c7A5a0A0g0M5m9M9h6h", "0a0m 8a8m 0g8g", "0a0m", "5a5i5M2m0M0k",
    "0a0m 8a0h 3e8m", "0a0m7m", "0m0a5jAaAm", "0m0a8m8a", "5aAAAgAM5m0M0g0A5a", "0m0a5a8A8d8G5g0g", "5aAAAgAM5m0M0g0A5a 6jAn",
    "0m0a5a8A8d8G5g0g 4g8m", "8c7A4a0A0d0F8H8j8M4m1M0k", "0a8a 4a4m", "0a0i0M4m8M8i8a", "0a4m8a", "0a3m6c9mCa", "0a8m 8a0m",
    "0a4g8a 4g4m", "0a8a0m8m", "3a0a0o3o", "0a5o", "0a3a3o0o", "0e3a6e", "0o7o", "0a2c", "1e2D4d6D6g6m 6h3h0H0j0M3m6M6j",
    "0a0m 0g0D3d4d7D7g7j7M4m3m0M0j", "6e5D4d3d0D0g0j0M3m4m5M6l", "7a7m 7g7D4d3d0D0g0j0M3m4m7M7j", "0h7h7g7D4d3d0D0g0j0M3m4m6M7l",
    "5a4a2A2d2m 0d5d", "7d7n7Q4q3q1Q0p 7g7D4d3d0D0g0j0M3m4m7M7j", "0a0m 0g0D3d6D6g6m", "0d0m 0a", "2d2n2Q0q 2a", "0a0m 6d0i 2g6m",
    "0a0k0M2m", "0d0m 0g0D2d3d5D5g5m 5g5D7d8dADAgAm", "0d0m 0g0D3d6D6g6m", "3d4d7D7g7j7M4m3m0M0j0g0D3d",
    "0d0q 0g0D3d4d7D7g7j7M4m3m0M0j", "7d7q 7g7D4d3d0D0g0j0M3m4m7M7j", "0d0m 0g0D3d4d", "6e5D3d0D0f0H6I6k6M3m1M0l", "2b2j2M4m5m 0d5d",
    "0d0j0M3m6M6j 6d6m", "0d3m6d", "0d3m5e7mAd", "0d6m 6d0m", "0d3m 6d3m2p1Q0q", "0d6d0m6m", "4a2A2e2H0h2H2k2O4o", "0a0o",
    "0a2A2e2H4h2H2k2O0o", "0i1F4h7J8g",
};
static const struct { uint16_t code; const char *strokes; } img_latin[] = { /* what else has strokes of its own */
    {0xa1, "0d 0h0q"}, {0xa2, "6e5D4d3d0D0g0j0M3m4m5M6l 3b3o"}, {0xa3, "7c6A4a2A2d2m 0m7m 0h5h"}, {0xa5, "0a4g8a 4g4m 1h7h 1j7j"},
    {0xa6, "0a0f 0i0o"}, {0xa9, "6aCACgCM6m0M0g0A6a 8e7D6d4D4g4J6j7J8i"}, {0xab, "3e0h3k 7e4h7k"}, {0xac, "0g7g7j"}, {0xad, "0h4h"},
    {0xae, "6aCACgCM6m0M0g0A6a 4j4d6d8D8e8G6g4g 6g8j"}, {0xb0, "2a4A4c4E2e0E0c0A2a"}, {0xb1, "3c3i 0f6f 0l6l"},
    {0xb2, "0b0A1a3A3b3D0f3f"}, {0xb3, "0a3a1c3C3d3F1f0F0e"}, {0xb5, "0d0q 0j0M3m6M6j 6d6m"}, {0xb7, "0h"}, {0xb9, "0b1a1f"},
    {0xbb, "0e3h0k 4e7h4k"}, {0xbf, "3d 3h3i0K0m0P3p6P6n"}, {0xc6, "Bm6m6aBa 6gAg 6a0m 2i6i"}, {0xd0, "2m2a5aAAAgAM5m2m 0g5g"},
    {0xd7, "0e6k 6e0k"}, {0xd8, "5aAAAgAM5m0M0g0A5a 1m9a"}, {0xde, "0a0m 0d5d8D8g8J5j0j"}, {0xdf, "0m0d0A3a6A6c6F3f 3f7F7j7M4m2m"},
    {0xe6, "0e1D3d5D5g 5h2h0H0j0M2m5M5j 5hBhBgBD8d5D5g5j5M8mAMBl"}, {0xf0, "7j7M4m3m0M0j0F3f4f7F7j7D3a 3d7b"}, {0xf7, "0h8h 4e 4k"},
    {0xf8, "3d4d7D7g7j7M4m3m0M0j0g0D3d 0m7d"}, {0xfe, "0a0q 0g0D3d4d7D7g7j7M4m3m0M0j"}, {0x131, "0d0m"},
};
static const char img_accented[] = /* U+00C0 to U+00FF: a letter and its accent; blanks for those above */
    "A`A'A^A~A\"A*  C,E`E'E^E\"I`I'I^I\"  N~O`O'O^O~O\"    U`U'U^U\"Y'    a`a'a^a~a\"a*  c,e`e'e^e\"i`i'i^i\"  n~o`o'o^o~o\"    u`u'u^u\"y'  y\"";
static const struct { char name; uint16_t combining; const char *strokes; int width; } img_accents[] = {
    {'`', 0x300, "0a2b", 2}, {'\'', 0x301, "2a0b", 2}, {'^', 0x302, "0b2a4b", 4}, {'~', 0x303, "0b1A3b5C6a", 6}, {'"', 0x308, "0a 4a", 4},
    {'*', 0x30a, "2a4A4b4C2c0C0b0A2a", 4}, {',', 0x327, "1m3N1p0p", 3},
};

/* Hangul syllables are put together: consonants on a grid of 12 x 12 that is stretched over the place the vowel leaves
   them, vowels on a grid of 14 x 12 over the syllable, or over the part of it above the final. */
static const char *const img_consonants[] = { /* g n d r m b s ng j ch k t p h, then g and k left of an upright vowel */
    "0aCaCm", "0a0mCm", "Ca0a0mCm", "0aCaCg0g0mCm", "0aCaCm0m0a", "0a0mCmCa 0gCg", "6a6F0m 6e7ICm", "6aCACgCM6m0M0g0A6a", "0aCa 6a6H0m 6f7KCm",
    "4a8a 0dCd 6d6I0m 6h7KCm", "0aCaCm 0gCg", "Ca0a0mCm 0gCg", "0aCa 3a3m 9a9m 0mCm", "4a8a 0dCd 6fBFBiBM6m1M1i1F6f",
    "0aCaCI1m", "0aCaCI1m 0gBg",
};
static const char img_initials[] = "0 001 2 223 4 5 556 667 8 889 A B C D "; /* one or two consonants each, in hexadecimal */
static const char img_finals[] = "  0 00061 181D2 3 303435363B3C3D4 5 566 667 8 9 A B C D ";
static const struct { const char *strokes; float x, y, w, h, h2; } img_vowels[] = { /* and where the initial goes; w 0 = above */
    {"AaAm AgDg", 0, 1.5f, 7, 8.5f, 9}, {"9b9l DaDm 9gDg", 0, 1.5f, 6.2f, 8.5f, 9}, {"AaAm AeDe AiDi", 0, 1.5f, 7, 8.5f, 9},
    {"9b9l DaDm 9eDe 9iDi", 0, 1.5f, 6.2f, 8.5f, 9}, {"CaCm 8gCg", 0, 1.5f, 6.5f, 8.5f, 9}, {"9b9l DaDm 6g9g", 0, 1.5f, 5, 8.5f, 9},
    {"CaCm 8eCe 8iCi", 0, 1.5f, 6.5f, 8.5f, 9}, {"9b9l DaDm 6e9e 6i9i", 0, 1.5f, 5, 8.5f, 9}, {"7h7l 0lEl", 2, 0, 10, 5.5f, 5.5f},
    {"4g4k 0k8k AaAm AgDg", 0, 0.5f, 7.5f, 4.8f, 4.5f}, {"3g3k 0k7k 9b9l DaDm 9gDg", 0, 0.5f, 6.5f, 4.8f, 4.5f},
    {"4g4k 0k9k CaCm", 0, 0.5f, 8.5f, 4.8f, 4.5f}, {"5h5l 9h9l 0lEl", 2, 0, 10, 5.5f, 5.5f}, {"0hEh 7h7m", 2, 0, 10, 5, 5},
    {"0h9h 4h4m CaCm 8kCk", 0, 0.5f, 8.5f, 4.5f, 4.5f}, {"0h7h 3h3m 9b9l DaDm 6k9k", 0, 0.5f, 6.5f, 4.5f, 4.5f},
    {"0h9h 4h4m CaCm", 0, 0.5f, 8.5f, 4.5f, 4.5f}, {"0hEh 5h5m 9h9m", 2, 0, 10, 5, 5}, {"0kEk", 2, 0, 10, 7.5f, 7},
    {"0j9j CaCm", 0, 0.5f, 8.5f, 6.5f, 6.5f}, {"CaCm", 0, 1.5f, 8.5f, 8.5f, 9},
};
enum { IMG_CAPITAL = 12, IMG_PIECES = 6 };
#define IMG_GAP 3.6f /* between characters */

/* Strokes and where their grid lies: point (i, j) is at (x + i * sx, y + j * sy), in units of the font. */
typedef struct img_piece { const char *strokes; float x, y, sx, sy; } img_piece;

/* A character taken apart; count 0 = the font has it not (then it is an empty frame). */
typedef struct img_glyph { img_piece pieces[IMG_PIECES]; int count; float width; } img_glyph;

/* How text is drawn: height of its capitals in pixels, width of its strokes (0 = regular), and whether it reads upwards. */
typedef struct img_type { float size, weight; bool upwards; const uint8_t *colour; } img_type;

static int img_grid_x(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

static void img_glyph_add(img_glyph *glyph, const char *strokes, float x, float y, float sx, float sy) {
    if (glyph->count < IMG_PIECES) glyph->pieces[glyph->count++] = (img_piece){strokes, x, y, sx, sy};
}

/* A piece as it is on its grid, and as wide as its strokes. */
static void img_glyph_plain(img_glyph *glyph, const char *strokes) {
    img_glyph_add(glyph, strokes, 0, 0, 1, 1);
    for (const char *p = strokes; *p; p += p[2] == ' ' ? 3 : 2) glyph->width = YOLO_MAX(glyph->width, (float)img_grid_x(*p));
}

/* One or two consonants, given by their hexadecimal digits, side by side. `left` = beside an upright vowel. */
static void img_glyph_consonants(img_glyph *glyph, const char *two, bool left, float x, float y, float w, float h) {
    float gap = two[1] == ' ' ? 0 : 1.4f, half = two[1] == ' ' ? w : (w - gap) / 2;
    for (int i = 0; i < 2 && two[i] != ' '; i++) {
        int at = img_grid_x(two[i]);
        if (left && (at == 0 || at == 10)) at = at ? 15 : 14;
        img_glyph_add(glyph, img_consonants[at], x + (float)i * (half + gap), y, half / 12, h / 12);
    }
}

static void img_glyph_syllable(img_glyph *glyph, uint32_t index) {
    const char *initial = img_initials + index / 588 * 2, *final = img_finals + index % 28 * 2;
    int vowel = (int)(index % 588 / 28);
    bool closed = *final != ' ', upright = img_vowels[vowel].y > 1;
    float left = -0.7f, top = -1.5f, scale = (closed ? 8.6f : 15.0f) / 12;
    float h = closed ? img_vowels[vowel].h2 : img_vowels[vowel].h;
    img_glyph_consonants(glyph, initial, upright, left + img_vowels[vowel].x, top + img_vowels[vowel].y * scale, img_vowels[vowel].w, h * scale);
    img_glyph_add(glyph, img_vowels[vowel].strokes, left, top, 1, scale);
    if (closed) img_glyph_consonants(glyph, final, false, left + 1.5f, 8.8f, 11, 4.7f);
    glyph->width = 12.6f;
}

/* A letter with an accent: a capital makes room for it. */
static bool img_glyph_accented(img_glyph *glyph, const char *pair) {
    char letter = pair[0];
    bool capital = letter >= 'A' && letter <= 'Z';
    if (letter == ' ') return false;
    img_glyph_plain(glyph, letter == 'i' ? "0d0m" : img_ascii[letter - '!']);
    for (int i = 0; i < YOLO_COUNT(img_accents); i++) {
        if (img_accents[i].name != pair[1]) continue;
        float x = (glyph->width - (float)img_accents[i].width) / 2, left = YOLO_MIN(x, 0.0f);
        if (capital && pair[1] != ',') glyph->pieces[0] = (img_piece){glyph->pieces[0].strokes, 0, 2, 1, 10.0f / 12};
        img_glyph_add(glyph, img_accents[i].strokes, x - left, pair[1] == ',' ? 0 : capital ? -1.5f : -0.3f, 1, 1);
        glyph->pieces[0].x -= left;
        glyph->width -= 2 * left;
    }
    return true;
}

/* The character of a code point. */
static img_glyph img_glyph_make(uint32_t code) {
    img_glyph glyph = {.count = 0};
    if (code == 0x2013 || code == 0x2014) code = '-';
    if (code == 0x2018 || code == 0x2019) code = '\'';
    if (code == 0x201c || code == 0x201d) code = '"';
    if (code >= 0xff01 && code <= 0xff5e) code -= 0xff00 - ' '; /* of full width */
    if (code == ' ' || code == 0xa0 || code == 0x3000) {
        img_glyph_add(&glyph, "", 0, 0, 1, 1);
        glyph.width = 2;
    } else if (code > ' ' && code <= '~') img_glyph_plain(&glyph, img_ascii[code - '!']);
    else if (code >= 0xac00 && code <= 0xd7a3) img_glyph_syllable(&glyph, code - 0xac00);
    else if (code < 0xc0 || code > 0xff || !img_glyph_accented(&glyph, img_accented + (code - 0xc0) * 2))
        for (int i = 0; i < YOLO_COUNT(img_latin); i++)
            if (img_latin[i].code == code) img_glyph_plain(&glyph, img_latin[i].strokes);
    return glyph;
}

/* The code point at *text, which moves on by at least a byte; 0 at the end, 0xfffd for what is no UTF-8. */
static uint32_t img_text_code(const char **text) {
    const unsigned char *p = (const unsigned char *)*text;
    int length = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
    if (!*p) return 0;
    for (int i = 1; i < length; i++)
        if (!p[i]) length = 1; /* cut short */
    if (!str_is_utf8(*text, (size_t)length)) length = 1;
    *text += length;
    if (length == 1) return *p < 0x80 ? *p : 0xfffd;
    uint32_t code = length == 2 ? *p & 31u : length == 3 ? *p & 15u : *p & 7u;
    for (int i = 1; i < length; i++) code = code << 6 | (p[i] & 63u);
    return code;
}

/* The next character, put together where it is written in parts, as file names of macOS are: jamo, letter and accent. */
static uint32_t img_text_next(const char **text) {
    uint32_t code = img_text_code(text);
    const char *ahead = *text;
    uint32_t next = code ? img_text_code(&ahead) : 0;
    if (code >= 0x1100 && code < 0x1113 && next >= 0x1161 && next < 0x1176) {
        code = 0xac00 + ((code - 0x1100) * 21 + next - 0x1161) * 28;
        *text = ahead;
        next = img_text_code(&ahead);
        if (next > 0x11a7 && next < 0x11c3) {
            code += next - 0x11a7;
            *text = ahead;
        }
    }
    for (int i = 0; next >= 0x300 && next < 0x370 && i < YOLO_COUNT(img_accents); i++)
        for (uint32_t pair = 0; next == img_accents[i].combining && pair < 64; pair++)
            if ((uint32_t)img_accented[pair * 2] == code && img_accented[pair * 2 + 1] == img_accents[i].name) {
                *text = ahead;
                return 0xc0 + pair;
            }
    return code;
}

/* Has the font every character of a text, and is there one? */
static bool img_text_known(const char *text) {
    bool any = *text != 0;
    for (uint32_t code; any && (code = img_text_next(&text)) != 0;)
        if (!img_glyph_make(code).count) return false;
    return any;
}

static const char img_unknown[] = "0a0m7m7a0a";

static img_glyph img_text_glyph(const char **text, uint32_t *code) {
    img_glyph glyph = img_glyph_make(*code = img_text_next(text));
    if (!glyph.count && *code) img_glyph_plain(&glyph, img_unknown);
    return glyph;
}

/* How many bytes of a line of text fit into `room` pixels; *width is what they take. Between whole characters. */
static size_t img_text_fit(const char *text, float size, float room, float *width) {
    const char *start = text, *end = text;
    float unit = size / IMG_CAPITAL, at = 0;
    uint32_t code;
    for (*width = 0;; end = text) {
        img_glyph glyph = img_text_glyph(&text, &code);
        if (!code || unit * (at + glyph.width) > room) return (size_t)(end - start);
        *width = unit * (at + glyph.width);
        at += glyph.width + IMG_GAP;
    }
}

static float img_text_width(const char *text, float size) {
    float width;
    img_text_fit(text, size, FLT_MAX, &width);
    return width;
}

/* How much of each pixel of a part of a picture is covered. */
typedef struct img_mask { uint8_t *cover; int left, top, width, height; } img_mask;

/* A line with round ends and soft edges. Where strokes meet, the larger cover counts, so joints do not show. */
static void img_mask_stroke(const img_mask *mask, float x1, float y1, float x2, float y2, float thickness) {
    float reach = thickness / 2 + 0.5f, dx = x2 - x1, dy = y2 - y1, square = dx * dx + dy * dy;
    int right = mask->left + mask->width - 1, bottom = mask->top + mask->height - 1;
    int from_y = (int)YOLO_MAX(YOLO_MIN(y1, y2) - reach, (float)mask->top), to_y = (int)YOLO_MIN(YOLO_MAX(y1, y2) + reach, (float)bottom);
    for (int y = from_y; y <= to_y; y++) {
        float py = (float)y + 0.5f - y1, low = 0, high = 1; /* the part of the line that this row can see */
        if (fabsf(dy) > 1e-3f) {
            float a = (py - reach) / dy, b = (py + reach) / dy;
            low = YOLO_CLAMP(YOLO_MIN(a, b), 0.0f, 1.0f);
            high = YOLO_CLAMP(YOLO_MAX(a, b), 0.0f, 1.0f);
        }
        float left_x = x1 + (dx > 0 ? low : high) * dx - reach, right_x = x1 + (dx > 0 ? high : low) * dx + reach;
        int from_x = (int)YOLO_MAX(left_x, (float)mask->left), to_x = (int)YOLO_MIN(right_x, (float)right);
        uint8_t *cover = mask->cover + (size_t)(y - mask->top) * (size_t)mask->width;
        for (int x = from_x; x <= to_x; x++) {
            float px = (float)x + 0.5f - x1, along = square > 0 ? YOLO_CLAMP((px * dx + py * dy) / square, 0.0f, 1.0f) : 0;
            float ax = px - along * dx, ay = py - along * dy, apart = ax * ax + ay * ay;
            if (apart >= reach * reach) continue;
            uint8_t value = (uint8_t)(YOLO_MIN(reach - sqrtf(apart), 1.0f) * 255 + 0.5f);
            cover[x - mask->left] = YOLO_MAX(cover[x - mask->left], value);
        }
    }
}

/* Paints a part of the picture in a colour where it is covered, alpha 0..255, and clears the cover. */
static void img_mask_paint(const img_mask *mask, yolo_image *image, int x1, int y1, int x2, int y2, const uint8_t colour[3], int alpha) {
    for (int y = y1; y < y2; y++) {
        uint8_t *cover = mask->cover + (size_t)(y - mask->top) * (size_t)mask->width - mask->left;
        uint8_t *pixel = image->pixels + ((size_t)y * (size_t)image->width + (size_t)x1) * 3;
        for (int x = x1; x < x2; x++, pixel += 3) {
            int part = cover[x] * alpha;
            for (int c = 0; part && c < 3; c++) pixel[c] = (uint8_t)((pixel[c] * (65025 - part) + colour[c] * part + 32512) / 65025);
            cover[x] = 0;
        }
    }
}

/* Where a unit of the font's grid lies in the picture. */
typedef struct img_pen { float x, y, unit, thickness; bool upwards, snap_x; } img_pen;

/* Small strokes are moved to whole pixels across the line of text, Hangul's also along it: that keeps them apart and clear. */
static float img_pen_snap(float at, float thickness) { return floorf(at - thickness / 2 + 0.5f) + thickness / 2; }

static void img_pen_place(const img_pen *pen, const img_piece *piece, float i, float j, float *x, float *y) {
    float along = pen->unit * (piece->x + i * piece->sx), across = pen->unit * (piece->y + j * piece->sy);
    *x = pen->upwards ? pen->x + across : pen->x + along;
    *y = pen->upwards ? pen->y - along : pen->y + across;
    if (!pen->upwards || pen->snap_x) *y = img_pen_snap(*y, pen->thickness);
    if (pen->upwards || pen->snap_x) *x = img_pen_snap(*x, pen->thickness);
}

/* A parabola from (x0, y0) to (x2, y2) as a few lines. */
static void img_pen_curve(const img_pen *pen, const img_mask *mask, float x0, float y0, float x1, float y1, float x2, float y2) {
    int steps = YOLO_CLAMP((int)((fabsf(x2 - x0) + fabsf(y2 - y0)) / 3), 3, 16);
    float from_x = x0, from_y = y0;
    for (int s = 1; s <= steps; s++) {
        float t = (float)s / (float)steps, u = 1 - t;
        float x = u * u * x0 + 2 * u * t * x1 + t * t * x2, y = u * u * y0 + 2 * u * t * y1 + t * t * y2;
        img_mask_stroke(mask, from_x, from_y, x, y, pen->thickness);
        from_x = x;
        from_y = y;
    }
}

static void img_pen_draw(const img_pen *pen, const img_mask *mask, const img_piece *piece) {
    float x = 0, y = 0, control_x = 0, control_y = 0;
    bool started = false, curved = false;
    for (const char *p = piece->strokes; *p; p += 2) {
        if (*p == ' ') { started = false; p++; }
        bool control = p[1] < 'a', alone = !started && (!p[2] || p[2] == ' ');
        float to_x, to_y;
        img_pen_place(pen, piece, (float)img_grid_x(p[0]), (float)(p[1] - (control ? 'A' : 'a')), &to_x, &to_y);
        if (alone) img_mask_stroke(mask, to_x, to_y, to_x, to_y, pen->thickness * 1.3f); /* a dot */
        if (control && curved) {
            float middle_x = (control_x + to_x) / 2, middle_y = (control_y + to_y) / 2;
            img_pen_curve(pen, mask, x, y, control_x, control_y, middle_x, middle_y);
            x = middle_x;
            y = middle_y;
        } else if (!control && curved) img_pen_curve(pen, mask, x, y, control_x, control_y, to_x, to_y);
        else if (!control && started) img_mask_stroke(mask, x, y, to_x, to_y, pen->thickness);
        if (control) { control_x = to_x; control_y = to_y; }
        else { x = to_x; y = to_y; }
        curved = control;
        started = true;
    }
}

/* Paints [x1, x2) x [y1, y2), clipped, tile by tile, with what draw() covers of each. */
static void img_draw_covered(yolo_image *image, float x1, float y1, float x2, float y2, const uint8_t colour[3],
                             void (*draw)(const void *what, const img_mask *mask), const void *what) {
    enum { TILE = 64 };
    uint8_t cover[TILE * TILE] = {0};
    int left = (int)YOLO_MAX(x1, 0.0f), right = (int)YOLO_MIN(x2, (float)image->width);
    int top = (int)YOLO_MAX(y1, 0.0f), bottom = (int)YOLO_MIN(y2, (float)image->height);
    for (int y = top; y < bottom; y += TILE)
        for (int x = left; x < right; x += TILE) {
            img_mask mask = {cover, x, y, YOLO_MIN(TILE, right - x), YOLO_MIN(TILE, bottom - y)};
            draw(what, &mask);
            img_mask_paint(&mask, image, x, y, x + mask.width, y + mask.height, colour, 255);
        }
}

typedef struct img_stroke { float x1, y1, x2, y2, thickness; } img_stroke;

static void img_stroke_cover(const void *what, const img_mask *mask) {
    const img_stroke *s = what;
    img_mask_stroke(mask, s->x1, s->y1, s->x2, s->y2, s->thickness);
}

/* A line with round ends and soft edges, clipped. */
static void img_draw_stroke(yolo_image *image, float x1, float y1, float x2, float y2, float thickness, const uint8_t colour[3]) {
    img_stroke stroke = {x1, y1, x2, y2, thickness};
    float reach = thickness / 2 + 2;
    img_draw_covered(image, YOLO_MIN(x1, x2) - reach, YOLO_MIN(y1, y2) - reach, YOLO_MAX(x1, x2) + reach, YOLO_MAX(y1, y2) + reach, colour, img_stroke_cover, &stroke);
}

typedef struct img_character { const img_pen *pen; const img_glyph *glyph; } img_character;

static void img_character_cover(const void *what, const img_mask *mask) {
    const img_character *c = what;
    for (int i = 0; i < c->glyph->count; i++) img_pen_draw(c->pen, mask, &c->glyph->pieces[i]);
}

static void img_draw_character(yolo_image *image, const img_pen *pen, const img_glyph *glyph, const uint8_t colour[3]) {
    img_character character = {pen, glyph};
    float reach = pen->thickness + 2, side = pen->unit * 2 + reach, up = pen->unit * 3 + reach; /* accents and such reach out */
    float along = pen->unit * (glyph->width + 2) + reach, down = pen->unit * 17 + reach;
    if (pen->upwards) img_draw_covered(image, pen->x - up, pen->y - along, pen->x + down, pen->y + side, colour, img_character_cover, &character);
    else img_draw_covered(image, pen->x - side, pen->y - up, pen->x + along, pen->y + down, colour, img_character_cover, &character);
}

/* Draws the first `length` bytes of a line of text, its left end at the top of capitals at (x, y). What the font lacks
   is an empty frame. */
static void img_draw_text(yolo_image *image, float x, float y, img_type type, const char *text, size_t length) {
    float unit = type.size / IMG_CAPITAL, thickness = type.weight > 0 ? type.weight : YOLO_MAX(unit * 1.35f, 1.1f);
    uint32_t code;
    for (const char *end = text + length; text < end;) {
        img_glyph glyph = img_text_glyph(&text, &code);
        if (!code) return;
        img_pen pen = {x, y, unit, thickness, type.upwards, code >= 0xac00 && code <= 0xd7a3};
        img_draw_character(image, &pen, &glyph, type.colour);
        if (type.upwards) y -= unit * (glyph.width + IMG_GAP);
        else x += unit * (glyph.width + IMG_GAP);
    }
}

/* ---- boxes ---- */

static const uint8_t img_palette[][3] = { /* REF ultralytics/utils/plotting.py Colors: the values, class modulo 20 */
    {4, 42, 255}, {11, 219, 235}, {243, 243, 243}, {0, 223, 183}, {17, 31, 104}, {255, 111, 221}, {255, 68, 79},
    {204, 237, 0}, {0, 243, 68}, {189, 0, 255}, {0, 180, 255}, {221, 0, 186}, {0, 255, 255}, {38, 192, 0}, {1, 255, 179},
    {125, 36, 255}, {123, 0, 104}, {255, 27, 108}, {252, 109, 47}, {162, 255, 11},
};

static const uint8_t *img_class_colour(int class_id) {
    return img_palette[class_id < 0 ? 0 : class_id % YOLO_COUNT(img_palette)];
}

/* [x1, x2) x [y1, y2) in one colour, clipped. */
static void img_draw_rectangle(yolo_image *image, int x1, int y1, int x2, int y2, const uint8_t colour[3]) {
    x1 = YOLO_MAX(x1, 0);
    y1 = YOLO_MAX(y1, 0);
    x2 = YOLO_MIN(x2, image->width);
    y2 = YOLO_MIN(y2, image->height);
    if (x1 >= x2 || y1 >= y2) return;
    uint8_t *first = image->pixels + ((size_t)y1 * (size_t)image->width + (size_t)x1) * 3;
    for (int x = 0; x < x2 - x1; x++) memcpy(first + x * 3, colour, 3);
    for (int y = 1; y < y2 - y1; y++) memcpy(first + (size_t)y * (size_t)image->width * 3, first, (size_t)(x2 - x1) * 3);
}

/* A coordinate of a box as a pixel; anything outside the picture, and NaN, becomes its edge. */
static int img_draw_pixel(float at, int size) { return at > 0 ? at < (float)size ? (int)at : size - 1 : 0; }

/* A filled label whose corner is the box's: above the box where there is room, else inside; always in the picture. */
static void img_draw_label(yolo_image *image, int x, int y, const char *text, float size, const uint8_t colour[3]) {
    static const uint8_t black[3] = {16, 16, 16}, white[3] = {255, 255, 255};
    bool bright = 299 * colour[0] + 587 * colour[1] + 114 * colour[2] > 140000;
    int margin = (int)(size * 0.2f) + 1;
    float width = img_text_width(text, size), room = (float)(image->width - 2 * margin);
    if (width > room) size = YOLO_MAX(size * room / width, 6.0f);
    img_type type = {.size = size, .colour = bright ? black : white};
    size_t length = img_text_fit(text, size, YOLO_MAX(room, 0.0f), &width);
    int box_width = (int)ceilf(width) + 2 * margin, box_height = (int)ceilf(size * 1.25f) + 2 * margin;
    x = YOLO_MAX(0, YOLO_MIN(x, image->width - box_width));
    y = y - box_height >= 0 ? y - box_height : YOLO_MAX(0, YOLO_MIN(y, image->height - box_height));
    img_draw_rectangle(image, x, y, x + box_width, y + box_height, colour);
    img_draw_text(image, (float)(x + margin), (float)(y + margin) + size * 0.08f, type, text, length);
}

/* Width of lines on a picture of this size. REF ultralytics/utils/plotting.py Annotator */
static int img_line_width(const yolo_image *image) {
    return (int)YOLO_MAX(rint((image->width + image->height + 3) / 2.0 * 0.003), 2);
}

/* The frame of a box, centred on its outline. */
static void img_draw_frame(yolo_image *image, const yolo_box *box, int line_width) {
    const uint8_t *colour = img_class_colour(box->class_id);
    int before = line_width / 2, after = line_width - before;
    int x1 = img_draw_pixel(box->x1, image->width), x2 = img_draw_pixel(box->x2, image->width);
    int y1 = img_draw_pixel(box->y1, image->height), y2 = img_draw_pixel(box->y2, image->height);
    img_draw_rectangle(image, x1 - before, y1 - before, x2 + after, y1 + after, colour);
    img_draw_rectangle(image, x1 - before, y2 - before, x2 + after, y2 + after, colour);
    img_draw_rectangle(image, x1 - before, y1 - before, x1 + after, y2 + after, colour);
    img_draw_rectangle(image, x2 - before, y1 - before, x2 + after, y2 + after, colour);
}

/* A class' name as far as the buffer goes, or its number where the font lacks a character of the name, or there is none. */
static void img_class_label(char *text, size_t size, const char *name, int class_id) {
    size_t length = name ? strlen(name) : 0;
    if (!length || !img_text_known(name)) {
        snprintf(text, size, "%d", class_id);
        return;
    }
    if (length >= size)
        for (length = size - 1; length && ((unsigned char)name[length] & 0xc0) == 0x80;) length--;
    memcpy(text, name, length);
    text[length] = 0;
}

/* A box with its label: class and confidence (none below 0); `size` is the height of its capitals. */
static void img_draw_marked(yolo_image *image, const yolo_box *box, const char *name, int line_width, float size) {
    char text[160];
    img_class_label(text, 140, name, box->class_id);
    if (box->confidence >= 0) snprintf(text + strlen(text), 20, " %.2f", (double)YOLO_MIN(box->confidence, 9.0f));
    img_draw_frame(image, box, line_width);
    int x = img_draw_pixel(box->x1, image->width) - line_width / 2, y = img_draw_pixel(box->y1, image->height) - line_width / 2;
    img_draw_label(image, x, y, text, size, img_class_colour(box->class_id));
}

static void img_draw_box(yolo_image *image, const yolo_box *box, const char *name, int line_width) {
    img_draw_marked(image, box, name, line_width, 7.0f * (float)line_width);
}

/* ==== 8 codec_: picture files ===================================================================================
   Pictures are recognised by content, never by name. A header is read here first: dimensions, depth and what a file
   of that size can hold are checked before a decoder sees a byte. stb_image decodes JPEG and BMP and inflates PNG;
   the rest of PNG is done here, so that memory is bounded by the picture's size and 16-bit samples are rounded.
   stb_image_write makes JPEGs; its PNGs would write through NULL when memory runs out, so those are made here. Alpha
   is dropped, gray spread to RGB, as cv2.imread does. Pixels are mem_ blocks. */

#define CODEC_MAX_PIXELS ((int64_t)400 << 20)
#define CODEC_MAX_FILE ((uint64_t)1 << 30)

static void *codec_grow(void *old, size_t old_size, size_t size) {
    void *block = mem_alloc(size);
    if (block && old) {
        memcpy(block, old, YOLO_MIN(old_size, size));
        mem_free(old);
    }
    return block;
}

/* stb leaves what a damaged file does not define unwritten: zeros make the result a function of the file. */
#define STBI_MALLOC(size) mem_array(size, 1)
#define STBI_REALLOC_SIZED(block, old, size) codec_grow(block, old, size)
#define STBI_FREE(block) mem_free(block)
#define STBI_ASSERT(condition) ((void)0)
#define STBI_MAX_DIMENSIONS YOLO_MAX_DIM
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_SUPPORT_ZLIB
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBIW_MALLOC(size) mem_alloc(size)
#define STBIW_REALLOC_SIZED(block, old, size) codec_grow(block, old, size)
#define STBIW_FREE(block) mem_free(block)
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#elif defined(_MSC_VER)
#pragma warning(push, 0)
#endif
#ifdef __has_include
#if !__has_include("stb_image.h")
#define CODEC_STB_FOLDER
#endif
#endif
#ifdef CODEC_STB_FOLDER
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#else
#include "stb_image.h"
#include "stb_image_write.h"
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#elif defined(_MSC_VER)
#pragma warning(pop)
#endif

/* What the head of a file says. */
typedef struct codec_header {
    int width, height;   /* as stored, before orientation */
    int orientation;     /* EXIF 1..8 */
    int channels, depth; /* PNG: samples a pixel and bits a sample */
    int colour;          /* PNG colour type */
    bool interlaced;     /* PNG */
    size_t data;         /* BMP: offset of the pixels */
    uint64_t least;      /* JPEG: bytes that so many blocks take at the very least */
} codec_header;

/* A file in memory; the path is for messages. */
typedef struct codec_file { const char *path; cur bytes; } codec_file;

YOLO_PRINTF(3, 4)
static yolo_status codec_damaged(const codec_file *file, yolo_error *error, const char *format, ...) {
    char reason[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    size_t at = file->bytes.failed ? file->bytes.failed_at : file->bytes.at;
    return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %llu of %llu: %s", file->path, (unsigned long long)at,
                   (unsigned long long)file->bytes.size, reason);
}

static yolo_status codec_check_size(const codec_file *file, const codec_header *header, yolo_error *error) {
    if (header->width < 1 || header->height < 1)
        return codec_damaged(file, error, "a picture of %d x %d pixels", header->width, header->height);
    if (header->width > YOLO_MAX_DIM || header->height > YOLO_MAX_DIM ||
        (int64_t)header->width * header->height > CODEC_MAX_PIXELS)
        return err_set(error, YOLO_ERROR_MEMORY, "%s: %d x %d pixels, expected at most %d a side and %lld in all",
                       file->path, header->width, header->height, YOLO_MAX_DIM, (long long)CODEC_MAX_PIXELS);
    return YOLO_OK;
}

/* An unsigned integer of either byte order. */
static uint64_t codec_int(cur *c, bool big, int count) { return big ? cur_be(c, count) : cur_le(c, count); }

/* The orientation in an EXIF block (a small TIFF file): 1..8, and 1 where it says nothing sensible. */
static int codec_exif_orientation(const uint8_t *bytes, size_t size) {
    cur c = cur_make(bytes, size);
    uint64_t order = cur_be(&c, 2);
    bool big = order == 0x4d4d;
    if ((!big && order != 0x4949) || codec_int(&c, big, 2) != 42) return 1;
    cur_seek(&c, codec_int(&c, big, 4));
    int entries = (int)codec_int(&c, big, 2);
    for (int i = 0; i < entries && !c.failed; i++) {
        uint64_t tag = codec_int(&c, big, 2), type = codec_int(&c, big, 2), count = codec_int(&c, big, 4);
        uint64_t value = codec_int(&c, big, 2);
        cur_take(&c, 2);
        if (tag == 0x112 && !c.failed) return type == 3 && count == 1 && value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* A JPEG's frame header: `marker` is SOFn. */
static yolo_status codec_jpeg_frame(codec_file *file, int marker, cur segment, codec_header *header, yolo_error *error) {
    int precision = (int)cur_be(&segment, 1);
    header->height = (int)cur_be(&segment, 2);
    header->width = (int)cur_be(&segment, 2);
    header->channels = (int)cur_be(&segment, 1);
    if (segment.failed) return codec_damaged(file, error, "JPEG frame header cut short");
    if (marker > 0xc2)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: %s JPEG is not supported, baseline and progressive are",
                       file->path, marker == 0xc3 ? "lossless" : marker >= 0xc9 ? "arithmetic-coded" : "hierarchical");
    if (precision != 8)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: %d-bit JPEG is not supported, 8-bit is", file->path, precision);
    if (header->channels != 1 && header->channels != 3 && header->channels != 4)
        return codec_damaged(file, error, "JPEG of %d components, expected 1, 3 or 4", header->channels);
    int area = 0, widest = 1, tallest = 1;
    for (int i = 0; i < header->channels; i++) {
        const uint8_t *component = cur_take(&segment, 3);
        int across = component ? component[1] >> 4 : 0, down = component ? component[1] & 15 : 0;
        if (across < 1 || across > 4 || down < 1 || down > 4) return codec_damaged(file, error, "JPEG frame header with samples of %d x %d", across, down);
        area += across * down;
        widest = YOLO_MAX(widest, across);
        tallest = YOLO_MAX(tallest, down);
    }
    yolo_status status = codec_check_size(file, header, error);
    uint64_t blocks = (uint64_t)header->width * (uint64_t)header->height / 64 * (uint64_t)area / (uint64_t)(widest * tallest);
    header->least = blocks * (marker == 0xc2 ? 1 : 2) / 8; /* a code for the mean and, but in progressive, one for the rest */
    return status;
}

/* The next marker that matters and its segment, behind whatever entropy-coded data lies before it; 0 when the file ends. */
static int codec_jpeg_next(cur *c, cur *segment) {
    int marker = 0;
    *segment = cur_make(NULL, 0);
    while (!c->failed && (marker == 0 || marker == 1 || (marker >= 0xd0 && marker <= 0xd8))) { /* data, restarts, starts */
        const uint8_t *found = c->at < c->size ? memchr(c->bytes + c->at, 0xff, c->size - c->at) : NULL;
        c->at = found ? (size_t)(found - c->bytes) : c->size;
        for (marker = 0xff; marker == 0xff && !c->failed;) marker = (int)cur_be(c, 1);
    }
    if (marker == 0xd9 || c->failed) return c->failed ? 0 : marker;
    uint64_t length = cur_be(c, 2);
    const uint8_t *bytes = cur_take(c, length < 2 ? 0 : length - 2);
    if (bytes) *segment = cur_make(bytes, length < 2 ? 0 : (size_t)length - 2);
    return c->failed ? 0 : marker;
}

/* stb (2.27) checks neither that a Huffman table has at most 256 codes before it lists them, nor that it ends with its
   segment. */
static bool codec_jpeg_codes_fit(cur segment) {
    while (segment.at < segment.size && !segment.failed) {
        cur_take(&segment, 1);
        const uint8_t *counts = cur_take(&segment, 16);
        int codes = 0;
        for (int i = 0; counts && i < 16; i++) codes += counts[i];
        cur_take(&segment, (uint64_t)codes);
        if (codes > 256) return false;
    }
    return !segment.failed;
}

/* Walks the segments up to the first scan. */
static yolo_status codec_jpeg_header(codec_file *file, codec_header *header, yolo_error *error) {
    cur *c = &file->bytes, segment;
    bool adobe = false;
    cur_seek(c, 2);
    for (int marker = 0; marker != 0xda;) {
        marker = codec_jpeg_next(c, &segment);
        if (!marker) return codec_damaged(file, error, "JPEG header cut short");
        if (marker == 0xd9) return codec_damaged(file, error, "JPEG ends before its picture data");
        if (marker == 0xc4) {
            if (!codec_jpeg_codes_fit(segment)) return codec_damaged(file, error, "damaged JPEG Huffman table");
        } else if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc8 && marker != 0xcc) {
            if (header->width) return codec_damaged(file, error, "a second JPEG frame header");
            yolo_status status = codec_jpeg_frame(file, marker, segment, header, error);
            if (status != YOLO_OK) return status;
        } else if (marker == 0xe1 && segment.size > 6 && !memcmp(segment.bytes, "Exif\0\0", 6))
            header->orientation = codec_exif_orientation(segment.bytes + 6, segment.size - 6);
        else if (marker == 0xee && segment.size >= 12 && !memcmp(segment.bytes, "Adobe", 5)) adobe = true;
    }
    if (!header->width) return codec_damaged(file, error, "JPEG scan before its frame header");
    if (header->channels == 4 && !adobe)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: CMYK JPEG without Adobe's marker is not supported; convert it to RGB", file->path);
    return YOLO_OK;
}

static yolo_status codec_take_stb(const codec_file *file, int width, int height, uint8_t *pixels, yolo_image *image, yolo_error *error) {
    if (!pixels) {
        const char *reason = stbi_failure_reason();
        if (reason && (!strcmp(reason, "outofmem") || !strcmp(reason, "unknown image type"))) /* it was sniffed before */
            return err_memory(error, (uint64_t)width * (uint64_t)height * 3);
        return err_set(error, YOLO_ERROR_FORMAT, "%s: damaged picture data: %s", file->path, reason ? reason : "no reason given");
    }
    *image = (yolo_image){pixels, width, height};
    return YOLO_OK;
}

/* The three loops of a JPEG whose rounding is seen in the pixels, as libjpeg does them, because ultralytics' pixels come
   from there: stb's own differ by up to 3 levels, which moves scores in the third digit. The rest is stb's. */

/* One dimension of the inverse DCT (Loeffler, Ligtenberg, Moschytz 1989; 13-bit constants of libjpeg's jidctint.c) of all
   eight columns; the result is transposed, so that two calls make the whole. Sums wrap and results saturate to 16 bits,
   as in libjpeg's vector code: only damaged files get there. */
static void codec_jpeg_idct_columns(short *out, const short *in, int bits) {
    for (int i = 0; i < 8; i++, in++, out += 8) {
        uint32_t a = (uint32_t)in[56], b = (uint32_t)in[40], c = (uint32_t)in[24], d = (uint32_t)in[8];
        uint32_t even2 = (uint32_t)in[16], even6 = (uint32_t)in[48], z = (even2 + even6) * 4433;
        uint32_t low = z - even6 * 15137, high = z + even2 * 6270;
        uint32_t sum = ((uint32_t)in[0] + (uint32_t)in[32]) * 8192, difference = ((uint32_t)in[0] - (uint32_t)in[32]) * 8192;
        uint32_t even[4] = {sum + high, difference + low, difference - low, sum - high};
        uint32_t shared = (a + c + b + d) * 9633, ad = (a + d) * 7373, bc = (b + c) * 20995;
        uint32_t ac = shared - (a + c) * 16069, bd = shared - (b + d) * 3196;
        uint32_t odd[4] = {d * 12299 - ad + bd, c * 25172 - bc + ac, b * 16819 - bc + bd, a * 2446 - ad + ac};
        uint32_t half = 1u << (bits - 1);
        for (int k = 0; k < 4; k++) {
            int first = (int32_t)(even[k] + odd[k] + half) >> bits, last = (int32_t)(even[k] - odd[k] + half) >> bits;
            out[k] = (short)YOLO_CLAMP(first, SHRT_MIN, SHRT_MAX);
            out[7 - k] = (short)YOLO_CLAMP(last, SHRT_MIN, SHRT_MAX);
        }
    }
}

static void codec_jpeg_idct(stbi_uc *out, int stride, short data[64]) {
    short rows[64], pixels[64];
    codec_jpeg_idct_columns(rows, data, 13 - 2);
    codec_jpeg_idct_columns(pixels, rows, 13 + 2 + 3);
    for (int y = 0; y < 8; y++, out += stride)
        for (int x = 0; x < 8; x++) out[x] = (stbi_uc)YOLO_CLAMP(pixels[y * 8 + x] + 128, 0, 255);
}

/* A row of Y, Cb, Cr to RGB with the 16-bit constants of jdcolor.c. */
static void codec_jpeg_colour(stbi_uc *out, const stbi_uc *y, const stbi_uc *blue, const stbi_uc *red, int count, int step) {
    enum { HALF = 1 << 15, RED = 91881, GREEN_RED = 46802, GREEN_BLUE = 22554, BLUE = 116130 }; /* 1.402 0.71414 0.34414 1.772 */
    for (int i = 0; i < count; i++, out += step) {
        int cb = blue[i] - 128, cr = red[i] - 128;
        int r = y[i] + ((RED * cr + HALF) >> 16), g = y[i] + ((HALF - GREEN_BLUE * cb - GREEN_RED * cr) >> 16);
        int b = y[i] + ((BLUE * cb + HALF) >> 16);
        out[0] = (stbi_uc)YOLO_CLAMP(r, 0, 255);
        out[1] = (stbi_uc)YOLO_CLAMP(g, 0, 255);
        out[2] = (stbi_uc)YOLO_CLAMP(b, 0, 255);
    }
}

/* A row of twice the width between two rows of chroma, weights 9 3 3 1, rounded down and up in turn; two columns or
   fewer are repeated. jdsample.c h2v2_fancy_upsample, h2v2_upsample */
static stbi_uc *codec_jpeg_upsample(stbi_uc *out, stbi_uc *near_row, stbi_uc *far_row, int width, int unused) {
    int before = 0, here = 3 * near_row[0] + far_row[0];
    (void)unused;
    for (int i = 0; width <= 2 && i < 2 * width; i++) out[i] = near_row[i / 2];
    if (width <= 2) return out;
    for (int i = 0; i < width; i++) {
        int after = i + 1 < width ? 3 * near_row[i + 1] + far_row[i + 1] : here;
        out[2 * i] = (stbi_uc)((3 * here + (i ? before : here) + 8) >> 4);
        out[2 * i + 1] = (stbi_uc)((3 * here + after + 7) >> 4);
        before = here;
        here = after;
    }
    return out;
}

/* What stbi_load_from_memory does for a JPEG, with the loops above; NULL and stb's reason on failure. */
static uint8_t *codec_jpeg_decode(const cur *bytes, int *width, int *height) {
    stbi__context source;
    stbi__jpeg *decoder = mem_array(1, sizeof *decoder);
    int channels;
    if (!decoder) {
        stbi__err("outofmem", "Out of memory");
        return NULL;
    }
    stbi__start_mem(&source, bytes->bytes, (int)bytes->size);
    decoder->s = &source;
    stbi__setup_jpeg(decoder);
    decoder->idct_block_kernel = codec_jpeg_idct;
    decoder->YCbCr_to_RGB_kernel = codec_jpeg_colour;
    decoder->resample_row_hv_2_kernel = codec_jpeg_upsample;
    uint8_t *pixels = load_jpeg_image(decoder, width, height, &channels, 3);
    mem_free(decoder);
    return pixels;
}

enum { CODEC_MAX_SCANS = 100 };

/* A small file that claims a huge picture is refused before memory is taken for it; so is one of endless scans, each of
   which costs the time of a whole picture, and one whose end is missing, because what follows would be made up. */
static yolo_status codec_jpeg_load(codec_file *file, const codec_header *header, yolo_image *image, yolo_error *error) {
    cur *c = &file->bytes, segment;
    if (header->least > c->size)
        return codec_damaged(file, error, "%d x %d pixels claimed, too many for a file of this size", header->width, header->height);
    for (int marker = 0, scans = 1; marker != 0xd9;) {
        marker = codec_jpeg_next(c, &segment);
        if (!marker) return codec_damaged(file, error, "JPEG is cut short: no end marker");
        if (marker == 0xda && ++scans > CODEC_MAX_SCANS) return codec_damaged(file, error, "JPEG of more than %d scans", CODEC_MAX_SCANS);
        if (marker == 0xc4 && !codec_jpeg_codes_fit(segment))
            return codec_damaged(file, error, "damaged JPEG Huffman table");
    }
    int width = 0, height = 0;
    uint8_t *pixels = codec_jpeg_decode(c, &width, &height);
    return codec_take_stb(file, width, height, pixels, image, error);
}

/* Walks the chunks up to the first IDAT. */
static yolo_status codec_png_header(codec_file *file, codec_header *header, yolo_error *error) {
    cur *c = &file->bytes;
    cur_seek(c, 8);
    uint64_t length = cur_be(c, 4), type = cur_be(c, 4);
    uint64_t width = cur_be(c, 4), height = cur_be(c, 4);
    header->depth = (int)cur_be(c, 1);
    header->colour = (int)cur_be(c, 1);
    bool methods = cur_be(c, 2) == 0;
    uint64_t interlace = cur_be(c, 1);
    cur_take(c, 4);
    static const uint8_t channels[7] = {1, 0, 3, 1, 2, 0, 4};
    static const uint8_t depths[7] = {1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16}; /* set of them */
    if (c->failed) return codec_damaged(file, error, "PNG header cut short");
    if (length != 13 || type != 0x49484452) return codec_damaged(file, error, "PNG does not begin with IHDR");
    if (header->colour > 6 || !(depths[header->colour] & header->depth) || (header->depth & (header->depth - 1)))
        return codec_damaged(file, error, "PNG of colour type %d with %d bits", header->colour, header->depth);
    if (!methods || interlace > 1) return codec_damaged(file, error, "PNG method not known");
    header->channels = channels[header->colour];
    header->interlaced = interlace != 0;
    header->width = (int)YOLO_MIN(width, INT_MAX);
    header->height = (int)YOLO_MIN(height, INT_MAX);
    yolo_status status = codec_check_size(file, header, error);
    while (status == YOLO_OK) {
        length = cur_be(c, 4);
        type = cur_be(c, 4);
        if (!c->failed && type == 0x49444154) break;
        const uint8_t *chunk = cur_take(c, length);
        cur_take(c, 4);
        if (c->failed || type == 0x49454e44) return codec_damaged(file, error, "PNG without picture data");
        if (type == 0x65584966) header->orientation = codec_exif_orientation(chunk, (size_t)length); /* eXIf */
    }
    return status;
}

/* The compressed data of all IDAT chunks, joined; *palette is the PLTE chunk's, or NULL. */
static yolo_status codec_png_gather(codec_file *file, uint8_t **joined, size_t *size, const uint8_t **palette, int *colours, yolo_error *error) {
    cur *c = &file->bytes;
    *size = 0;
    *palette = NULL;
    *colours = 0;
    *joined = mem_alloc(c->size);
    if (!*joined) return err_memory(error, c->size);
    cur_seek(c, 33);
    for (;;) {
        uint64_t length = cur_be(c, 4), type = cur_be(c, 4);
        const uint8_t *chunk = cur_take(c, length);
        cur_take(c, 4);
        if (c->failed) return codec_damaged(file, error, "PNG is cut short");
        if (type == 0x49454e44) return YOLO_OK;
        if (type == 0x504c5445) {
            *palette = chunk;
            *colours = (int)YOLO_MIN(length / 3, 256);
        } else if (type == 0x49444154) {
            memcpy(*joined + *size, chunk, (size_t)length);
            *size += (size_t)length;
        }
    }
}

static size_t codec_png_row(const codec_header *header, int width) {
    return ((size_t)width * (size_t)(header->channels * header->depth) + 7) / 8;
}

static int codec_paeth(int a, int b, int c) {
    int near_a = abs(b - c), near_b = abs(a - c), near_c = abs(a + b - 2 * c);
    return near_a <= near_b && near_a <= near_c ? a : near_b <= near_c ? b : c;
}

/* Undoes the filter of one row in place. `above` is the row before, NULL for the first; `step` is the bytes of a pixel. */
static bool codec_png_unfilter(int filter, uint8_t *row, const uint8_t *above, size_t size, size_t step) {
    if (filter > 4) return false;
    if (!above) { /* an imagined row of zeros */
        if (filter == 2) filter = 0;
        if (filter == 4) filter = 1;
    }
    if (filter == 1)
        for (size_t i = step; i < size; i++) row[i] = (uint8_t)(row[i] + row[i - step]);
    if (filter == 2)
        for (size_t i = 0; i < size; i++) row[i] = (uint8_t)(row[i] + above[i]);
    if (filter == 3)
        for (size_t i = 0; i < size; i++)
            row[i] = (uint8_t)(row[i] + (((i >= step ? row[i - step] : 0) + (above ? above[i] : 0)) >> 1));
    if (filter == 4)
        for (size_t i = 0; i < size; i++) {
            int a = i >= step ? row[i - step] : 0, c = i >= step ? above[i - step] : 0;
            row[i] = (uint8_t)(row[i] + codec_paeth(a, above[i], c));
        }
    return true;
}

/* One row of samples to RGB pixels `apart` bytes from one another. A colour outside the palette is black. */
static void codec_png_expand(const codec_header *header, const uint8_t *row, int width, const uint8_t *palette, int colours,
                             uint8_t *out, size_t apart) {
    int depth = header->depth, step = header->channels * (depth / 8), wide = depth / 8;
    for (int x = 0; x < width; x++, out += apart) {
        const uint8_t *p = row + (size_t)x * (size_t)step;
        if (depth < 8) {
            int bit = x * depth, value = row[bit >> 3] >> (8 - depth - (bit & 7)) & ((1 << depth) - 1);
            if (header->colour == 3) for (int c = 0; c < 3; c++) out[c] = value < colours ? palette[value * 3 + c] : 0;
            else out[0] = out[1] = out[2] = (uint8_t)(value * 255 / ((1 << depth) - 1));
        } else if (header->colour == 3)
            for (int c = 0; c < 3; c++) out[c] = *p < colours ? palette[*p * 3 + c] : 0;
        else
            for (int c = 0; c < 3; c++) {
                const uint8_t *sample = p + (header->channels >= 3 ? c * wide : 0);
                out[c] = depth == 8 ? *sample : (uint8_t)(((sample[0] << 8 | sample[1]) * 255 + 32895) >> 16);
            }
    }
}

/* Where the pixels of an interlaced picture's seven passes lie: first column and row, distance of columns and rows. */
static const uint8_t codec_png_passes[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

/* Rows and columns of a pass; pass -1 is the whole picture. */
static void codec_png_pass(const codec_header *header, int pass, int *width, int *height) {
    const uint8_t *p = codec_png_passes[YOLO_MAX(pass, 0)];
    *width = pass < 0 ? header->width : (header->width - p[0] + p[2] - 1) / p[2];
    *height = pass < 0 ? header->height : (header->height - p[1] + p[3] - 1) / p[3];
    if (!*width) *height = 0;
}

/* Unfilters and spreads the inflated rows into the picture. */
static yolo_status codec_png_rows(const codec_file *file, const codec_header *header, uint8_t *raw, const uint8_t *palette,
                                  int colours, yolo_image *image, yolo_error *error) {
    size_t step = (size_t)YOLO_MAX(1, header->channels * header->depth / 8);
    for (int pass = header->interlaced ? 0 : -1; pass < (header->interlaced ? 7 : 0); pass++) {
        const uint8_t whole[4] = {0, 0, 1, 1}, *p = pass < 0 ? whole : codec_png_passes[pass], *above = NULL;
        int width, height;
        codec_png_pass(header, pass, &width, &height);
        size_t size = codec_png_row(header, width);
        for (int y = 0; y < height; y++, raw += size + 1) {
            if (!codec_png_unfilter(raw[0], raw + 1, above, size, step))
                return err_set(error, YOLO_ERROR_FORMAT, "%s: PNG row %d has filter %d, expected 0 to 4", file->path, y, raw[0]);
            above = raw + 1;
            uint8_t *out = image->pixels + ((size_t)(p[1] + y * p[3]) * (size_t)image->width + p[0]) * 3;
            codec_png_expand(header, above, width, palette, colours, out, (size_t)p[2] * 3);
        }
    }
    return YOLO_OK;
}

static yolo_status codec_png_load(codec_file *file, const codec_header *header, yolo_image *image, yolo_error *error) {
    uint64_t size = 0;
    for (int pass = header->interlaced ? 0 : -1; pass < (header->interlaced ? 7 : 0); pass++) {
        int width, height;
        codec_png_pass(header, pass, &width, &height);
        size += (uint64_t)height * (codec_png_row(header, width) + 1);
    }
    if (size > INT_MAX) return err_memory(error, size);
    uint8_t *joined, *raw = NULL;
    const uint8_t *palette;
    size_t packed;
    int colours;
    yolo_status status = codec_png_gather(file, &joined, &packed, &palette, &colours, error);
    image->width = header->width;
    image->height = header->height;
    if (status == YOLO_OK && header->colour == 3 && !palette) status = codec_damaged(file, error, "PNG without its palette");
    if (status == YOLO_OK && size / 1040 > packed) /* deflate packs 1032 to 1 at the very best */
        status = codec_damaged(file, error, "%d x %d pixels claimed, too many for %llu bytes of data", header->width,
                               header->height, (unsigned long long)packed);
    if (status == YOLO_OK && (!(raw = mem_alloc((size_t)size)) ||
                              !(image->pixels = mem_alloc((size_t)header->width * (size_t)header->height * 3))))
        status = err_memory(error, size + (uint64_t)header->width * (uint64_t)header->height * 3);
    if (status == YOLO_OK) {
        int got = stbi_zlib_decode_buffer((char *)raw, (int)size, (const char *)joined, (int)packed);
        if (got != (int)size)
            status = err_set(error, YOLO_ERROR_FORMAT, "%s: damaged PNG data: %s", file->path,
                             got < 0 ? stbi_failure_reason() : "fewer rows than the picture has");
    }
    if (status == YOLO_OK) status = codec_png_rows(file, header, raw, palette, colours, image, error);
    mem_free(joined);
    mem_free(raw);
    return status;
}

static yolo_status codec_bmp_header(codec_file *file, codec_header *header, yolo_error *error) {
    cur *c = &file->bytes;
    cur_seek(c, 10);
    header->data = (size_t)cur_le(c, 4);
    uint64_t size = cur_le(c, 4);
    int64_t width = size == 12 ? (int64_t)cur_le(c, 2) : (int32_t)cur_le(c, 4);
    int64_t height = size == 12 ? (int64_t)cur_le(c, 2) : (int32_t)cur_le(c, 4);
    cur_take(c, 2);
    header->depth = (int)cur_le(c, 2);
    uint64_t packing = size == 12 ? 0 : cur_le(c, 4);
    if (c->failed) return codec_damaged(file, error, "BMP header cut short");
    if (size != 12 && size != 40 && size != 56 && size != 108 && size != 124)
        return codec_damaged(file, error, "BMP header of %llu bytes", (unsigned long long)size);
    if (packing == 1 || packing == 2)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: run-length packed BMP is not supported; convert it to PNG", file->path);
    int depth = header->depth;
    if (depth != 1 && depth != 4 && depth != 8 && depth != 16 && depth != 24 && depth != 32)
        return codec_damaged(file, error, "BMP of %d bits a pixel", depth);
    header->width = width > 0 && width < INT_MAX ? (int)width : 0;
    header->height = height > -INT_MAX && height < INT_MAX ? abs((int)height) : 0; /* negative: rows top down */
    return codec_check_size(file, header, error);
}

static yolo_status codec_bmp_load(codec_file *file, const codec_header *header, yolo_image *image, yolo_error *error) {
    uint64_t row = ((uint64_t)header->width * (uint64_t)header->depth + 31) / 32 * 4;
    uint64_t size = file->bytes.size, wanted = row * (uint64_t)header->height;
    if (header->data > size || size - header->data + 3 < wanted) { /* some writers leave the last row unpadded */
        cur_seek(&file->bytes, size);
        return codec_damaged(file, error, "BMP is cut short: %llu bytes of pixels expected from byte %llu on",
                             (unsigned long long)wanted, (unsigned long long)header->data);
    }
    int width = 0, height = 0, channels;
    uint8_t *pixels = stbi_load_from_memory(file->bytes.bytes, (int)size, &width, &height, &channels, 3);
    return codec_take_stb(file, width, height, pixels, image, error);
}

typedef struct codec_format {
    const char *name, *magic;
    int magic_size;
    yolo_status (*header)(codec_file *file, codec_header *header, yolo_error *error);
    yolo_status (*load)(codec_file *file, const codec_header *header, yolo_image *image, yolo_error *error);
} codec_format;

static const codec_format codec_formats[] = {
    {"JPEG", "\xff\xd8\xff", 3, codec_jpeg_header, codec_jpeg_load},
    {"PNG", "\x89PNG\r\n\x1a\n", 8, codec_png_header, codec_png_load},
    {"BMP", "BM", 2, codec_bmp_header, codec_bmp_load},
    {"TIFF", "II*\0", 4, NULL, NULL}, {"TIFF", "MM\0*", 4, NULL, NULL},
    {"TIFF", "II+\0", 4, NULL, NULL}, {"TIFF", "MM\0+", 4, NULL, NULL},
    {"WebP", "RIFF", 4, NULL, NULL}, {"GIF", "GIF8", 4, NULL, NULL},
};

/* Finds the format and reads the header. */
static yolo_status codec_begin(codec_file *file, const codec_format **format, codec_header *header, yolo_error *error) {
    const cur *c = &file->bytes;
    *header = (codec_header){.orientation = 1};
    *format = NULL;
    if (!c->size) return err_set(error, YOLO_ERROR_FORMAT, "%s: the file is empty", file->path);
    for (int i = 0; i < YOLO_COUNT(codec_formats); i++) {
        *format = &codec_formats[i];
        if (c->size < (size_t)(*format)->magic_size || memcmp(c->bytes, (*format)->magic, (size_t)(*format)->magic_size)) continue;
        if (!(*format)->header) break;
        return (*format)->header(file, header, error);
    }
    const char *extension = path_extension(file->path), *name = NULL;
    if (!(*format)->header && c->size >= 4 && !memcmp(c->bytes, (*format)->magic, 4)) name = (*format)->name;
    else if (str_equal_fold(extension, ".webp")) name = "WebP";
    else if (str_equal_fold(extension, ".tif") || str_equal_fold(extension, ".tiff")) name = "TIFF";
    if (name)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: %s is not supported yet by this version; convert it to JPEG or PNG", file->path, name);
    return err_set(error, YOLO_ERROR_FORMAT, "%s: not a picture: begins with bytes %02x %02x, expected JPEG, PNG or BMP",
                   file->path, c->bytes[0], c->size > 1 ? c->bytes[1] : 0);
}

/* Turns and mirrors the picture as EXIF says it is to be seen. Its pixels are replaced. */
static yolo_status codec_orient(yolo_image *image, int orientation, yolo_error *error) {
    if (orientation < 2) return YOLO_OK;
    int w = image->width, h = image->height;
    bool turned = orientation >= 5, from_right = orientation == 2 || orientation == 3 || orientation >= 7;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    yolo_image out = {mem_alloc((size_t)w * (size_t)h * 3), turned ? h : w, turned ? w : h};
    if (!out.pixels) return err_memory(error, (uint64_t)w * (uint64_t)h * 3);
    ptrdiff_t along_x = from_right ? -3 : 3, along_y = (ptrdiff_t)w * (from_bottom ? -3 : 3);
    const uint8_t *start = image->pixels + (from_right ? (size_t)(w - 1) * 3 : 0) + (from_bottom ? (size_t)(h - 1) * (size_t)w * 3 : 0);
    ptrdiff_t step = turned ? along_y : along_x, row = turned ? along_x : along_y;
    uint8_t *to = out.pixels;
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++, to += 3) memcpy(to, start + y * row + x * step, 3);
    mem_free(image->pixels);
    *image = out;
    return YOLO_OK;
}

/* Decodes a picture; `path` is for messages. On error *image is left empty. */
static yolo_status codec_read_memory(const char *path, const uint8_t *bytes, size_t size, yolo_image *image, yolo_error *error) {
    codec_file file = {path, cur_make(bytes, size)};
    const codec_format *format;
    codec_header header;
    *image = (yolo_image){0};
    yolo_status status = codec_begin(&file, &format, &header, error);
    if (status == YOLO_OK) status = format->load(&file, &header, image, error);
    if (status == YOLO_OK) status = codec_orient(image, header.orientation, error);
    if (status != YOLO_OK) {
        mem_free(image->pixels);
        *image = (yolo_image){0};
    }
    return status;
}

static yolo_status codec_read(const char *path, yolo_image *image, yolo_error *error) {
    uint8_t *bytes;
    size_t size;
    *image = (yolo_image){0};
    yolo_status status = path_read(path, CODEC_MAX_FILE, &bytes, &size, error);
    if (status != YOLO_OK) return status;
    status = codec_read_memory(path, bytes, size, image, error);
    mem_free(bytes);
    return status;
}

/* The size that the header among the first bytes of a file tells. */
static yolo_status codec_size_memory(const char *path, const uint8_t *bytes, size_t size, int *width, int *height, yolo_error *error) {
    codec_file file = {path, cur_make(bytes, size)};
    const codec_format *format;
    codec_header header;
    yolo_status status = codec_begin(&file, &format, &header, error);
    *width = header.orientation >= 5 ? header.height : header.width;
    *height = header.orientation >= 5 ? header.width : header.height;
    return status;
}

enum { CODEC_HEAD = 65536 };

/* The size a picture will have when read, from its header alone: the first bytes do, but for a long preface or damage. */
static yolo_status codec_size(const char *path, int *width, int *height, yolo_error *error) {
    uint8_t *bytes = mem_alloc(CODEC_HEAD);
    if (!bytes) return err_memory(error, CODEC_HEAD);
    FILE *file = os_open(path, "rb");
    size_t size = file ? fread(bytes, 1, CODEC_HEAD, file) : 0;
    yolo_status status = size ? codec_size_memory(path, bytes, size, width, height, NULL) : YOLO_ERROR_IO;
    if (file) fclose(file);
    mem_free(bytes);
    if (status == YOLO_OK || (status = path_read(path, CODEC_MAX_FILE, &bytes, &size, error)) != YOLO_OK) return status;
    status = codec_size_memory(path, bytes, size, width, height, error);
    mem_free(bytes);
    return status;
}

/* Where compressed bits go; the room is made for the worst case, so writing cannot fail. */
typedef struct codec_bits { uint8_t *out; size_t size; uint64_t pending; int count; } codec_bits;

static void codec_put(codec_bits *b, int value, int count) {
    b->pending |= (uint64_t)(uint32_t)value << b->count;
    for (b->count += count; b->count >= 8; b->count -= 8, b->pending >>= 8) b->out[b->size++] = (uint8_t)b->pending;
}

/* A Huffman code goes out from its highest bit on. */
static void codec_put_code(codec_bits *b, int code, int count) {
    int reversed = 0;
    for (int i = 0; i < count; i++) reversed |= (code >> i & 1) << (count - 1 - i);
    codec_put(b, reversed, count);
}

/* The fixed code of RFC 1951, 3.2.6. */
static void codec_put_symbol(codec_bits *b, int symbol) {
    if (symbol < 144) codec_put_code(b, symbol + 0x30, 8);
    else if (symbol < 256) codec_put_code(b, symbol - 144 + 0x190, 9);
    else if (symbol < 280) codec_put_code(b, symbol - 256, 7);
    else codec_put_code(b, symbol - 280 + 0xc0, 8);
}

/* A copy of 3..257 bytes from 1..32768 back: RFC 1951, 3.2.5 as arithmetic. */
static void codec_put_copy(codec_bits *b, int length, int distance) {
    int value = length - 3, extra = 0;
    while (value >> extra >= 8) extra++;
    codec_put_symbol(b, 257 + (value >> extra) + 4 * extra);
    codec_put(b, value & ((1 << extra) - 1), extra);
    for (value = distance - 1, extra = 0; value >> extra >= 4;) extra++;
    codec_put_code(b, (value >> extra) + 2 * extra, 5);
    codec_put(b, value & ((1 << extra) - 1), extra);
}

enum { CODEC_HASH_BITS = 15 };

/* A zlib stream of one block: the last place with the same four bytes is copied from, the rest goes as it is. `out`
   has room for 9/8 of the size and 64 more; `last` holds 1 << CODEC_HASH_BITS places, zeroed. */
static size_t codec_deflate(uint8_t *out, const uint8_t *bytes, size_t size, uint32_t *last) {
    codec_bits b = {.out = out};
    codec_put(&b, 0x0178, 16);
    codec_put(&b, 3, 3); /* last block, fixed code */
    for (size_t at = 0, length; at < size; at += length) {
        length = 1;
        if (size - at >= 4) {
            uint32_t four;
            memcpy(&four, bytes + at, 4);
            uint32_t *slot = &last[four * 2654435761u >> (32 - CODEC_HASH_BITS)], from = *slot; /* 0 = none, else place + 1 */
            *slot = (uint32_t)at + 1;
            if (from && at - (from - 1) <= 32768 && !memcmp(bytes + from - 1, bytes + at, 4))
                for (length = 4; length < 257 && at + length < size && bytes[from - 1 + length] == bytes[at + length];) length++;
            if (length > 1) codec_put_copy(&b, (int)length, (int)(at - (from - 1)));
        }
        if (length == 1) codec_put_symbol(&b, bytes[at]);
    }
    codec_put_symbol(&b, 256);
    codec_put(&b, 0, (8 - b.count) & 7);
    uint32_t low = 1, high = 0; /* Adler-32 */
    for (size_t i = 0; i < size; i++) {
        low += bytes[i];
        high += low;
        if (i % 5552 == 5551) low %= 65521, high %= 65521;
    }
    low %= 65521, high %= 65521;
    codec_put(&b, (int)(high >> 8 | (high & 255) << 8), 16);
    codec_put(&b, (int)(low >> 8 | (low & 255) << 8), 16);
    return b.size;
}

/* Filters one RGB row into out: its filter's number, then the differences. Of left, above and Paeth, the one with
   the smallest differences. */
static void codec_png_filter(uint8_t *out, const uint8_t *row, const uint8_t *above, size_t size) {
    uint64_t sums[5] = {0};
    int best = 1;
    for (int pass = 0; pass < 2; pass++) {
        for (int filter = pass ? best : 1; filter <= (pass ? best : 4); filter += filter == 2 ? 2 : 1)
            for (size_t i = 0; i < size; i++) {
                int a = i >= 3 ? row[i - 3] : 0, b = above[i], c = i >= 3 ? above[i - 3] : 0;
                int guess = filter == 1 ? a : filter == 2 ? b : codec_paeth(a, b, c);
                uint8_t rest = (uint8_t)(row[i] - guess);
                if (pass) out[i + 1] = rest;
                else sums[filter] += (uint64_t)(rest < 128 ? rest : 256 - rest);
            }
        for (int filter = 2; !pass && filter <= 4; filter += 2)
            if (sums[filter] < sums[best]) best = filter;
    }
    out[0] = (uint8_t)best;
}

static void codec_png_chunk(str *out, const char type[4], const void *bytes, size_t size) {
    uint8_t word[4] = {(uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
    str_append(out, (const char *)word, 4);
    int64_t start = out->length;
    str_append(out, type, 4);
    str_append(out, bytes, size);
    if (out->failed) return;
    uint32_t sum = stbiw__crc32((unsigned char *)out->text + start, (int)size + 4);
    for (int i = 0; i < 4; i++) word[i] = (uint8_t)(sum >> (24 - 8 * i));
    str_append(out, (const char *)word, 4);
}

static bool codec_png_write(str *out, const yolo_image *image) {
    size_t row = (size_t)image->width * 3, size = (row + 1) * (size_t)image->height;
    uint8_t *filtered = mem_alloc(size), *packed = mem_alloc(size + size / 8 + 64), *zeros = mem_array(row, 1);
    uint32_t *last = mem_array((uint64_t)1 << CODEC_HASH_BITS, sizeof *last);
    bool good = filtered && packed && zeros && last;
    if (good) {
        for (int y = 0; y < image->height; y++) {
            const uint8_t *pixels = image->pixels + row * (size_t)y;
            codec_png_filter(filtered + (row + 1) * (size_t)y, pixels, y ? pixels - row : zeros, row);
        }
        uint8_t head[13] = {(uint8_t)(image->width >> 24), (uint8_t)(image->width >> 16), (uint8_t)(image->width >> 8), (uint8_t)image->width,
                            (uint8_t)(image->height >> 24), (uint8_t)(image->height >> 16), (uint8_t)(image->height >> 8),
                            (uint8_t)image->height, 8, 2, 0, 0, 0};
        str_append(out, "\x89PNG\r\n\x1a\n", 8);
        codec_png_chunk(out, "IHDR", head, sizeof head);
        codec_png_chunk(out, "IDAT", packed, codec_deflate(packed, filtered, size, last));
        codec_png_chunk(out, "IEND", NULL, 0);
    }
    mem_free(filtered);
    mem_free(packed);
    mem_free(zeros);
    mem_free(last);
    return good && !out->failed;
}

static void codec_sink(void *out, void *bytes, int size) { str_append(out, bytes, (size_t)size); }

/* By extension: .jpg .jpeg (quality 95) or .png. */
static yolo_status codec_write(const char *path, const yolo_image *image, yolo_error *error) {
    const char *extension = path_extension(path);
    bool jpeg = str_equal_fold(extension, ".jpg") || str_equal_fold(extension, ".jpeg");
    if (!jpeg && !str_equal_fold(extension, ".png"))
        return err_set(error, YOLO_ERROR_USAGE, "%s: pictures are written as .jpg or .png", path);
    str out = {0};
    bool made = jpeg ? stbi_write_jpg_to_func(codec_sink, &out, image->width, image->height, 3, image->pixels, 95)
                     : codec_png_write(&out, image);
    yolo_status status = made && !out.failed ? path_write(path, out.text, (size_t)out.length, false, error)
                                             : err_memory(error, (uint64_t)image->width * (uint64_t)image->height * 3);
    str_free(&out);
    return status;
}

/* Does the name say that a file is a picture? */
static bool codec_is_picture_name(const char *path) {
    static const char *const extensions[] = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"};
    for (int i = 0; i < YOLO_COUNT(extensions); i++)
        if (str_equal_fold(path_extension(path), extensions[i])) return true;
    return false;
}

/* ==== 9 yaml_ lbl_ data_: dataset text ==========================================================================
   Text written by people and by other programs: every complaint carries file and line. Numbers are read and written
   with a point whatever the locale. Lists of pictures are sorted bytewise by path, so an order depends on names alone.
   Nothing here recurses, and nothing is written but by lbl_write. */

typedef struct lbl_box { int class_id; double x, y, w, h; } lbl_box; /* centre and size, normalised to 0..1 */
typedef struct lbl_list { lbl_box *items; int64_t count, capacity; int64_t bad_lines, duplicates; bool missing; } lbl_list;

enum { DATA_PATH_SIZE = 4096 };

typedef struct data_list { /* pictures in the order a run visits them */
    char **paths;
    int64_t count, capacity;
    int64_t unreadable;             /* folders that could not be read */
    char complaint[DATA_PATH_SIZE]; /* why the list is empty, or which folder first could not be read; "" = all is well */
    arena memory;                   /* holds the paths */
} data_list;

typedef struct data_set { /* a data.yaml */
    char *root;               /* folder the relative paths start from */
    int class_count;
    char **names;             /* class_count of them */
    data_list train, val, test;
    arena memory;             /* holds root and names */
} data_set;

/* The subset of YAML 1.1 that data sets, model descriptions and arguments are written in: block and flow
   collections, every scalar style, PyYAML's typing of plain scalars. No anchors, aliases, tags, explicit keys,
   dates (they stay text) or second documents. Nesting lives on an explicit stack. */
enum { YAML_MAX_DEPTH = 100, YAML_WIDTH = 80 };

typedef struct yaml_frame { /* an open collection */
    val *container, *key;   /* key: of a map, its value not read yet */
    int indent;             /* column of a block collection's entries */
    bool flow, pair;        /* pair: the map without braces in [a: b] */
    bool waiting;           /* block list: the dash was read. Flow: an entry may begin here */
    bool colon;             /* flow map: so was the key's ':' */
} yaml_frame;

typedef struct yaml_parser {
    arena *memory;
    const char *path, *at, *end, *line_start;
    int line;
    bool fresh, compact;    /* the next token is the first of its line, or follows a dash */
    bool started;           /* --- was read */
    val *root;
    yaml_frame frames[YAML_MAX_DEPTH];
    int depth;
    str scratch;            /* the scalar being read */
    yolo_status status;
    yolo_error *error;
} yaml_parser;

static bool yaml_is_blank(char c) { return c == ' ' || c == '\t'; }
static bool yaml_is_break(char c) { return c == '\n' || c == '\r'; }
static char yaml_peek(const yaml_parser *p, int ahead) { return p->end - p->at > ahead ? p->at[ahead] : 0; }
static int yaml_column(const yaml_parser *p) { return (int)(p->at - p->line_start); }
static yaml_frame *yaml_top(yaml_parser *p) { return p->depth ? &p->frames[p->depth - 1] : NULL; }

/* Is the character after `ahead` others white, or the end? */
static bool yaml_ends(const yaml_parser *p, int ahead) {
    char c = yaml_peek(p, ahead);
    return p->end - p->at <= ahead || yaml_is_blank(c) || yaml_is_break(c);
}
static bool yaml_is_flow_mark(char c) { return c == ',' || c == '[' || c == ']' || c == '{' || c == '}'; }

YOLO_PRINTF(3, 4)
static void yaml_fail(yaml_parser *p, int line, const char *format, ...) {
    char text[600];
    va_list arguments;
    if (p->status != YOLO_OK) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    p->status = err_set(p->error, YOLO_ERROR_FORMAT, "%s:%d: %s", p->path, line, text);
}

static void yaml_fail_memory(yaml_parser *p) {
    if (p->status == YOLO_OK) p->status = err_memory(p->error, 65536);
}

/* What lies at the reading position, for messages. */
static const char *yaml_found(const yaml_parser *p, char text[24]) {
    unsigned char c = (unsigned char)yaml_peek(p, 0);
    int length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (p->at >= p->end) snprintf(text, 24, "the end of the file");
    else if (yaml_is_break((char)c)) snprintf(text, 24, "the end of the line");
    else if (c == '\t') snprintf(text, 24, "a tab");
    else snprintf(text, 24, "'%.*s'", length, p->at);
    return text;
}

/* Consumes LF, CR LF or CR. */
static void yaml_break(yaml_parser *p) {
    if (yaml_peek(p, 0) == '\r' && yaml_peek(p, 1) == '\n') p->at++;
    p->at++;
    p->line++;
    p->line_start = p->at;
}

static void yaml_skip_blanks(yaml_parser *p) {
    while (p->at < p->end && yaml_is_blank(*p->at)) p->at++;
}

static bool yaml_at_comment(const yaml_parser *p) {
    return yaml_peek(p, 0) == '#' && (p->at == p->line_start || yaml_is_blank(p->at[-1]));
}

static void yaml_skip_comment(yaml_parser *p) {
    if (yaml_at_comment(p))
        while (p->at < p->end && !yaml_is_break(*p->at)) p->at++;
}

/* "---" or "..." that stand alone at the start of a line. */
static bool yaml_at_marker(const yaml_parser *p) {
    return p->at == p->line_start && p->end - p->at >= 3 && (!memcmp(p->at, "---", 3) || !memcmp(p->at, "...", 3)) && yaml_ends(p, 3);
}
static bool yaml_at_dash(const yaml_parser *p) { return yaml_peek(p, 0) == '-' && yaml_ends(p, 1); }

/* To the next token, over blanks, comments and empty lines. */
static void yaml_skip(yaml_parser *p) {
    for (;;) {
        const char *from = p->at;
        yaml_skip_blanks(p);
        yaml_skip_comment(p);
        if (p->at < p->end && yaml_is_break(*p->at)) {
            yaml_break(p);
            p->fresh = true;
            p->compact = false;
            continue;
        }
        if (p->fresh && p->at < p->end && !(p->depth && yaml_top(p)->flow) && memchr(from, '\t', (size_t)(p->at - from)))
            yaml_fail(p, p->line, "found a tab in the indentation, expected spaces");
        return;
    }
}

static void yaml_expect_line_end(yaml_parser *p) {
    char found[24];
    yaml_skip_blanks(p);
    if (p->at < p->end && !yaml_is_break(*p->at) && !yaml_at_comment(p))
        yaml_fail(p, p->line, "found %s after a value, expected the end of the line", yaml_found(p, found));
}

/* ---- scalars */

/* Do the characters of s[from..n) belong to `set`, and is there one at least? */
static bool yaml_all_of(const char *s, size_t from, size_t n, const char *set) {
    for (size_t i = from; i < n; i++)
        if (!s[i] || !strchr(set, s[i])) return false;
    return from < n;
}

/* [0-9][0-9_]* (:[0-5]?[0-9])+ up to n: the base-60 numbers of YAML 1.1. */
static bool yaml_is_base60(const char *s, size_t n) {
    size_t i = 0, groups = 0;
    while (i < n && (isdigit((unsigned char)s[i]) || (i && s[i] == '_'))) i++;
    if (!i) return false;
    while (i < n && s[i] == ':') {
        size_t digits = 0;
        while (i + 1 + digits < n && digits < 3 && isdigit((unsigned char)s[i + 1 + digits])) digits++;
        if (!digits || digits > 2 || (digits == 2 && s[i + 1] > '5')) return false;
        i += 1 + digits;
        groups++;
    }
    return i == n && groups;
}

/* REF PyYAML resolver.py: VAL_INT, VAL_FLOAT or VAL_STRING for a plain scalar. 1e-3 and -.5 are text there. */
static val_kind yaml_number_kind(const char *s, size_t n) {
    size_t sign = n && (s[0] == '-' || s[0] == '+');
    const char *b = s + sign;
    size_t m = n - sign, i = 0;
    if (!m) return VAL_STRING;
    if (m == 4 && b[0] == '.' && (!memcmp(b + 1, "inf", 3) || !memcmp(b + 1, "Inf", 3) || !memcmp(b + 1, "INF", 3))) return VAL_FLOAT;
    if (n == 4 && (!memcmp(s, ".nan", 4) || !memcmp(s, ".NaN", 4) || !memcmp(s, ".NAN", 4))) return VAL_FLOAT;
    if (m > 2 && b[0] == '0' && b[1] == 'b' && yaml_all_of(b, 2, m, "01_")) return VAL_INT;
    if (m > 2 && b[0] == '0' && b[1] == 'x' && yaml_all_of(b, 2, m, "0123456789abcdefABCDEF_")) return VAL_INT;
    if (b[0] == '0' && (m == 1 || yaml_all_of(b, 1, m, "01234567_"))) return VAL_INT;
    if (b[0] >= '1' && b[0] <= '9' && yaml_all_of(b, 0, m, "0123456789_")) return VAL_INT;
    if (b[0] >= '1' && b[0] <= '9' && yaml_is_base60(b, m)) return VAL_INT;
    const char *dot = memchr(b, '.', m);
    if (!dot) return VAL_STRING;
    size_t whole = (size_t)(dot - b);
    if (whole && yaml_is_base60(b, whole) && (whole + 1 == m || yaml_all_of(b, whole + 1, m, "0123456789_"))) return VAL_FLOAT;
    if (whole ? !isdigit((unsigned char)b[0]) || !yaml_all_of(b, 0, whole, "0123456789_") : sign || m < 2 || !isdigit((unsigned char)b[1]))
        return VAL_STRING;
    for (i = whole + 1; i < m && (isdigit((unsigned char)b[i]) || b[i] == '_');) i++;
    if (i == m) return VAL_FLOAT;
    bool exponent = (b[i] == 'e' || b[i] == 'E') && i + 2 < m && (b[i + 1] == '+' || b[i + 1] == '-');
    return exponent && yaml_all_of(b, i + 2, m, "0123456789") ? VAL_FLOAT : VAL_STRING;
}

/* The whole number of digits in `base` or groups in base 60; a float where 63 bits do not hold it. */
static val *yaml_integer(arena *a, const char *s, size_t n) {
    bool negative = n && s[0] == '-', wide = false;
    size_t i = n && (s[0] == '-' || s[0] == '+');
    int base = 10;
    if (n - i > 1 && s[i] == '0') {
        base = s[i + 1] == 'b' ? 2 : s[i + 1] == 'x' ? 16 : 8;
        i += base == 8 ? 1 : 2;
    }
    uint64_t value = 0, group = 0;
    double number = 0, number_group = 0;
    for (; i <= n; i++) {
        if (i == n || s[i] == ':') {
            if (value > (uint64_t)INT64_MAX / 64) wide = i < n || value + group > INT64_MAX || wide;
            value = value * (memchr(s, ':', n) ? 60 : 1) + group;
            number = number * (memchr(s, ':', n) ? 60 : 1) + number_group;
            group = 0;
            number_group = 0;
        } else if (s[i] != '_') {
            int digit = s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10;
            if (group > ((uint64_t)INT64_MAX - (uint64_t)digit) / (uint64_t)base) wide = true;
            group = group * (uint64_t)base + (uint64_t)digit;
            number_group = number_group * base + digit;
        }
    }
    if (wide) return val_float(a, negative ? -number : number);
    return val_int(a, negative ? -(int64_t)value : (int64_t)value);
}

static val *yaml_float(arena *a, const char *s, size_t n) {
    size_t i = s[0] == '-' || s[0] == '+', length = 0;
    double sign = s[0] == '-' ? -1 : 1, number = 0, part = 0;
    char clean[400];
    if (s[i] == '.' && (s[i + 1] | 32) == 'i') return val_float(a, sign * HUGE_VAL);
    if (s[i] == '.' && (s[i + 1] | 32) == 'n') return val_float(a, (double)NAN);
    for (; i <= n; i++) {
        if (i < n && s[i] != ':') {
            if (s[i] != '_' && length < sizeof clean) clean[length++] = s[i];
            continue;
        }
        if (length == sizeof clean || !str_to_number(clean, length, &part)) return val_string(a, s, n);
        number = number * 60 + part;
        length = 0;
    }
    return val_float(a, sign * number);
}

/* A plain scalar by PyYAML's rules. */
static val *yaml_resolve(arena *a, const char *s, size_t n) {
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"};
    static const char *const null[] = {"", "~", "null", "Null", "NULL"};
    for (int i = 0; n <= 5 && i < YOLO_COUNT(yes); i++) {
        if (n == strlen(yes[i]) && !memcmp(s, yes[i], n)) return val_bool(a, true);
        if (n == strlen(no[i]) && !memcmp(s, no[i], n)) return val_bool(a, false);
    }
    for (int i = 0; n <= 4 && i < YOLO_COUNT(null); i++)
        if (n == strlen(null[i]) && !memcmp(s, null[i], n)) return val_new(a, VAL_NULL);
    val_kind kind = yaml_number_kind(s, n);
    return kind == VAL_INT ? yaml_integer(a, s, n) : kind == VAL_FLOAT ? yaml_float(a, s, n) : val_string(a, s, n);
}

/* Line breaks within a scalar: one is a space, n are n - 1 newlines. */
static void yaml_fold(yaml_parser *p, int breaks) {
    if (breaks == 1) str_append(&p->scratch, " ", 1);
    for (int i = 1; i < breaks; i++) str_append(&p->scratch, "\n", 1);
}

/* A plain scalar inside a block collection whose entries stand in column `outer`, or in a flow collection. Stops
   behind its last character. */
static val *yaml_plain(yaml_parser *p, int outer, bool flow) {
    for (;;) {
        const char *start = p->at, *last = p->at, *line_start = p->line_start;
        int line = p->line, breaks = 0;
        while (p->at < p->end && !yaml_is_break(*p->at)) {
            char c = *p->at;
            if (c == ':' && (yaml_ends(p, 1) || (flow && yaml_is_flow_mark(yaml_peek(p, 1))))) break;
            if ((flow && yaml_is_flow_mark(c)) || (c == '#' && p->at > start && yaml_is_blank(p->at[-1]))) break;
            p->at++;
            if (!yaml_is_blank(c)) last = p->at;
        }
        str_append(&p->scratch, start, (size_t)(last - start));
        while (p->at < p->end && yaml_is_break(*p->at)) {
            yaml_break(p);
            breaks++;
            yaml_skip_blanks(p);
        }
        char c = yaml_peek(p, 0);
        bool more = breaks && p->at < p->end && c != '#' && (flow || yaml_column(p) > outer) && !yaml_at_marker(p) &&
                    !(flow && yaml_is_flow_mark(c)) && !(c == ':' && yaml_ends(p, 1));
        if (more) {
            yaml_fold(p, breaks);
            continue;
        }
        p->at = last;
        p->line = line;
        p->line_start = line_start;
        return p->scratch.failed ? NULL : yaml_resolve(p->memory, p->scratch.text ? p->scratch.text : "", (size_t)p->scratch.length);
    }
}

static void yaml_append_code_point(str *s, uint32_t c) {
    char b[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (n == 1) b[0] = (char)c;
    else {
        static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
        for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (char)(0x80 | (c & 0x3f));
        b[0] = (char)(lead[n] | c);
    }
    str_append(s, b, (size_t)n);
}

/* What follows a backslash in double quotes. */
static void yaml_escape(yaml_parser *p) {
    static const char letters[] = "0abtnvfre \"/\\N_LP\t";
    static const uint16_t values[] = {0, 7, 8, 9, 10, 11, 12, 13, 27, ' ', '"', '/', '\\', 0x85, 0xa0, 0x2028, 0x2029, 9};
    char c = yaml_peek(p, 0), found[24];
    const char *letter = c ? strchr(letters, c) : NULL;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (letter) {
        yaml_append_code_point(&p->scratch, values[letter - letters]);
        p->at++;
    } else if (yaml_is_break(c) && p->at < p->end) { /* a line joined to the next */
        yaml_break(p);
        for (yaml_skip_blanks(p); p->at < p->end && yaml_is_break(*p->at); yaml_skip_blanks(p)) {
            yaml_break(p);
            str_append(&p->scratch, "\n", 1);
        }
    } else if (digits) {
        uint32_t code = 0;
        p->at++;
        for (int i = 0; i < digits; i++, p->at++) {
            c = yaml_peek(p, 0);
            if (!isxdigit((unsigned char)c)) {
                yaml_fail(p, p->line, "found %s in an escape, expected %d hexadecimal digits", yaml_found(p, found), digits);
                return;
            }
            code = code << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
        }
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) yaml_fail(p, p->line, "found character %x in an escape, expected a Unicode one", (unsigned)code);
        else yaml_append_code_point(&p->scratch, code);
    } else yaml_fail(p, p->line, "found %s after a backslash, expected an escape", yaml_found(p, found));
}

/* A quoted scalar; stops behind the closing quote. */
static val *yaml_quoted(yaml_parser *p) {
    char quote = *p->at++;
    int line = p->line;
    while (p->status == YOLO_OK) {
        char c = yaml_peek(p, 0);
        if (p->at >= p->end || yaml_at_marker(p)) {
            yaml_fail(p, line, "found an opening %c without its partner, expected a closing %c", quote, quote);
        } else if (c == quote && quote == '\'' && yaml_peek(p, 1) == quote) {
            str_append(&p->scratch, "'", 1);
            p->at += 2;
        } else if (c == quote) {
            p->at++;
            return p->scratch.failed ? NULL : val_string(p->memory, p->scratch.text ? p->scratch.text : "", (size_t)p->scratch.length);
        } else if (c == '\\' && quote == '"') {
            p->at++;
            yaml_escape(p);
        } else if (yaml_is_blank(c) || yaml_is_break(c)) {
            const char *start = p->at;
            int breaks = 0;
            yaml_skip_blanks(p);
            size_t blanks = (size_t)(p->at - start);
            while (p->at < p->end && yaml_is_break(*p->at) && !(breaks && yaml_at_marker(p))) {
                yaml_break(p);
                breaks++;
                if (!yaml_at_marker(p)) yaml_skip_blanks(p);
            }
            if (breaks) yaml_fold(p, breaks);
            else str_append(&p->scratch, start, blanks);
        } else {
            str_append(&p->scratch, &c, 1);
            p->at++;
        }
    }
    return NULL;
}

/* A quoted or plain scalar, or NULL and a failure. */
static val *yaml_scalar(yaml_parser *p, int outer, bool flow) {
    char c = yaml_peek(p, 0), found[24];
    int line = p->line;
    val *v = NULL;
    p->scratch.length = 0;
    if (p->scratch.text) p->scratch.text[0] = 0;
    if (c == '"' || c == '\'') v = yaml_quoted(p);
    else if (c == '&' || c == '*' || c == '!')
        yaml_fail(p, line, "found '%c', expected a value (anchors, aliases and tags are not supported)", c);
    else if ((c && strchr(",[]{}#|>%@`", c)) || (c == '?' && flow) || (c && strchr("-?:", c) && yaml_ends(p, 1)) ||
             (c == ':' && flow && yaml_is_flow_mark(yaml_peek(p, 1))))
        yaml_fail(p, line, "found %s, expected a %s", yaml_found(p, found), flow ? "value" : "key or value");
    else v = yaml_plain(p, outer, flow);
    if (!v) yaml_fail_memory(p);
    else v->line = line;
    return v;
}

/* Blank lines before or within a block scalar; finds its indentation where that is not known yet. */
static int64_t yaml_block_breaks(yaml_parser *p, int outer, int *indent) {
    int64_t breaks = 0;
    int deepest = 0;
    for (;;) {
        while ((!*indent || yaml_column(p) < *indent) && yaml_peek(p, 0) == ' ') p->at++;
        deepest = YOLO_MAX(deepest, yaml_column(p));
        if (p->at >= p->end || !yaml_is_break(*p->at)) break;
        yaml_break(p);
        breaks++;
    }
    if (!*indent) *indent = YOLO_MAX(deepest, YOLO_MAX(outer + 1, 1));
    return breaks;
}

/* The lines of a | or > scalar; `chomp` -1 strips, 0 clips, 1 keeps the line breaks at its end. */
static val *yaml_block_text(yaml_parser *p, int outer, int indent, bool literal, int chomp) {
    str *s = &p->scratch;
    bool leading_blank = false, pending = false;
    int line = p->line;
    int64_t breaks = yaml_block_breaks(p, outer, &indent);
    while (p->at < p->end && yaml_column(p) == indent && !yaml_at_marker(p)) {
        bool blank = yaml_is_blank(*p->at);
        const char *start = p->at;
        if (pending && !literal && !leading_blank && !blank) {
            if (!breaks) str_append(s, " ", 1);
        } else if (pending) str_append(s, "\n", 1);
        for (; breaks > 0; breaks--) str_append(s, "\n", 1);
        leading_blank = blank;
        while (p->at < p->end && !yaml_is_break(*p->at)) p->at++;
        str_append(s, start, (size_t)(p->at - start));
        pending = p->at < p->end;
        if (pending) {
            yaml_break(p);
            breaks = yaml_block_breaks(p, outer, &indent);
        }
    }
    if (pending && chomp >= 0) str_append(s, "\n", 1);
    for (; breaks > 0 && chomp > 0; breaks--) str_append(s, "\n", 1);
    val *v = s->failed ? NULL : val_string(p->memory, s->text ? s->text : "", (size_t)s->length);
    if (!v) yaml_fail_memory(p);
    else v->line = line;
    return v;
}

static val *yaml_block_scalar(yaml_parser *p, int outer) {
    bool literal = *p->at++ == '|';
    int chomp = 0, indent = 0;
    for (int i = 0; i < 2; i++) {
        char c = yaml_peek(p, 0);
        if (c == '+' || c == '-') chomp = c == '+' ? 1 : -1;
        else if (c >= '1' && c <= '9') indent = YOLO_MAX(outer, 0) + (c - '0');
        else break;
        p->at++;
    }
    yaml_expect_line_end(p);
    yaml_skip_comment(p);
    if (p->status != YOLO_OK) return NULL;
    if (p->at < p->end) yaml_break(p);
    p->scratch.length = 0;
    if (p->scratch.text) p->scratch.text[0] = 0;
    val *v = yaml_block_text(p, outer, indent, literal, chomp);
    p->fresh = true;
    return v;
}

/* ---- collections */

/* Gives a value to whatever waits for one. */
static void yaml_attach(yaml_parser *p, val *item) {
    yaml_frame *f = yaml_top(p);
    if (p->status != YOLO_OK) return;
    if (!item) yaml_fail_memory(p);
    else if (!f) p->root = item;
    else if (!val_add(p->memory, f->container, f->key, item)) yaml_fail_memory(p);
    if (f) f->key = NULL;
    if (f) f->waiting = f->colon = false;
}

static bool yaml_push(yaml_parser *p, val_kind kind, int indent, bool flow) {
    if (p->depth == YAML_MAX_DEPTH) yaml_fail(p, p->line, "found more than %d nested collections, expected fewer", YAML_MAX_DEPTH);
    val *container = p->status == YOLO_OK ? val_new(p->memory, kind) : NULL;
    yaml_attach(p, container);
    if (p->status != YOLO_OK) return false;
    container->line = p->line;
    p->frames[p->depth++] = (yaml_frame){.container = container, .indent = indent, .flow = flow, .waiting = flow};
    return true;
}

typedef struct yaml_slot { uint64_t hash; int64_t index; } yaml_slot;

static int yaml_slot_order(const void *a, const void *b) {
    const yaml_slot *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->index < y->index ? -1 : x->index > y->index;
}

/* Keys are equal as in Python: 1, 1.0 and true are one. */
static bool yaml_key_equal(const val *a, const val *b) {
    if (val_is_number(a) && val_is_number(b)) return val_number(a, 0) == val_number(b, 0) && val_integer(a, 0) == val_integer(b, 0);
    return a->kind == b->kind && a->length == b->length && (!a->length || !memcmp(a->text, b->text, a->length));
}

static uint64_t yaml_key_hash(const val *key) {
    double number = val_number(key, 0);
    return val_is_number(key) ? hash_bytes(&number, sizeof number, 1) : hash_bytes(key->text ? key->text : "", key->length, 2);
}

/* Of equal keys the first keeps its place and gets the value of the last. */
static bool yaml_unique_keys(val *map) {
    int64_t count = map->count, kept = 0;
    yaml_slot *slots = count > 1 ? mem_array((uint64_t)count, sizeof *slots) : NULL;
    if (count <= 1) return true;
    if (!slots) return false;
    for (int64_t i = 0; i < count; i++) slots[i] = (yaml_slot){yaml_key_hash(map->keys[i]), i};
    qsort(slots, (size_t)count, sizeof *slots, yaml_slot_order);
    for (int64_t i = 0; i < count; i++) {
        if (!map->keys[slots[i].index]) continue;
        for (int64_t j = i + 1; j < count && slots[j].hash == slots[i].hash; j++)
            if (map->keys[slots[j].index] && yaml_key_equal(map->keys[slots[i].index], map->keys[slots[j].index])) {
                map->items[slots[i].index] = map->items[slots[j].index];
                map->keys[slots[j].index] = NULL;
            }
    }
    for (int64_t i = 0; i < count; i++) {
        if (!map->keys[i]) continue;
        map->keys[kept] = map->keys[i];
        map->items[kept++] = map->items[i];
    }
    map->count = kept;
    mem_free(slots);
    return true;
}

/* Ends the innermost collection; what it still waits for is null. */
static void yaml_close(yaml_parser *p) {
    yaml_frame *f = yaml_top(p);
    if (f->key || (f->waiting && !f->flow)) yaml_attach(p, val_new(p->memory, VAL_NULL));
    if (p->status == YOLO_OK && f->container->kind == VAL_MAP && !yaml_unique_keys(f->container)) yaml_fail_memory(p);
    p->depth--;
}

/* Ends the block collections that a token in `column` at the start of a line is outside of. */
static void yaml_dedent(yaml_parser *p, int column) {
    while (p->depth && p->status == YOLO_OK) {
        yaml_frame *f = yaml_top(p);
        bool list = f->container->kind == VAL_LIST, dash = yaml_at_dash(p);
        if (column > f->indent) return;
        if (column == f->indent && list && dash) {
            if (f->waiting) yaml_attach(p, val_new(p->memory, VAL_NULL));
            return;
        }
        if (column == f->indent && !list) {
            if (f->key && !dash) yaml_attach(p, val_new(p->memory, VAL_NULL));
            return;
        }
        if (column == f->indent && p->depth == 1) return; /* reported by who reads the entry */
        yaml_close(p);
    }
}

/* At ": " or ":" and the end of the line, blanks skipped? */
static bool yaml_at_colon(yaml_parser *p) {
    const char *from = p->at;
    yaml_skip_blanks(p);
    if (yaml_peek(p, 0) == ':' && yaml_ends(p, 1)) return true;
    p->at = from;
    return false;
}

static void yaml_block_value(yaml_parser *p) {
    bool may_nest = p->fresh || p->compact;
    int outer = p->depth ? yaml_top(p)->indent : -1, column = yaml_column(p), line = p->line;
    char c = yaml_peek(p, 0);
    if (yaml_at_dash(p)) {
        if (!may_nest) yaml_fail(p, line, "found '-' behind a key, expected the list to begin on the next line");
        else yaml_push(p, VAL_LIST, column, false);
        return;
    }
    if (p->fresh && p->depth && column <= outer) {
        yaml_fail(p, line, "found an indentation of %d, expected more than %d", column, outer);
        return;
    }
    p->fresh = p->compact = false;
    if (c == '[' || c == '{') {
        if (yaml_push(p, c == '[' ? VAL_LIST : VAL_MAP, -1, true)) p->at++;
        return;
    }
    if (c == '|' || c == '>') {
        yaml_attach(p, yaml_block_scalar(p, outer));
        return;
    }
    val *v = yaml_scalar(p, outer, false);
    if (!v) return;
    if (!yaml_at_colon(p)) {
        yaml_attach(p, v);
        yaml_expect_line_end(p);
    } else if (!may_nest || p->line != line) {
        yaml_fail(p, p->line, "found ': ' within a value, expected a value (quote it if the colon belongs to it)");
    } else if (yaml_push(p, VAL_MAP, column, false)) {
        yaml_top(p)->key = v;
        p->at++;
    }
}

/* The dash of a list or the key of a map. */
static void yaml_block_entry(yaml_parser *p) {
    yaml_frame *f = yaml_top(p);
    char found[24];
    int line = p->line, column = yaml_column(p);
    bool list = f->container->kind == VAL_LIST;
    if (column != f->indent) {
        yaml_fail(p, line, "found an indentation of %d, expected %d", column, f->indent);
    } else if (list != yaml_at_dash(p)) {
        yaml_fail(p, line, "found %s, expected %s", yaml_found(p, found), list ? "'- ' before the next item of the list" : "'key: value'");
    } else if (list) {
        p->at++;
        f->waiting = true;
        p->compact = true;
        p->fresh = false;
    } else {
        val *key = yaml_scalar(p, f->indent, false);
        if (!key) return;
        if (!yaml_at_colon(p) || p->line != line)
            yaml_fail(p, line, "found %s, expected ':' behind the key", yaml_found(p, found));
        f->key = key;
        p->at++;
        p->fresh = p->compact = false;
    }
}

static void yaml_flow_close(yaml_parser *p, char c) {
    if (yaml_top(p)->pair) yaml_close(p);
    bool list = yaml_top(p)->container->kind == VAL_LIST;
    if (list != (c == ']')) {
        yaml_fail(p, p->line, "found '%c', expected '%c' to close line %d", c, list ? ']' : '}', yaml_top(p)->container->line);
        return;
    }
    p->at++;
    yaml_close(p);
    if (!p->depth || !yaml_top(p)->flow) yaml_expect_line_end(p);
}

static void yaml_flow_scalar(yaml_parser *p, yaml_frame *f) {
    char found[24];
    val *v = yaml_scalar(p, -1, true);
    if (!v) return;
    bool list = f->container->kind == VAL_LIST;
    if (!list && !f->key) {
        f->key = v;
        f->waiting = f->colon = false;
        return;
    }
    if (list) {
        const char *behind = p->at;
        yaml_skip_blanks(p);
        if (yaml_peek(p, 0) == ':') {
            if (!yaml_push(p, VAL_MAP, -1, true)) return;
            f = yaml_top(p);
            f->pair = true;
            f->key = v;
            f->waiting = false;
            return;
        }
        p->at = behind;
    } else if (!f->colon) {
        yaml_fail(p, p->line, "found %s, expected ':' or ','", yaml_found(p, found));
        return;
    }
    yaml_attach(p, v);
}

/* One token inside [ ] or { }. */
static void yaml_flow_step(yaml_parser *p) {
    yaml_frame *f = yaml_top(p);
    char c = yaml_peek(p, 0), found[24];
    p->fresh = p->compact = false;
    bool list = f->container->kind == VAL_LIST;
    if (c == ']' || c == '}') {
        yaml_flow_close(p, c);
    } else if (c == ',') {
        if (f->pair) {
            yaml_close(p);
            f = yaml_top(p);
        } else if (f->key) yaml_attach(p, val_new(p->memory, VAL_NULL));
        if (f->waiting) yaml_fail(p, p->line, "found ',', expected a value before it");
        f->waiting = true;
        p->at++;
    } else if (c == ':' && f->key && !f->colon) {
        f->colon = true;
        p->at++;
    } else if (list ? !f->waiting : !f->waiting && !f->key) {
        yaml_fail(p, p->line, "found %s, expected ',' or '%c'", yaml_found(p, found), list ? ']' : '}');
    } else if (c == '[' || c == '{') {
        if (!list && !f->colon) yaml_fail(p, p->line, "found '%c', expected a key", c);
        else if (yaml_push(p, c == '[' ? VAL_LIST : VAL_MAP, -1, true)) p->at++;
    } else yaml_flow_scalar(p, f);
}

/* The end of the file, or of the document. */
static void yaml_end(yaml_parser *p) {
    bool more = p->at < p->end, dots = more && *p->at == '.';
    if (p->depth && yaml_top(p)->flow) {
        yaml_frame *f = yaml_top(p);
        if (f->pair) f--;
        yaml_fail(p, f->container->line, "found '%c' without its partner, expected '%c'", f->container->kind == VAL_LIST ? '[' : '{',
                  f->container->kind == VAL_LIST ? ']' : '}');
        return;
    }
    if (more && !dots && !p->started && !p->root && !p->depth) {
        p->started = true;
        p->at += 3;
        p->fresh = p->compact = false;
        return;
    }
    while (p->depth && p->status == YOLO_OK) yaml_close(p);
    if (dots) {
        p->at += 3;
        yaml_skip(p);
    }
    if (p->at < p->end) yaml_fail(p, p->line, "found a second document, expected one");
}

static void yaml_step(yaml_parser *p) {
    yaml_skip(p);
    if (p->status != YOLO_OK) return;
    if (p->at >= p->end || yaml_at_marker(p)) {
        yaml_end(p);
        return;
    }
    if (p->depth && yaml_top(p)->flow) {
        yaml_flow_step(p);
        return;
    }
    if (p->fresh && *p->at == '%' && p->at == p->line_start && !p->started && !p->root) { /* a directive */
        while (p->at < p->end && !yaml_is_break(*p->at)) p->at++;
        return;
    }
    if (p->fresh) yaml_dedent(p, yaml_column(p));
    yaml_frame *f = yaml_top(p);
    char found[24];
    if (p->status != YOLO_OK) return;
    if (!f && p->root) yaml_fail(p, p->line, "found %s, expected the end of the file", yaml_found(p, found));
    else if (f && !f->key && !(f->waiting && f->container->kind == VAL_LIST)) yaml_block_entry(p);
    else yaml_block_value(p);
}

/* UTF-8 without control characters, which is what the parser takes for granted. */
static yolo_status yaml_check_text(const char *path, const char *text, size_t size, yolo_error *error) {
    int line = 1;
    for (size_t i = 0, start = 0; i <= size; i++) {
        unsigned char c = i < size ? (unsigned char)text[i] : '\n';
        if ((c < 32 && c != '\t' && c != '\n' && c != '\r') || c == 127)
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found control character %d, expected text", path, line, c);
        if (c != '\n') continue;
        if (!str_is_utf8(text + start, i - start))
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found bytes that are not UTF-8, expected the file to be saved as UTF-8", path, line);
        start = i + 1;
        line++;
    }
    return YOLO_OK;
}

/* Reads a document into a tree that lives in the arena. An empty document is null. */
static yolo_status yaml_parse(arena *memory, const char *path_for_messages, const char *text, size_t size, val **out, yolo_error *error) {
    *out = NULL;
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
        text += 3;
        size -= 3;
    }
    yolo_status status = yaml_check_text(path_for_messages, text, size, error);
    if (status != YOLO_OK) return status;
    yaml_parser *p = mem_array(1, sizeof *p);
    if (!p) return err_memory(error, sizeof *p);
    *p = (yaml_parser){.memory = memory, .path = path_for_messages, .at = text, .end = text + size, .line_start = text, .line = 1,
                       .fresh = true, .error = error};
    while (p->at < p->end && p->status == YOLO_OK) yaml_step(p);
    if (p->status == YOLO_OK) yaml_end(p);
    if (p->status == YOLO_OK && !p->root && !(p->root = val_new(memory, VAL_NULL))) yaml_fail_memory(p);
    *out = p->status == YOLO_OK ? p->root : NULL;
    status = p->status;
    str_free(&p->scratch);
    mem_free(p);
    return status;
}

/* ---- writing */

/* Python's repr of a float: the fewest digits that read back the same. */
static void yaml_repr(char text[40], double number) {
    char digits[40], shape[40];
    double back = 0;
    int precision = 0, exponent = 0, count = 0;
    if (number != number || number - number != 0) {
        snprintf(text, 40, number != number ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    do {
        snprintf(shape, sizeof shape, "%.*e", precision, number);
        shape[shape[0] == '-' ? 2 : 1] = precision ? '.' : shape[shape[0] == '-' ? 2 : 1];
    } while ((!str_to_number(shape, strlen(shape), &back) || back != number) && ++precision < 17);
    for (const char *c = shape; *c && *c != 'e'; c++)
        if (isdigit((unsigned char)*c)) digits[count++] = *c;
    exponent = atoi(strchr(shape, 'e') + 1);
    str s = {.text = text, .capacity = 40}; /* 17 digits, 4 zeros, sign, point and exponent fit */
    if (number < 0 || (number == 0 && shape[0] == '-')) str_append(&s, "-", 1);
    if (exponent < -4 || exponent >= 16) {
        str_append(&s, digits, 1);
        if (count > 1) str_append(&s, ".", 1);
        str_append(&s, digits + 1, (size_t)count - 1);
        str_format(&s, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) str_append(&s, "0.0000", (size_t)(1 - exponent));
    for (int i = 0; i < count || i <= exponent + 1; i++) {
        if (exponent >= 0 && i == exponent + 1) str_append(&s, ".", 1);
        str_append(&s, i < count ? &digits[i] : "0", 1);
        if (exponent < 0 && i + 1 == count) break;
    }
}

/* [0-9]{4}-[0-9]{2}-[0-9]{2}, alone or with a time behind: PyYAML would read it as a date. Wider than its rule. */
static bool yaml_is_date(const char *s, size_t n) {
    for (size_t i = 0; i < 4; i++)
        if (i >= n || !isdigit((unsigned char)s[i])) return false;
    return n >= 8 && s[4] == '-' && isdigit((unsigned char)s[5]) && yaml_all_of(s, 5, n, "0123456789-:. \tTtZ+");
}

enum { YAML_PLAIN, YAML_SINGLE, YAML_DOUBLE };

/* REF libyaml emitter.c yaml_emitter_analyze_scalar and _select_scalar_style, in block context. */
static int yaml_style(const char *s, size_t n, bool key) {
    bool indicator = n >= 3 && (!memcmp(s, "---", 3) || !memcmp(s, "...", 3)), breaks = false, special = false, before = true;
    bool break_space = false, space_break = false;
    if (!n) return YAML_SINGLE;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i], next = i + 1 < n ? (unsigned char)s[i + 1] : 0;
        bool after = i + 1 >= n || next == ' ' || next == '\t' || next == '\n' || next == '\r';
        if (!i && c && strchr("#,[]{}&*!|>'\"%@`", c)) indicator = true;
        if ((c == ':' || (!i && (c == '?' || c == '-'))) && after) indicator = true;
        if (c == '#' && before) indicator = true;
        if ((c < 32 && c != '\n') || c == 127 || c >= 0xf0 || (c == 0xc2 && next < 0xa0) || (c == 0xef && next >= 0xbb &&
            i + 2 < n && (!memcmp(s + i, "\xef\xbb\xbf", 3) || !memcmp(s + i, "\xef\xbf\xbe", 3) || !memcmp(s + i, "\xef\xbf\xbf", 3))) ||
            (c == 0xe2 && i + 2 < n && next == 0x80 && ((unsigned char)s[i + 2] == 0xa8 || (unsigned char)s[i + 2] == 0xa9)))
            special = true;
        breaks |= c == '\n';
        if (c == ' ' && i && s[i - 1] == '\n') break_space = true;
        if (c == '\n' && i && s[i - 1] == ' ') space_break = true;
        before = c == ' ' || c == '\t' || c == '\n';
    }
    if (special || space_break || break_space || (key && breaks)) return YAML_DOUBLE;
    arena scratch = {0};
    val *plain = yaml_resolve(&scratch, s, n);
    bool text = plain && plain->kind == VAL_STRING && !yaml_is_date(s, n) && strcmp(s, "=") && strcmp(s, "<<");
    arena_free(&scratch);
    return indicator || breaks || s[0] == ' ' || s[n - 1] == ' ' || !text ? YAML_SINGLE : YAML_PLAIN;
}

/* Characters of the last line so far. */
static int64_t yaml_line_width(const str *out) {
    int64_t width = 0;
    for (int64_t i = out->length; i > 0 && out->text[i - 1] != '\n'; i--) width += (out->text[i - 1] & 0xc0) != 0x80;
    return width;
}

static void yaml_indent(str *out, int columns) {
    for (int i = 0; i < columns; i++) str_append(out, " ", 1);
}

/* REF libyaml emitter.c: lines are folded at the first single space beyond column 80. */
static void yaml_write_unescaped(str *out, const char *s, size_t n, int indent, bool key, bool quoted) {
    bool spaces = false, breaks = false;
    if (quoted) str_append(out, "'", 1);
    for (size_t i = 0; i < n && !out->failed; i++) {
        if (s[i] == ' ') {
            bool edge = quoted && (!i || i + 1 == n);
            if (!key && !spaces && !edge && !(i + 1 < n && s[i + 1] == ' ') && yaml_line_width(out) > YAML_WIDTH) {
                str_append(out, "\n", 1);
                yaml_indent(out, indent);
            } else str_append(out, " ", 1);
            spaces = true;
        } else if (s[i] == '\n') {
            str_add(out, breaks ? "\n" : "\n\n");
            breaks = true;
        } else {
            if (breaks) yaml_indent(out, indent);
            str_append(out, "''", s[i] == '\'' && quoted ? 2 : 0);
            if (s[i] != '\'' || !quoted) str_append(out, s + i, 1);
            spaces = breaks = false;
        }
    }
    if (breaks) yaml_indent(out, indent);
    if (quoted) str_append(out, "'", 1);
}

static void yaml_write_escaped(str *out, const char *s, size_t n, int indent, bool key) {
    static const char letters[] = "abtnvfr";
    bool spaces = false;
    str_append(out, "\"", 1);
    for (size_t i = 0; i < n && !out->failed;) {
        unsigned char c = (unsigned char)s[i];
        int length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        uint32_t code = c & (length == 1 ? 0x7f : length == 2 ? 0x1f : length == 3 ? 0x0f : 0x07);
        for (int k = 1; k < length && i + (size_t)k < n; k++) code = code << 6 | ((unsigned char)s[i + (size_t)k] & 0x3f);
        bool space = c == ' ';
        if (code == 0) str_add(out, "\\0");
        else if (code >= 7 && code <= 13) str_format(out, "\\%c", letters[code - 7]);
        else if (code == 27) str_add(out, "\\e");
        else if (c == '"' || c == '\\') str_format(out, "\\%c", c);
        else if (code == 0x85) str_add(out, "\\N");
        else if (code == 0x2028 || code == 0x2029) str_add(out, code == 0x2028 ? "\\L" : "\\P");
        else if (code < 32 || (code >= 127 && code < 0xa0)) str_format(out, "\\x%02X", (unsigned)code);
        else if (code == 0xfeff || code == 0xfffe || code == 0xffff) str_format(out, "\\u%04X", (unsigned)code);
        else if (code >= 0x10000) str_format(out, "\\U%08X", (unsigned)code);
        else if (space && !key && !spaces && i && i + 1 < n && yaml_line_width(out) > YAML_WIDTH) {
            str_append(out, "\n", 1);
            yaml_indent(out, indent);
            if (s[i + 1] == ' ') str_append(out, "\\", 1);
        } else str_append(out, s + i, YOLO_MIN((size_t)length, n - i));
        spaces = space;
        i += (size_t)length;
    }
    str_append(out, "\"", 1);
}

static void yaml_write_scalar(str *out, const val *v, int indent, bool key) {
    char text[40];
    if (v->kind == VAL_NULL) str_add(out, "null");
    else if (v->kind == VAL_BOOL) str_add(out, v->integer ? "true" : "false");
    else if (v->kind == VAL_INT) str_format(out, "%lld", (long long)v->integer);
    else if (v->kind == VAL_LIST) str_add(out, "[]");
    else if (v->kind == VAL_MAP) str_add(out, "{}");
    else if (v->kind == VAL_FLOAT) {
        yaml_repr(text, v->number);
        char *e = strchr(text, 'e');
        bool finite = v->number - v->number == 0;
        if (!finite) str_format(out, "%s.%s", text[0] == '-' ? "-" : "", text + (text[0] == '-'));
        else if (e && !strchr(text, '.')) str_format(out, "%.*s.0%s", (int)(e - text), text, e); /* 1e-05 would read back as text */
        else str_add(out, text);
    } else {
        int style = yaml_style(v->text, v->length, key);
        if (style == YAML_DOUBLE) yaml_write_escaped(out, v->text, v->length, indent, key);
        else yaml_write_unescaped(out, v->text, v->length, indent, key, style == YAML_SINGLE);
    }
}

/* Appends what PyYAML's safe_dump(v, sort_keys=False, allow_unicode=True) writes; collections below the depth that
   the parser accepts are left empty. */
static void yaml_write(str *out, const val *v) {
    struct { const val *v; int64_t next; int indent; bool inline_first; } stack[YAML_MAX_DEPTH];
    int depth = 0;
    if (v->count && (v->kind == VAL_LIST || v->kind == VAL_MAP)) {
        stack[depth].v = v;
        stack[depth].next = 0;
        stack[depth].indent = 0;
        stack[depth++].inline_first = true;
    } else {
        yaml_write_scalar(out, v, 0, false);
    }
    while (depth) {
        const val *c = stack[depth - 1].v;
        int64_t i = stack[depth - 1].next++;
        int indent = stack[depth - 1].indent;
        bool list = c->kind == VAL_LIST;
        if (i == c->count) {
            depth--;
            continue;
        }
        if (i || !stack[depth - 1].inline_first) {
            str_append(out, "\n", 1);
            yaml_indent(out, indent);
        }
        if (!list) yaml_write_scalar(out, c->keys[i], indent, true);
        str_add(out, list ? "-" : ":");
        const val *item = c->items[i];
        bool nested = (item->kind == VAL_LIST || item->kind == VAL_MAP) && item->count;
        if (!nested || list) str_append(out, " ", 1);
        if (!nested || depth == YAML_MAX_DEPTH) {
            yaml_write_scalar(out, item, indent + 2, false);
            continue;
        }
        stack[depth].v = item;
        stack[depth].next = 0;
        stack[depth].indent = !list && item->kind == VAL_LIST ? indent : indent + 2;
        stack[depth++].inline_first = list;
    }
    str_append(out, "\n", 1);
}

/* ---- class names, labels, picture lists */

enum { DATA_MAX_CLASSES = 100000, LBL_COMPLAINTS = 5, LBL_MAX_NUMBERS = 1 << 16 };
#define DATA_MAX_TEXT ((uint64_t)64 << 20) /* bytes of a list: a million paths. Labels, names and yaml: less, as each
                                             byte of them can cost sixty of memory */
#define LBL_MAX_TEXT ((uint64_t)16 << 20)
#define DATA_MAX_YAML ((uint64_t)8 << 20)

/* The next line of [*at, end), without its LF, CR LF or CR and without white space around it. */
static bool data_next_line(const char **at, const char *end, const char **line, size_t *length) {
    const char *start = *at, *stop = start;
    if (start >= end) return false;
    while (stop < end && !yaml_is_break(*stop)) stop++;
    *at = stop < end ? stop + 1 + (*stop == '\r' && stop + 1 < end && stop[1] == '\n') : end;
    while (start < stop && isspace((unsigned char)*start)) start++;
    while (stop > start && isspace((unsigned char)stop[-1])) stop--;
    *line = start;
    *length = (size_t)(stop - start);
    return true;
}

/* A whole text file with its byte order mark, if any, cut off. mem_free(*bytes). */
static yolo_status data_read_text(const char *path, uint64_t cap, uint8_t **bytes, const char **text, const char **end, yolo_error *error) {
    size_t size;
    yolo_status status = path_read(path, cap, bytes, &size, error);
    if (status != YOLO_OK) return status;
    *text = (const char *)*bytes + (size >= 3 && !memcmp(*bytes, "\xef\xbb\xbf", 3) ? 3 : 0);
    *end = (const char *)*bytes + size;
    return YOLO_OK;
}

typedef struct data_name { const char *name; int64_t index; } data_name;

static int data_name_order(const void *a, const void *b) {
    const data_name *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

/* Names the first name that is there twice: false and the two places, counted from 0. */
static yolo_status data_find_twice(char *const *names, int count, int *first, int *second, yolo_error *error) {
    *first = *second = -1;
    data_name *sorted = mem_array((uint64_t)YOLO_MAX(count, 1), sizeof *sorted);
    if (!sorted) return err_memory(error, (uint64_t)count * sizeof *sorted);
    for (int i = 0; i < count; i++) sorted[i] = (data_name){names[i], i};
    qsort(sorted, (size_t)count, sizeof *sorted, data_name_order);
    for (int i = 1; i < count; i++)
        if (!strcmp(sorted[i - 1].name, sorted[i].name) && (*second < 0 || sorted[i].index < *second)) {
            *first = (int)sorted[i - 1].index;
            *second = (int)sorted[i].index;
        }
    mem_free(sorted);
    return YOLO_OK;
}

/* classes.txt: a name a line, so an empty line between two names would shift all that follow: an error. */
static yolo_status data_parse_names(const char *path, const char *text, const char *end, arena *memory, char ***names, int *count,
                                    yolo_error *error) {
    const char *line;
    size_t length;
    int lines = 0, empty = 0, first, second;
    for (const char *at = text; data_next_line(&at, end, &line, &length);) lines++;
    if (lines > DATA_MAX_CLASSES)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: found %d lines, expected at most %d class names", path, lines, DATA_MAX_CLASSES);
    *names = arena_array(memory, (uint64_t)YOLO_MAX(lines, 1), sizeof **names);
    *count = lines = 0;
    if (!*names) return err_memory(error, 65536);
    for (const char *at = text; data_next_line(&at, end, &line, &length);) {
        lines++;
        if (!length) {
            if (!empty) empty = lines;
            continue;
        }
        if (empty) return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found an empty line, expected a class name", path, empty);
        if (!str_is_utf8(line, length) || memchr(line, 0, length))
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found bytes that are not UTF-8, expected a class name saved as UTF-8", path, lines);
        if (!((*names)[(*count)++] = arena_text(memory, line, length))) return err_memory(error, length);
    }
    if (!*count) return err_set(error, YOLO_ERROR_FORMAT, "%s: found no name, expected a class name a line", path);
    yolo_status status = data_find_twice(*names, *count, &first, &second, error);
    if (status == YOLO_OK && second >= 0)
        status = err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found '%s' again after line %d, expected each name once", path, second + 1,
                         (*names)[second], first + 1);
    return status;
}

static yolo_status data_read_names(const char *path, arena *memory, char ***names, int *count, yolo_error *error) {
    uint8_t *bytes;
    const char *text, *end;
    *names = NULL;
    *count = 0;
    yolo_status status = data_read_text(path, LBL_MAX_TEXT, &bytes, &text, &end, error);
    if (status != YOLO_OK) return status;
    status = data_parse_names(path, text, end, memory, names, count, error);
    mem_free(bytes);
    return status;
}

static void lbl_list_free(lbl_list *list) {
    mem_free(list->items);
    memset(list, 0, sizeof *list);
}

typedef struct lbl_key { uint64_t hash; int64_t index; } lbl_key; /* of the numbers of a line, as floats */

typedef struct lbl_reader {
    const char *path;
    int class_count, line;
    lbl_list *list;
    lbl_key *keys;
    int64_t key_capacity;
    double *numbers;
    int64_t number_capacity;
    const yolo_log *log;
} lbl_reader;

YOLO_PRINTF(2, 3)
static void lbl_complain(lbl_reader *r, const char *format, ...) {
    char text[300];
    va_list arguments;
    if (++r->list->bad_lines > LBL_COMPLAINTS) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_write(r->log, YOLO_LOG_WARNING, "%s:%d: %s", r->path, r->line, text);
}

/* Splits a line into numbers; their count, or -1 after a complaint, or -2 for want of memory. */
static int64_t lbl_numbers(lbl_reader *r, const char *line, size_t length) {
    const char *end = line + length;
    int64_t count = 0;
    while (line < end) {
        const char *start = line;
        while (line < end && !isspace((unsigned char)*line)) line++;
        if (count == LBL_MAX_NUMBERS) {
            lbl_complain(r, "found more than %d numbers, expected class x_center y_center width height", LBL_MAX_NUMBERS);
            return -1;
        }
        if (!mem_grow(&r->numbers, &r->number_capacity, count + 1, sizeof *r->numbers)) return -2;
        if (!str_to_number(start, (size_t)(line - start), &r->numbers[count])) {
            int shown = (int)YOLO_MIN(line - start, 40);
            bool text = str_is_utf8(start, (size_t)shown);
            lbl_complain(r, "found '%.*s', expected a number", text ? shown : 1, text ? start : "?");
            return -1;
        }
        count++;
        while (line < end && isspace((unsigned char)*line)) line++;
    }
    return count;
}

/* The box around a polygon of `points` points. */
static lbl_box lbl_polygon_box(const double *xy, int64_t points) {
    double x1 = xy[0], y1 = xy[1], x2 = xy[0], y2 = xy[1];
    for (int64_t i = 1; i < points; i++) {
        x1 = YOLO_MIN(x1, xy[2 * i]);
        x2 = YOLO_MAX(x2, xy[2 * i]);
        y1 = YOLO_MIN(y1, xy[2 * i + 1]);
        y2 = YOLO_MAX(y2, xy[2 * i + 1]);
    }
    return (lbl_box){0, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1};
}

/* REF ultralytics/data/utils.py verify_image_label: one per cent beyond the picture is let pass, a negative size and
   a class that is no whole number are not. There one bad line drops the picture; here it is left out alone. A sixth
   column is a confidence, as labels written with save_conf have it. False for want of memory. */
static bool lbl_line(lbl_reader *r, const char *line, size_t length) {
    int64_t count = lbl_numbers(r, line, length);
    const double *n = r->numbers;
    if (count < 0) return count == -1;
    if (count != 5 && count != 6 && (count < 7 || count % 2 == 0)) {
        lbl_complain(r, "found %lld numbers, expected 5 (class x_center y_center width height) or a class and 3 points or more", (long long)count);
        return true;
    }
    if (!(n[0] >= 0 && n[0] == floor(n[0]) && n[0] < INT_MAX)) {
        lbl_complain(r, "found class %g, expected a whole number from 0", n[0]);
        return true;
    }
    if (r->class_count && n[0] >= r->class_count) {
        lbl_complain(r, "class %.0f out of range [0,%d)", n[0], r->class_count);
        return true;
    }
    int64_t last = count == 6 ? 5 : count;
    lbl_box box = count <= 6 ? (lbl_box){0, n[1], n[2], n[3], n[4]} : lbl_polygon_box(n + 1, (count - 1) / 2);
    const double share[] = {box.x, box.y, box.w, box.h};
    static const char *const what[] = {"x_center", "y_center", "width", "height"};
    for (int i = 0; i < 4; i++) {
        if (share[i] >= (i < 2 ? -0.01 : 0) && share[i] <= 1.01) continue;
        lbl_complain(r, "found %s %g%s, expected a share of the picture, 0 to 1", what[i], share[i], count <= 6 ? "" : " of the polygon");
        return true;
    }
    lbl_list *list = r->list;
    box.class_id = (int)n[0];
    if (!mem_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items) ||
        !mem_grow(&r->keys, &r->key_capacity, list->count + 1, sizeof *r->keys)) return false;
    uint64_t hash = (uint64_t)last;
    for (int64_t i = 0; i < last; i++) {
        float value = (float)n[i] + 0.0f; /* -0 and 0 are one */
        hash = hash_bytes(&value, sizeof value, hash);
    }
    r->keys[list->count] = (lbl_key){hash, list->count};
    list->items[list->count++] = box;
    return true;
}

static int lbl_key_order(const void *a, const void *b) {
    const lbl_key *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->index < y->index ? -1 : x->index > y->index;
}

/* Of equal lines the first stays. Equal polygons, not merely equal boxes around them, as in ultralytics. */
static void lbl_unique(lbl_reader *r) {
    lbl_list *list = r->list;
    int64_t kept = 0;
    if (list->count < 2) return;
    qsort(r->keys, (size_t)list->count, sizeof *r->keys, lbl_key_order);
    for (int64_t i = 1; i < list->count; i++)
        if (r->keys[i].hash == r->keys[i - 1].hash) list->items[r->keys[i].index].class_id = -1;
    for (int64_t i = 0; i < list->count; i++)
        if (list->items[i].class_id >= 0) list->items[kept++] = list->items[i];
    list->duplicates = list->count - kept;
    list->count = kept;
}

/* Reads a label file (class_count 0: any class). Bad lines are told to the log (the first few of a file), counted
   and left out; a missing file sets list->missing and is no error. lbl_list_free whatever the result. */
static yolo_status lbl_read(const char *label_path, int class_count, lbl_list *list, const yolo_log *log, yolo_error *error) {
    uint8_t *bytes;
    const char *text, *end, *line;
    size_t length;
    memset(list, 0, sizeof *list);
    if (os_path_kind(label_path) == OS_NOTHING) {
        list->missing = true;
        return YOLO_OK;
    }
    yolo_status status = data_read_text(label_path, LBL_MAX_TEXT, &bytes, &text, &end, error);
    if (status != YOLO_OK) return status;
    lbl_reader r = {.path = label_path, .class_count = class_count, .list = list, .log = log};
    while (status == YOLO_OK && data_next_line(&text, end, &line, &length)) {
        r.line++;
        if (length && !lbl_line(&r, line, length)) status = err_memory(error, (uint64_t)list->count * sizeof *list->items);
    }
    if (status == YOLO_OK) lbl_unique(&r);
    if (list->bad_lines > LBL_COMPLAINTS)
        log_write(log, YOLO_LOG_WARNING, "%s: %lld more bad lines", label_path, (long long)list->bad_lines - LBL_COMPLAINTS);
    mem_free(r.keys);
    mem_free(r.numbers);
    mem_free(bytes);
    return status;
}

/* Six decimals, whatever the locale. */
static void lbl_append(str *s, double share) {
    long long millionths = (long long)(YOLO_CLAMP(share, 0.0, 1.0) * 1e6 + 0.5);
    str_format(s, " %lld.%06lld", millionths / 1000000, millionths % 1000000);
}

/* Writes boxes in pixels of a width x height picture as "class x_center y_center width height[ confidence]" lines,
   clipped to the picture. No box: an empty file. The folder must exist. */
static yolo_status lbl_write(const char *path, const yolo_boxes *boxes, int width, int height, bool save_conf, yolo_error *error) {
    str s = {0};
    for (int i = 0; i < boxes->count; i++) {
        const yolo_box *b = &boxes->items[i];
        double x1 = YOLO_CLAMP((double)b->x1, 0.0, (double)width), x2 = YOLO_CLAMP((double)b->x2, 0.0, (double)width);
        double y1 = YOLO_CLAMP((double)b->y1, 0.0, (double)height), y2 = YOLO_CLAMP((double)b->y2, 0.0, (double)height);
        str_format(&s, "%d", b->class_id);
        lbl_append(&s, (x1 + x2) / 2 / width);
        lbl_append(&s, (y1 + y2) / 2 / height);
        lbl_append(&s, (x2 - x1) / width);
        lbl_append(&s, (y2 - y1) / height);
        if (save_conf) lbl_append(&s, (double)b->confidence);
        str_append(&s, "\n", 1);
    }
    yolo_status status = s.failed ? err_memory(error, (uint64_t)s.length)
                                  : path_write(path, s.text ? s.text : "", (size_t)s.length, false, error);
    str_free(&s);
    return status;
}

static void data_list_free(data_list *list) {
    mem_free(list->paths);
    arena_free(&list->memory);
    memset(list, 0, sizeof *list);
}

static bool data_list_add(data_list *list, const char *path, size_t length) {
    char *copy = mem_grow(&list->paths, &list->capacity, list->count + 1, sizeof *list->paths) ? arena_text(&list->memory, path, length) : NULL;
    if (copy) list->paths[list->count++] = copy;
    return copy != NULL;
}

static int data_path_order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void data_list_sort(data_list *list) {
    if (list->count > 1) qsort(list->paths, (size_t)list->count, sizeof *list->paths, data_path_order);
}

typedef struct data_walker {
    data_list *list;
    data_list folders;       /* still to read; the last is next */
    data_list found;         /* folders within the one being read */
    char **seen;             /* canonical paths of folders read: open addressing */
    int64_t seen_count, seen_capacity;
    const char *folder;
    char path[DATA_PATH_SIZE];
    bool failed;             /* no memory */
} data_walker;

static bool data_walk_entry(void *user, const char *name, os_kind kind) {
    data_walker *w = user;
    bool picture = kind == OS_FILE && codec_is_picture_name(name);
    if (name[0] == '.' || (!picture && kind != OS_DIRECTORY)) return true;
    size_t length = strlen(w->folder);
    int size = snprintf(w->path, sizeof w->path, "%s%s%s", w->folder, length && path_is_separator(w->folder[length - 1]) ? "" : "/", name);
    if (size < 0 || size >= (int)sizeof w->path) return true;
    if (!data_list_add(picture ? w->list : &w->found, w->path, (size_t)size)) w->failed = true;
    return !w->failed;
}

/* Marks a folder as read; false when it was before (by another path, or a link leads back to it). */
static bool data_walk_mark(data_walker *w, const char *real) {
    if (w->seen_count * 2 >= w->seen_capacity) {
        int64_t capacity = YOLO_MAX(64, w->seen_capacity * 4);
        char **larger = mem_array((uint64_t)capacity, sizeof *larger);
        if (!larger) return w->failed = true;
        for (int64_t i = 0; i < w->seen_capacity; i++) {
            if (!w->seen[i]) continue;
            uint64_t at = hash_bytes(w->seen[i], strlen(w->seen[i]), 0);
            while (larger[at & (uint64_t)(capacity - 1)]) at++;
            larger[at & (uint64_t)(capacity - 1)] = w->seen[i];
        }
        mem_free(w->seen);
        w->seen = larger;
        w->seen_capacity = capacity;
    }
    uint64_t mask = (uint64_t)w->seen_capacity - 1, at = hash_bytes(real, strlen(real), 0) & mask;
    for (; w->seen[at]; at = (at + 1) & mask)
        if (!strcmp(w->seen[at], real)) return false;
    w->failed |= !(w->seen[at] = arena_text(&w->folders.memory, real, strlen(real)));
    w->seen_count++;
    return true;
}

/* Adds the pictures of a folder, at any depth, sorted bytewise by path: an order that depends on names alone. Names
   that begin with a dot are passed over, as ultralytics' glob does. Links are followed; a folder that was read
   already is not read again. A folder within that cannot be read is counted and the first one named in `complaint`. */
static yolo_status data_walk(const char *root, data_list *list, yolo_error *error) {
    data_walker *w = mem_array(1, sizeof *w);
    if (!w) return err_memory(error, sizeof *w);
    yolo_status status = YOLO_OK;
    char real[DATA_PATH_SIZE], reason[256];
    w->list = list;
    w->failed = !data_list_add(&w->folders, root, strlen(root));
    for (bool first = true; w->folders.count && !w->failed && !err_interrupted; first = false) {
        w->folder = w->folders.paths[--w->folders.count];
        if (os_real_path(w->folder, real, sizeof real) && !data_walk_mark(w, real)) continue;
        if (!os_list_directory(w->folder, data_walk_entry, w) && !w->failed) {
            os_reason(reason, sizeof reason);
            if (first) status = err_set(error, YOLO_ERROR_IO, "%s: cannot read folder: %s", root, reason);
            if (!list->unreadable++) snprintf(list->complaint, sizeof list->complaint, "%s: cannot read folder: %s", w->folder, reason);
        }
        data_list_sort(&w->found);
        while (w->found.count && !w->failed) {
            const char *folder = w->found.paths[--w->found.count];
            w->failed = !data_list_add(&w->folders, folder, strlen(folder));
        }
        arena_free(&w->found.memory);
    }
    if (w->failed) status = err_memory(error, 1 << 20);
    else if (err_interrupted) status = err_set(error, YOLO_ERROR_INTERRUPTED, "%s: interrupted while folders were read", root);
    data_list_sort(list);
    data_list_free(&w->folders);
    data_list_free(&w->found);
    mem_free(w->seen);
    mem_free(w);
    return status;
}

/* REF ultralytics/data/utils.py img2label_paths: the label's path by the rule that the last folder "images" becomes
   "labels"; else beside the picture. mem_free. */
static char *data_label_rule(const char *picture) {
    size_t at = 0, length = strlen(picture);
    bool found = false;
    for (size_t i = 0; i + 7 <= length; i++)
        if (!memcmp(picture + i, "images", 6) && (!i || path_is_separator(picture[i - 1])) && path_is_separator(picture[i + 6])) {
            at = i;
            found = true;
        }
    char *label = path_with_extension(picture, ".txt");
    if (label && found) memcpy(label + at, "labels", 6);
    return label;
}

/* Where a picture's label is: by the rule, or else beside it; where the rule has it when there is none. mem_free. */
static char *data_label_path(const char *picture) {
    char *rule = data_label_rule(picture);
    if (!rule || os_path_kind(rule) != OS_NOTHING) return rule;
    char *beside = path_with_extension(picture, ".txt");
    if (beside && os_path_kind(beside) == OS_FILE) {
        mem_free(rule);
        return beside;
    }
    mem_free(beside);
    return rule;
}

/* A text file of paths. REF ultralytics/data/base.py get_img_files: "./" is the list's own folder. Other relative
   paths are looked for there too, before they are taken as they are. */
static yolo_status data_read_list(const char *path, data_list *list, yolo_error *error) {
    uint8_t *bytes;
    const char *text, *end, *line;
    size_t length;
    yolo_status status = data_read_text(path, DATA_MAX_TEXT, &bytes, &text, &end, error);
    if (status != YOLO_OK) return status;
    char *folder = path_parent(path);
    for (int number = 1; folder && status == YOLO_OK && data_next_line(&text, end, &line, &length); number++) {
        char name[DATA_PATH_SIZE];
        if (!length) continue;
        if (length >= sizeof name || memchr(line, 0, length)) {
            status = err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found %d bytes, expected the path of a picture", path, number, (int)YOLO_MIN(length, 1000000));
            continue;
        }
        memcpy(name, line, length);
        name[length] = 0;
        bool local = name[0] == '.' && path_is_separator(name[1]);
        char *full = path_join(folder, name + (local ? 2 : 0));
        bool there = full && (local || path_is_absolute(name) || os_path_kind(full) != OS_NOTHING);
        const char *taken = there ? full : name;
        if (!full || (codec_is_picture_name(taken) && !data_list_add(list, taken, strlen(taken)))) status = err_memory(error, length);
        mem_free(full);
    }
    if (!folder && status == YOLO_OK) status = err_memory(error, 4096);
    mem_free(folder);
    mem_free(bytes);
    return status;
}

/* Adds the pictures that a path stands for: a folder's, a text file's, or the picture itself. Sorted. */
static yolo_status data_collect(const char *path, data_list *list, yolo_error *error) {
    os_kind kind = os_path_kind(path);
    yolo_status status = YOLO_OK;
    if (kind == OS_NOTHING) return err_set(error, YOLO_ERROR_IO, "%s: no such file or folder", path);
    if (kind == OS_DIRECTORY) status = data_walk(path, list, error);
    else if (!codec_is_picture_name(path)) status = data_read_list(path, list, error);
    else if (!data_list_add(list, path, strlen(path))) status = err_memory(error, strlen(path));
    data_list_sort(list);
    return status;
}

/* ---- data.yaml: REF ultralytics/data/utils.py check_det_dataset */

/* A class name as ultralytics shows it: str() of whatever the yaml value is. */
static char *data_name_text(arena *memory, const val *v) {
    char text[40];
    if (v->kind == VAL_STRING) return arena_text(memory, v->text, strlen(v->text));
    if (v->kind == VAL_INT) snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else if (v->kind == VAL_FLOAT) yaml_repr(text, v->number);
    else snprintf(text, sizeof text, "%s", v->kind == VAL_BOOL ? (v->integer ? "True" : "False") : "None");
    return arena_text(memory, text, strlen(text));
}

/* A whole number, also one that was written as text or with a point; `otherwise` for anything else. */
static int64_t data_whole(const val *v, int64_t otherwise) {
    double number = val_number(v, -1);
    if (v && v->kind == VAL_STRING && !str_to_number(v->text, v->length, &number)) return otherwise;
    return number >= 0 && number < 1e9 && number == floor(number) ? (int64_t)number : otherwise;
}

static yolo_status data_names(data_set *set, const char *path, const val *names, yolo_error *error) {
    bool map = names->kind == VAL_MAP;
    if ((!map && names->kind != VAL_LIST) || !names->count || names->count > DATA_MAX_CLASSES)
        return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: 'names' has no class name, expected a list, or a map from 0 on", path, names->line);
    set->class_count = (int)names->count;
    set->names = arena_array(&set->memory, (uint64_t)names->count, sizeof *set->names);
    for (int64_t i = 0; set->names && i < names->count; i++) {
        const val *item = names->items[i];
        int64_t id = map ? data_whole(names->keys[i], -1) : i;
        if (item->kind == VAL_LIST || item->kind == VAL_MAP || id < 0 || id >= names->count || set->names[id])
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: 'names' of %d classes, expected one name for each class from 0 to %d", path,
                           item->line ? item->line : names->line, set->class_count, set->class_count - 1);
        if (!(set->names[id] = data_name_text(&set->memory, item))) return err_memory(error, 65536);
    }
    return set->names ? YOLO_OK : err_memory(error, 65536);
}

/* nc and names, of which one may be missing. */
static yolo_status data_classes(data_set *set, const char *path, const val *root, yolo_error *error) {
    const val *names = val_get(root, "names"), *nc = val_get(root, "nc");
    bool named = names && names->kind != VAL_NULL;
    if (!named && !nc) return err_set(error, YOLO_ERROR_FORMAT, "%s: found neither 'names' nor 'nc', expected 'names: [...]'", path);
    int64_t count = data_whole(nc, -1);
    if (nc && !(named && nc->kind == VAL_NULL) && (count < 1 || count > DATA_MAX_CLASSES))
        return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: 'nc' is no number of classes, expected 1 to %d", path, nc->line, DATA_MAX_CLASSES);
    if (named) {
        yolo_status status = data_names(set, path, names, error);
        if (status == YOLO_OK && count >= 0 && count != set->class_count)
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: found nc: %lld and %d names, expected the same number", path, nc->line,
                           (long long)count, set->class_count);
        return status;
    }
    set->class_count = (int)count;
    set->names = arena_array(&set->memory, (uint64_t)count, sizeof *set->names);
    for (int i = 0; set->names && i < set->class_count; i++) {
        char text[32];
        snprintf(text, sizeof text, "class_%d", i);
        if (!(set->names[i] = arena_text(&set->memory, text, strlen(text)))) return err_memory(error, 65536);
    }
    return set->names ? YOLO_OK : err_memory(error, 65536);
}

/* One path of a split below the root; "../x" also as "x", as exporters write it. mem_free. */
static char *data_resolve(const char *root, const char *path) {
    bool up = path[0] == '.' && path[1] == '.' && (path[2] == '/' || path[2] == '\\');
    while (path[0] == '.' && path_is_separator(path[1])) path += 2;
    char *full = !strcmp(path, ".") || !path[0] ? str_copy(root) : path_join(root, path);
    if (!full || !up || os_path_kind(full) != OS_NOTHING) return full;
    char *below = path_join(root, path + 3);
    if (below && os_path_kind(below) != OS_NOTHING) {
        mem_free(full);
        return below;
    }
    mem_free(below);
    return full;
}

/* The pictures of one split: a path or a list of them. What is missing leaves the list empty and says why: a set may
   be opened for its other split. */
static yolo_status data_split_read(data_set *set, const char *path, const char *key, const val *v, data_list *list, yolo_error *error) {
    const val *one[1] = {v};
    bool many = v && v->kind == VAL_LIST;
    if (!v || v->kind == VAL_NULL || (v->kind == VAL_STRING && (!v->length || !strcmp(v->text, "None")))) {
        snprintf(list->complaint, sizeof list->complaint, "%s: found no '%s', expected a folder or list of pictures", path, key);
        return YOLO_OK;
    }
    yolo_status status = YOLO_OK;
    for (int64_t i = 0; status == YOLO_OK && i < (many ? v->count : 1); i++) {
        const val *item = many ? v->items[i] : one[0];
        if (item->kind != VAL_STRING)
            return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: '%s' is no path, expected a folder, a .txt file or a list of them", path, item->line, key);
        char *full = data_resolve(set->root, item->text);
        if (!full) return err_memory(error, item->length);
        if (os_path_kind(full) == OS_NOTHING)
            snprintf(list->complaint, sizeof list->complaint, "%s:%d: '%s' pictures not found: %s does not exist", path, item->line, key, full);
        else status = data_collect(full, list, error);
        mem_free(full);
    }
    if (status == YOLO_OK && !list->count && !list->complaint[0])
        snprintf(list->complaint, sizeof list->complaint, "%s:%d: '%s' has no pictures", path, v->line, key);
    return status;
}

/* The folder relative paths start from: the yaml's, or its `path` seen from there, or that as it is. A `path` that
   exists nowhere belongs to another machine: the yaml's folder again. (ultralytics takes a relative `path` from the
   current folder or its settings; a set must not change with where the program was started.) */
static char *data_root(const char *yaml_path, const val *path) {
    char *folder = path_parent(yaml_path), *below = NULL;
    const char *text = val_text(path, "");
    if (!folder || !text[0] || !strcmp(text, "None") || !strcmp(text, ".")) return folder;
    below = path_join(folder, text);
    if (below && os_path_kind(below) == OS_DIRECTORY) {
        mem_free(folder);
        return below;
    }
    mem_free(below);
    if (os_path_kind(text) != OS_DIRECTORY) return folder;
    mem_free(folder);
    return str_copy(text);
}

static void data_close(data_set *set) {
    data_list_free(&set->train);
    data_list_free(&set->val);
    data_list_free(&set->test);
    arena_free(&set->memory);
    memset(set, 0, sizeof *set);
}

static yolo_status data_open_root(data_set *set, const char *yaml_path, const val *root, yolo_error *error) {
    const val *val_split = val_get(root, "val"), *path = val_get(root, "path");
    if (!root || root->kind != VAL_MAP)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: found no 'key: value' lines, expected 'train', 'val' and 'names'", yaml_path);
    if (path && path->kind != VAL_NULL && path->kind != VAL_STRING)
        return err_set(error, YOLO_ERROR_FORMAT, "%s:%d: 'path' is no text, expected a folder", yaml_path, path->line);
    if (!val_split) val_split = val_get(root, "validation");
    yolo_status status = data_classes(set, yaml_path, root, error);
    char *folder = data_root(yaml_path, path);
    set->root = folder ? arena_text(&set->memory, folder, strlen(folder)) : NULL;
    mem_free(folder);
    if (!set->root) return err_memory(error, 4096);
    if (status == YOLO_OK) status = data_split_read(set, yaml_path, "train", val_get(root, "train"), &set->train, error);
    if (status == YOLO_OK) status = data_split_read(set, yaml_path, "val", val_split, &set->val, error);
    if (status == YOLO_OK) status = data_split_read(set, yaml_path, "test", val_get(root, "test"), &set->test, error);
    return status;
}

/* Reads a data.yaml and lists its pictures. data_close afterwards; on error nothing is left to close. A split that
   is absent or empty is no error here: data_split tells. */
static yolo_status data_open(data_set *set, const char *yaml_path, yolo_error *error) {
    uint8_t *bytes;
    size_t size;
    val *root = NULL;
    memset(set, 0, sizeof *set);
    yolo_status status = path_read(yaml_path, DATA_MAX_YAML, &bytes, &size, error);
    if (status != YOLO_OK) return status;
    status = yaml_parse(&set->memory, yaml_path, (const char *)bytes, size, &root, error);
    mem_free(bytes);
    if (status == YOLO_OK) status = data_open_root(set, yaml_path, root, error);
    if (status != YOLO_OK) data_close(set);
    return status;
}

/* The pictures of "train", "val" or "test"; an error where there are none, or one of several places does not exist. */
static yolo_status data_split(const data_set *set, const char *name, const data_list **list, yolo_error *error) {
    *list = !strcmp(name, "train") ? &set->train : !strcmp(name, "val") ? &set->val : !strcmp(name, "test") ? &set->test : NULL;
    if (!*list) return err_set(error, YOLO_ERROR_USAGE, "split '%s': expected train, val or test", name);
    bool complete = !(*list)->complaint[0] || (*list)->unreadable;
    return (*list)->count && complete ? YOLO_OK : err_set(error, YOLO_ERROR_IO, "%s", (*list)->complaint);
}

/* ==== 10 zip_: archives =========================================================================================
   Reader of untrusted archives (stored, deflated, zip64) and writer of stored ones with 64-byte aligned members, as
   torch.save lays them out; zip64 fields where a size or place needs more than 32 bits. Reading invariants:
     1 The bytes belong to the caller and outlive the archive; a stored entry is read where it lies.
     2 After zip_open every entry's data lies inside the file, no two entries overlap or share a name.
     3 zip_read gives exactly entry->size bytes whose CRC-32 is right, or an error; all inflated entries together
       stay below a budget that grows with the file, so that a small file cannot ask for much memory. */

enum { ZIP_FAST_BITS = 10, ZIP_ALIGNMENT = 64 };
#define ZIP_ENTRY_CAP ((uint64_t)4 << 30)
#define ZIP_FULL ((uint64_t)0xffffffffu) /* in a 32-bit field: the value is in the zip64 field behind */

typedef struct zip_crc { uint32_t table[8][256]; } zip_crc; /* eight bytes a step */

static void zip_crc_init(zip_crc *crc) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
        crc->table[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc->table[t][i] = crc->table[t - 1][i] >> 8 ^ crc->table[0][crc->table[t - 1][i] & 255];
}

static uint32_t zip_crc_of(const zip_crc *crc, const uint8_t *p, uint64_t size) {
    const uint32_t (*t)[256] = crc->table;
    uint32_t c = 0xffffffffu;
    for (; size >= 8; size -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = t[7][c & 255] ^ t[6][c >> 8 & 255] ^ t[5][c >> 16 & 255] ^ t[4][c >> 24] ^
            t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
    }
    while (size--) c = c >> 8 ^ t[0][(c ^ *p++) & 255];
    return ~c;
}

/* Bits of a deflate stream, lowest first. Behind the end come zeros; taking one of them sets `failed`. */
typedef struct zip_bits { const uint8_t *at, *end; uint64_t hold; int count; bool failed; } zip_bits;

static void zip_fill(zip_bits *b) {
    while (b->count <= 56 && b->at < b->end) {
        b->hold |= (uint64_t)*b->at++ << b->count;
        b->count += 8;
    }
}

static void zip_drop(zip_bits *b, int count) {
    if (count > b->count) {
        b->failed = true;
        b->hold = 0;
        b->count = 0;
        return;
    }
    b->hold >>= count;
    b->count -= count;
}

static uint32_t zip_take(zip_bits *b, int count) {
    zip_fill(b);
    uint32_t value = (uint32_t)(b->hold & (((uint64_t)1 << count) - 1));
    zip_drop(b, count);
    return value;
}

/* A canonical Huffman code: codes of up to ZIP_FAST_BITS bits by table (symbol << 4 | length), the rest by counting. */
typedef struct zip_codes {
    uint16_t fast[1 << ZIP_FAST_BITS];
    uint16_t count[16], symbols[288];
} zip_codes;

/* False when the lengths are no prefix code. Incomplete codes are allowed where deflate does: one code or none. */
static bool zip_codes_build(zip_codes *codes, const uint8_t *lengths, int count) {
    memset(codes, 0, sizeof *codes);
    for (int i = 0; i < count; i++) codes->count[lengths[i]]++;
    int used = count - codes->count[0], left = 1, offset[17] = {0};
    codes->count[0] = 0;
    uint32_t next[16] = {0};
    for (int length = 1; length <= 15; length++) {
        left = left * 2 - codes->count[length];
        if (left < 0) return false;
        offset[length + 1] = offset[length] + codes->count[length];
        next[length] = (next[length - 1] + codes->count[length - 1]) << 1;
    }
    if (left > 0 && used > 1) return false;
    for (int i = 0; i < count; i++) {
        int length = lengths[i];
        if (!length) continue;
        codes->symbols[offset[length]++] = (uint16_t)i;
        uint32_t code = next[length]++, reversed = 0;
        for (int bit = 0; bit < length; bit++) reversed |= (code >> bit & 1) << (length - 1 - bit);
        for (; length <= ZIP_FAST_BITS && reversed < 1 << ZIP_FAST_BITS; reversed += 1u << length)
            codes->fast[reversed] = (uint16_t)(i << 4 | length);
    }
    return true;
}

/* The next symbol, or -1 for a code that stands for nothing. */
static int zip_symbol(zip_bits *b, const zip_codes *codes) {
    zip_fill(b);
    int entry = codes->fast[b->hold & ((1 << ZIP_FAST_BITS) - 1)];
    if (entry) {
        zip_drop(b, entry & 15);
        return entry >> 4;
    }
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= 15; length++) {
        code |= (int)(b->hold >> (length - 1) & 1);
        int count = codes->count[length];
        if (code - first < count) {
            zip_drop(b, length);
            return codes->symbols[index + code - first];
        }
        index += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    return -1;
}

typedef struct zip_inflater { zip_bits bits; uint8_t *out; uint64_t size, done; zip_codes literals, distances; } zip_inflater;

static bool zip_inflate_stored(zip_inflater *z) {
    zip_bits *b = &z->bits;
    zip_drop(b, b->count & 7);
    uint32_t length = zip_take(b, 16), check = zip_take(b, 16);
    if (b->failed || (length ^ 0xffff) != check || length > z->size - z->done) return false;
    for (; length && b->count; length--) { /* whole bytes that were taken ahead */
        z->out[z->done++] = (uint8_t)b->hold;
        zip_drop(b, 8);
    }
    if (length > (uint64_t)(b->end - b->at)) return false;
    if (length) memcpy(z->out + z->done, b->at, length);
    b->at += length;
    z->done += length;
    return true;
}

static bool zip_inflate_compressed(zip_inflater *z) {
    static const uint16_t length_base[] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t length_extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t distance_base[] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static const uint8_t distance_extra[] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
    for (;;) {
        int symbol = zip_symbol(&z->bits, &z->literals);
        if (symbol < 0 || z->bits.failed) return false;
        if (symbol == 256) return true;
        if (symbol < 256) {
            if (z->done == z->size) return false;
            z->out[z->done++] = (uint8_t)symbol;
            continue;
        }
        if (symbol - 257 >= YOLO_COUNT(length_base)) return false;
        uint32_t length = length_base[symbol - 257] + zip_take(&z->bits, length_extra[symbol - 257]);
        int code = zip_symbol(&z->bits, &z->distances);
        if (code < 0 || code >= YOLO_COUNT(distance_base)) return false;
        uint32_t distance = distance_base[code] + zip_take(&z->bits, distance_extra[code]);
        if (z->bits.failed || distance > z->done || length > z->size - z->done) return false;
        for (; length; length--, z->done++) z->out[z->done] = z->out[z->done - distance];
    }
}

/* The code tables that a dynamic block begins with. */
static bool zip_inflate_tables(zip_inflater *z) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[320] = {0};
    int literals = (int)zip_take(&z->bits, 5) + 257, distances = (int)zip_take(&z->bits, 5) + 1;
    int count = (int)zip_take(&z->bits, 4) + 4;
    if (literals > 286 || distances > 30) return false;
    for (int i = 0; i < count; i++) lengths[order[i]] = (uint8_t)zip_take(&z->bits, 3);
    if (z->bits.failed || !zip_codes_build(&z->literals, lengths, 19)) return false;
    memset(lengths, 0, sizeof lengths);
    for (int i = 0; i < literals + distances;) {
        int symbol = zip_symbol(&z->bits, &z->literals), repeat = 1;
        uint8_t length = (uint8_t)symbol;
        if (symbol < 0 || symbol > 18 || (symbol == 16 && !i)) return false;
        if (symbol == 16) {
            length = lengths[i - 1];
            repeat = 3 + (int)zip_take(&z->bits, 2);
        } else if (symbol > 16) {
            length = 0;
            repeat = symbol == 17 ? 3 + (int)zip_take(&z->bits, 3) : 11 + (int)zip_take(&z->bits, 7);
        }
        if (z->bits.failed || repeat > literals + distances - i) return false;
        while (repeat--) lengths[i++] = length;
    }
    return lengths[256] && zip_codes_build(&z->literals, lengths, literals) &&
           zip_codes_build(&z->distances, lengths + literals, distances);
}

static bool zip_inflate_fixed(zip_inflater *z) {
    uint8_t lengths[288];
    for (int i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    if (!zip_codes_build(&z->literals, lengths, 288)) return false;
    memset(lengths, 5, 32);
    return zip_codes_build(&z->distances, lengths, 32);
}

/* Inflates into exactly `size` bytes; false when the stream is damaged, too short or too long. */
static bool zip_inflate(zip_inflater *z, const uint8_t *packed, uint64_t packed_size, uint8_t *out, uint64_t size) {
    z->bits = (zip_bits){.at = packed, .end = packed + packed_size};
    z->out = out;
    z->size = size;
    z->done = 0;
    for (bool last = false; !last;) {
        last = zip_take(&z->bits, 1);
        uint32_t type = zip_take(&z->bits, 2);
        if (z->bits.failed || type == 3) return false;
        if (type == 0 ? !zip_inflate_stored(z)
                      : !(type == 1 ? zip_inflate_fixed(z) : zip_inflate_tables(z)) || !zip_inflate_compressed(z)) return false;
    }
    return z->done == z->size;
}

typedef struct zip_entry {
    const char *name; /* NUL-terminated */
    uint32_t crc;
    int method;       /* 0 stored, 8 deflated */
    uint64_t packed, size;
    uint64_t header;  /* of the local header */
    uint64_t data;    /* of the first byte */
    const uint8_t *bytes; /* once read */
} zip_entry;

typedef struct zip_archive {
    const char *path;     /* for messages */
    const uint8_t *bytes;
    size_t size;
    zip_entry *entries;   /* by name */
    int count;
    uint64_t budget;      /* of bytes that may still be inflated */
    zip_crc crc;
    arena memory;
} zip_archive;

static int zip_by_name(const void *a, const void *b) {
    return strcmp(((const zip_entry *)a)->name, ((const zip_entry *)b)->name);
}
static int zip_by_header(const void *a, const void *b) {
    uint64_t x = ((const zip_entry *)a)->header, y = ((const zip_entry *)b)->header;
    return x < y ? -1 : x > y;
}

static void zip_close(zip_archive *zip) {
    arena_free(&zip->memory);
    memset(zip, 0, sizeof *zip);
}

/* Where the directory is: from the end record, or its 64-bit form when one of the fields is full. */
static yolo_status zip_find_directory(const zip_archive *zip, uint64_t *at, uint64_t *size, uint64_t *count, yolo_error *error) {
    const char *path = zip->path;
    if (zip->size < 22) return err_set(error, YOLO_ERROR_FORMAT, "%s: %zu bytes, expected a zip archive", path, zip->size);
    size_t end = zip->size - 22, lowest = end > 65535 ? end - 65535 : 0;
    cur c;
    for (;; end--) {
        c = cur_make(zip->bytes, zip->size);
        cur_seek(&c, end);
        if (cur_le(&c, 4) == 0x06054b50 && cur_seek(&c, end + 20) && cur_le(&c, 2) == zip->size - end - 22) break;
        if (end == lowest) return err_set(error, YOLO_ERROR_FORMAT, "%s: no zip directory at its end: not a checkpoint, or cut off", path);
    }
    cur_seek(&c, end + 10);
    *count = cur_le(&c, 2);
    *size = cur_le(&c, 4);
    *at = cur_le(&c, 4);
    uint64_t limit = end;
    if (*count == 0xffff || *size == 0xffffffffu || *at == 0xffffffffu) {
        cur_seek(&c, end >= 20 ? end - 20 : end);
        uint64_t mark = cur_le(&c, 4);
        cur_le(&c, 4);
        limit = cur_le(&c, 8);
        cur_seek(&c, limit);
        if (c.failed || mark != 0x07064b50 || cur_le(&c, 4) != 0x06064b50 || limit > end - 20)
            return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %zu: damaged zip64 directory", path, end);
        cur_seek(&c, limit + 32);
        *count = cur_le(&c, 8);
        *size = cur_le(&c, 8);
        *at = cur_le(&c, 8);
    }
    if (c.failed || *at > limit || *size > limit - *at || *count > *size / 46)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %zu: zip directory lies outside the file", path, end);
    return YOLO_OK;
}

/* The 64-bit values that replace full 32-bit fields, in the fixed order size, packed, header. */
static void zip_extra64(cur extra, zip_entry *entry) {
    while (!extra.failed && extra.at < extra.size) {
        uint64_t id = cur_le(&extra, 2), length = cur_le(&extra, 2);
        const uint8_t *field = cur_take(&extra, length);
        if (id != 1 || !field) continue;
        cur c = cur_make(field, (size_t)length);
        if (entry->size == 0xffffffffu) entry->size = cur_le(&c, 8);
        if (entry->packed == 0xffffffffu) entry->packed = cur_le(&c, 8);
        if (entry->header == 0xffffffffu) entry->header = cur_le(&c, 8);
        return;
    }
}

/* One record of the directory. */
static yolo_status zip_read_record(zip_archive *zip, cur *c, zip_entry *entry, yolo_error *error) {
    size_t start = c->at;
    uint64_t mark = cur_le(c, 4);
    cur_le(c, 4);
    uint64_t flags = cur_le(c, 2);
    entry->method = (int)cur_le(c, 2);
    cur_le(c, 4);
    entry->crc = (uint32_t)cur_le(c, 4);
    entry->packed = cur_le(c, 4);
    entry->size = cur_le(c, 4);
    size_t name_length = (size_t)cur_le(c, 2), extra_length = (size_t)cur_le(c, 2), comment_length = (size_t)cur_le(c, 2);
    cur_le(c, 8);
    entry->header = cur_le(c, 4);
    const uint8_t *name = cur_take(c, name_length), *extra = cur_take(c, extra_length);
    cur_take(c, comment_length);
    if (c->failed || mark != 0x02014b50) return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %zu: damaged zip directory", zip->path, start);
    if (memchr(name, 0, name_length)) return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %zu: zip entry name with a NUL", zip->path, start);
    if (!(entry->name = arena_text(&zip->memory, (const char *)name, name_length))) return err_memory(error, name_length);
    zip_extra64(cur_make(extra, extra_length), entry);
    if (flags & 1) return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: zip entry %s is encrypted", zip->path, entry->name);
    if (entry->method != 0 && entry->method != 8)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: zip entry %s: compression method %d, expected stored or deflated",
                       zip->path, entry->name, entry->method);
    if (entry->size > ZIP_ENTRY_CAP || (entry->method == 0 && entry->size != entry->packed))
        return err_set(error, YOLO_ERROR_FORMAT, "%s: zip entry %s: impossible size %llu", zip->path, entry->name,
                       (unsigned long long)entry->size);
    cur local = cur_make(zip->bytes, zip->size);
    cur_seek(&local, entry->header);
    uint64_t local_mark = cur_le(&local, 4);
    cur_take(&local, 22);
    uint64_t local_name = cur_le(&local, 2), local_extra = cur_le(&local, 2);
    const uint8_t *again = cur_take(&local, local_name);
    cur_take(&local, local_extra);
    entry->data = local.at;
    if (!again || local_mark != 0x04034b50 || local_name != name_length || memcmp(again, name, name_length) || !cur_take(&local, entry->packed))
        return err_set(error, YOLO_ERROR_FORMAT, "%s: byte %llu: zip entry %s: damaged header, or data cut off", zip->path,
                       (unsigned long long)entry->header, entry->name);
    return YOLO_OK;
}

/* Reads the directory of the archive in `bytes`. On error there is nothing to close. */
static yolo_status zip_open(zip_archive *zip, const char *path, const uint8_t *bytes, size_t size, yolo_error *error) {
    uint64_t at = 0, length = 0, count = 0;
    memset(zip, 0, sizeof *zip);
    zip->path = path;
    zip->bytes = bytes;
    zip->size = size;
    zip->budget = ((uint64_t)256 << 20) + 8 * (uint64_t)size;
    yolo_status status = zip_find_directory(zip, &at, &length, &count, error);
    if (status != YOLO_OK) return status;
    zip_crc_init(&zip->crc);
    if (!(zip->entries = arena_array(&zip->memory, count, sizeof *zip->entries))) status = err_memory(error, count * sizeof *zip->entries);
    cur c = cur_make(bytes, (size_t)(at + length));
    cur_seek(&c, at);
    for (uint64_t i = 0; i < count && status == YOLO_OK; i++) status = zip_read_record(zip, &c, &zip->entries[i], error);
    if (status == YOLO_OK) {
        zip->count = (int)count;
        qsort(zip->entries, (size_t)count, sizeof *zip->entries, zip_by_header);
        for (int i = 0; i < zip->count && status == YOLO_OK; i++) {
            const zip_entry *entry = &zip->entries[i];
            if (entry->data + entry->packed > (i + 1 < zip->count ? entry[1].header : at))
                status = err_set(error, YOLO_ERROR_FORMAT, "%s: zip entry %s overlaps what follows it", path, entry->name);
        }
        qsort(zip->entries, (size_t)count, sizeof *zip->entries, zip_by_name);
        for (int i = 1; i < zip->count && status == YOLO_OK; i++)
            if (!strcmp(zip->entries[i - 1].name, zip->entries[i].name))
                status = err_set(error, YOLO_ERROR_FORMAT, "%s: two zip entries are named %s", path, zip->entries[i].name);
    }
    if (status != YOLO_OK) zip_close(zip);
    return status;
}

/* The entry of that name, or NULL. */
static zip_entry *zip_find(const zip_archive *zip, const char *name) {
    zip_entry key = {.name = name};
    return zip->count ? bsearch(&key, zip->entries, (size_t)zip->count, sizeof key, zip_by_name) : NULL;
}

/* An entry's bytes, checked, in *bytes: valid as long as the archive. The second time costs nothing. */
static yolo_status zip_read(zip_archive *zip, zip_entry *entry, const uint8_t **bytes, yolo_error *error) {
    *bytes = entry->bytes;
    if (entry->bytes) return YOLO_OK;
    const uint8_t *data = zip->bytes + entry->data;
    if (entry->method == 8) {
        uint8_t *out = NULL;
        zip_inflater *inflater = NULL;
        /* deflate cannot make more than 1032 bytes out of one */
        bool possible = entry->size / 1032 <= entry->packed && entry->size <= zip->budget;
        if (!possible) return err_set(error, YOLO_ERROR_FORMAT, "%s: zip entry %s: %llu bytes from %llu, refused", zip->path, entry->name,
                                      (unsigned long long)entry->size, (unsigned long long)entry->packed);
        if (!(out = arena_alloc(&zip->memory, entry->size + 1)) || !(inflater = mem_alloc(sizeof *inflater))) return err_memory(error, entry->size);
        zip->budget -= entry->size;
        bool good = zip_inflate(inflater, data, entry->packed, out, entry->size);
        mem_free(inflater);
        if (!good) return err_set(error, YOLO_ERROR_FORMAT, "%s: zip entry %s: damaged deflate stream", zip->path, entry->name);
        data = out;
    }
    uint32_t crc = zip_crc_of(&zip->crc, data, entry->size);
    if (crc != entry->crc)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: zip entry %s: CRC-32 %08x, expected %08x: the file is damaged", zip->path,
                       entry->name, (unsigned)crc, (unsigned)entry->crc);
    *bytes = entry->bytes = data;
    return YOLO_OK;
}

/* Writes an archive of stored entries. Failures stick; zip_end reports the first. */
typedef struct zip_writer {
    const char *path;
    char *temporary;
    FILE *file;
    uint64_t at;
    int count;
    str directory;
    zip_crc crc;
    bool failed;
    char reason[160]; /* what the operating system said, "" = out of memory */
} zip_writer;

static yolo_status zip_begin(zip_writer *w, const char *path, yolo_error *error) {
    memset(w, 0, sizeof *w);
    w->path = path;
    zip_crc_init(&w->crc);
    return path_begin(path, &w->temporary, &w->file, error);
}

static void zip_put(str *s, uint64_t value, int count) {
    char bytes[8];
    for (int i = 0; i < count; i++) bytes[i] = (char)(value >> (8 * i));
    str_append(s, bytes, (size_t)count);
}

/* What local header and directory record share, from the version needed to the length of the extra field. The time
   is 0, as torch has it: the same contents give the same bytes. */
static void zip_put_fields(str *s, uint32_t crc, uint64_t size, size_t name_length, size_t extra_length) {
    zip_put(s, size >= ZIP_FULL ? 45 : 0, 2); /* version */
    zip_put(s, 0x0800, 2); /* names are UTF-8 */
    zip_put(s, 0, 2); /* stored */
    zip_put(s, 0, 4);
    zip_put(s, crc, 4);
    zip_put(s, YOLO_MIN(size, ZIP_FULL), 4);
    zip_put(s, YOLO_MIN(size, ZIP_FULL), 4);
    zip_put(s, name_length, 2);
    zip_put(s, extra_length, 2);
}

static void zip_write(zip_writer *w, const void *bytes, uint64_t size) {
    if (!w->failed && size && fwrite(bytes, 1, (size_t)size, w->file) != size) {
        os_reason(w->reason, sizeof w->reason);
        w->failed = true;
    }
    w->at += size;
}

/* The extra field with the values that 32 bits do not hold: sizes, and in the directory the place. */
static void zip_put_extra64(str *s, uint64_t size, uint64_t start) {
    int sizes = size >= ZIP_FULL ? 2 : 0, starts = start >= ZIP_FULL ? 1 : 0;
    if (!sizes && !starts) return;
    zip_put(s, 1, 2);
    zip_put(s, 8 * (uint64_t)(sizes + starts), 2);
    for (int i = 0; i < sizes; i++) zip_put(s, size, 8);
    if (starts) zip_put(s, start, 8);
}

static void zip_add(zip_writer *w, const char *name, const void *bytes, uint64_t size) {
    size_t length = strlen(name), wide = size >= ZIP_FULL ? 20 : 0;
    uint32_t crc = zip_crc_of(&w->crc, bytes, size);
    uint64_t start = w->at, plain = start + 30 + length + wide + 4; /* 4: the smallest extra field */
    size_t padding = (size_t)((ZIP_ALIGNMENT - plain % ZIP_ALIGNMENT) % ZIP_ALIGNMENT);
    str header = {0};
    zip_put(&header, 0x04034b50, 4);
    zip_put_fields(&header, crc, size, length, wide + 4 + padding);
    str_append(&header, name, length);
    zip_put_extra64(&header, size, 0);
    zip_put(&header, 'F' | 'B' << 8, 2); /* torch's mark for padding */
    zip_put(&header, padding, 2);
    for (size_t i = 0; i < padding; i++) str_append(&header, "Z", 1);
    wide = (size >= ZIP_FULL ? 16u : 0u) + (start >= ZIP_FULL ? 8u : 0u);
    zip_put(&w->directory, 0x02014b50, 4);
    zip_put(&w->directory, 0, 2);
    zip_put_fields(&w->directory, crc, size, length, wide ? 4 + wide : 0);
    zip_put(&w->directory, 0, 2 + 2 + 2); /* comment, disk, attributes */
    zip_put(&w->directory, 0, 4);
    zip_put(&w->directory, YOLO_MIN(start, ZIP_FULL), 4);
    str_append(&w->directory, name, length);
    zip_put_extra64(&w->directory, size, start);
    w->count++;
    w->failed |= header.failed || w->directory.failed;
    if (!header.failed) zip_write(w, header.text, (uint64_t)header.length);
    zip_write(w, bytes, size);
    str_free(&header);
}

/* The end records behind a directory at `start`. */
static void zip_put_end(zip_writer *w, uint64_t start, uint64_t length) {
    str *s = &w->directory;
    uint64_t count = (uint64_t)w->count;
    if (start >= ZIP_FULL || length >= ZIP_FULL || count >= 0xffff) {
        zip_put(s, 0x06064b50, 4);
        zip_put(s, 44, 8); /* bytes that follow */
        zip_put(s, 45 | 45 << 16, 4);
        zip_put(s, 0, 8);
        zip_put(s, count, 8);
        zip_put(s, count, 8);
        zip_put(s, length, 8);
        zip_put(s, start, 8);
        zip_put(s, 0x07064b50, 4);
        zip_put(s, 0, 4);
        zip_put(s, start + length, 8);
        zip_put(s, 1, 4);
    }
    zip_put(s, 0x06054b50, 4);
    zip_put(s, 0, 4);
    zip_put(s, YOLO_MIN(count, 0xffff), 2);
    zip_put(s, YOLO_MIN(count, 0xffff), 2);
    zip_put(s, YOLO_MIN(length, ZIP_FULL), 4);
    zip_put(s, YOLO_MIN(start, ZIP_FULL), 4);
    zip_put(s, 0, 2);
}

/* Ends what zip_begin began: with `good` the directory is written and the file put in place, else it is removed. A file
   that was there before stays as it was unless all went well. */
static yolo_status zip_end(zip_writer *w, bool good, yolo_error *error) {
    zip_put_end(w, w->at, (uint64_t)w->directory.length);
    w->failed |= w->directory.failed;
    if (good && !w->failed) zip_write(w, w->directory.text, (uint64_t)w->directory.length);
    bool failed = good && w->failed;
    yolo_status status = path_commit(w->path, w->temporary, w->file, good && !failed, true, error);
    if (failed) status = err_set(error, w->reason[0] ? YOLO_ERROR_IO : YOLO_ERROR_MEMORY, "%s: cannot write: %s after %.1f MiB", w->path,
                                 w->reason[0] ? w->reason : "out of memory", (double)w->at / 1048576);
    str_free(&w->directory);
    return status;
}

/* ==== 11 pkl_: pickles ==========================================================================================
   A machine that builds data and can run nothing: a global is a name, a call is a node. Invariants:
     1 Opcodes are obeyed one after another without recursion. The graph they build may share nodes and may have
       cycles: whoever walks it bounds depth and steps.
     2 Only names on the allow-list become global nodes; another one ends the reading with its name and position.
     3 Nodes live in the machine's arena, whose cap bounds the memory; texts may point into the pickle, which the
       caller keeps. Stack and memo have caps of their own.
   The writer emits protocol 2, what torch.save has always used. */

typedef enum pkl_kind {
    PKL_NONE, PKL_BOOL, PKL_INT, PKL_FLOAT, PKL_TEXT, PKL_BYTES, PKL_LIST, PKL_TUPLE, PKL_DICT, PKL_SET,
    PKL_GLOBAL,    /* text: "module.name" */
    PKL_OBJECT,    /* items: callable, arguments; then what was appended, or keys and values that were set */
    PKL_PERSISTENT /* items: the id */
} pkl_kind;

typedef struct pkl_node pkl_node;
struct pkl_node {
    pkl_kind kind;
    uint32_t at;      /* of its opcode in the pickle, for messages */
    union { int64_t integer; double number; const char *text; };
    int64_t length;   /* of the text */
    pkl_node **items; /* a DICT's are keys and values by turns */
    int64_t count, capacity;
    pkl_node *state;  /* what BUILD gave */
};

typedef struct pkl {
    const char *path; /* for messages */
    cur c;
    uint32_t at;      /* of the opcode in hand */
    pkl_node **stack;
    int64_t depth, stack_capacity;
    int64_t *marks, mark_count, mark_capacity;
    pkl_node **memo;
    int64_t memo_count, memo_capacity;
    pkl_node *root;   /* the result */
    yolo_error *error;
    yolo_status status;
    arena memory;
} pkl;

enum { PKL_STACK_CAP = 1 << 20, PKL_MEMO_CAP = 1 << 22, PKL_KEYS_CAP = 10000, PKL_SIZE_CAP = 64 << 20, PKL_MEMORY_CAP = 256 << 20 };

/* Fails with "PATH: byte N: ..." unless the machine has failed already. */
YOLO_PRINTF(2, 3)
static void pkl_fail(pkl *p, const char *format, ...) {
    if (p->status != YOLO_OK) return;
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    p->status = err_set(p->error, YOLO_ERROR_FORMAT, "%s: byte %u: %s", p->path, (unsigned)p->at, text);
}

static void pkl_fail_memory(pkl *p) {
    if (p->status != YOLO_OK) return;
    bool capped = p->memory.total > PKL_MEMORY_CAP - (1 << 20);
    p->status = capped ? err_set(p->error, YOLO_ERROR_MEMORY, "%s: byte %u: its objects take more than %d MiB, refused", p->path,
                                 (unsigned)p->at, PKL_MEMORY_CAP >> 20)
                       : err_memory(p->error, sizeof(pkl_node));
}

static pkl_node *pkl_new(pkl *p, pkl_kind kind) {
    pkl_node *node = arena_alloc(&p->memory, sizeof *node);
    if (!node) {
        pkl_fail_memory(p);
        return NULL;
    }
    node->kind = kind;
    node->at = p->at;
    return node;
}

/* NULL is let through, for the failed case: the machine stops after the opcode. */
static void pkl_push(pkl *p, pkl_node *node) {
    if (!node) return;
    if (p->depth >= PKL_STACK_CAP) pkl_fail(p, "stack deeper than %d", PKL_STACK_CAP);
    else if (!mem_grow(&p->stack, &p->stack_capacity, p->depth + 1, sizeof *p->stack)) pkl_fail_memory(p);
    else p->stack[p->depth++] = node;
}

/* The lowest stack position that an opcode may take from: nothing below the last mark. */
static int64_t pkl_floor(const pkl *p) { return p->mark_count ? p->marks[p->mark_count - 1] : 0; }

static pkl_node *pkl_pop(pkl *p) {
    if (p->depth <= pkl_floor(p)) {
        pkl_fail(p, "nothing on the stack");
        return NULL;
    }
    return p->stack[--p->depth];
}

static pkl_node *pkl_top(pkl *p) {
    if (p->depth <= pkl_floor(p)) {
        pkl_fail(p, "nothing on the stack");
        return NULL;
    }
    return p->stack[p->depth - 1];
}

/* Takes the last mark away: its items are stack[*start .. depth). */
static bool pkl_pop_mark(pkl *p, int64_t *start) {
    if (!p->mark_count) {
        pkl_fail(p, "no mark on the stack");
        return false;
    }
    *start = p->marks[--p->mark_count];
    return true;
}

static bool pkl_append(pkl *p, pkl_node *node, pkl_node *const *items, int64_t count) {
    if (node->count + count > node->capacity) {
        int64_t capacity = YOLO_MAX(node->count + count, node->capacity * 2);
        pkl_node **grown = arena_array(&p->memory, (uint64_t)capacity, sizeof *grown);
        if (!grown) {
            pkl_fail_memory(p);
            return false;
        }
        if (node->count) memcpy(grown, node->items, (size_t)node->count * sizeof *grown);
        node->items = grown;
        node->capacity = capacity;
    }
    if (count) memcpy(node->items + node->count, items, (size_t)count * sizeof *items);
    node->count += count;
    return true;
}

/* A new container of stack[start .. depth), which leave the stack for it. */
static void pkl_collect(pkl *p, pkl_kind kind, int64_t start) {
    pkl_node *node = pkl_new(p, kind);
    if (!node || !pkl_append(p, node, p->stack + start, p->depth - start)) return;
    if (kind == PKL_DICT && node->count % 2) {
        pkl_fail(p, "a key without a value");
        return;
    }
    p->depth = start;
    pkl_push(p, node);
}

static bool pkl_is_text(const pkl_node *node, const char *text) {
    return node && (node->kind == PKL_TEXT || node->kind == PKL_GLOBAL) && (size_t)node->length == strlen(text) &&
           !memcmp(node->text, text, (size_t)node->length);
}
static bool pkl_is_global(const pkl_node *node, const char *name) {
    return node && node->kind == PKL_GLOBAL && pkl_is_text(node, name);
}

/* The value of a text key in a DICT, or NULL: also when `dict` is NULL, something else, or of a size that no object with
   known keys has (looking would take a hostile file's time). */
static pkl_node *pkl_get(const pkl_node *dict, const char *key) {
    if (!dict || dict->kind != PKL_DICT || dict->count > 2 * PKL_KEYS_CAP) return NULL;
    for (int64_t i = dict->count - 2; i >= 0; i -= 2)
        if (dict->items[i]->kind == PKL_TEXT && pkl_is_text(dict->items[i], key)) return dict->items[i + 1];
    return NULL;
}

/* Item `index` of a TUPLE or LIST, or NULL. */
static pkl_node *pkl_item(const pkl_node *list, int64_t index) {
    return list && (list->kind == PKL_TUPLE || list->kind == PKL_LIST) && index < list->count ? list->items[index] : NULL;
}

/* The callable of an OBJECT, or NULL. */
static pkl_node *pkl_callable(const pkl_node *node) { return node && node->kind == PKL_OBJECT ? node->items[0] : NULL; }
/* An OBJECT's argument, or NULL. */
static pkl_node *pkl_argument(const pkl_node *node, int64_t index) {
    return node && node->kind == PKL_OBJECT ? pkl_item(node->items[1], index) : NULL;
}

/* What detection checkpoints hold. A module that ends in a dot stands for all modules below it, a name that begins
   with a star for all names with that end. */
static const struct { const char *module, *names; } pkl_allowed[] = {
    {"__builtin__", "set frozenset getattr slice complex bytearray list dict tuple int long float bool str unicode object range xrange"},
    {"builtins", "set frozenset getattr slice complex bytearray list dict tuple int float bool str object range"},
    {"_codecs", "encode"},
    {"copyreg", "_reconstructor"},
    {"copy_reg", "_reconstructor"},
    {"collections", "OrderedDict defaultdict Counter"},
    {"argparse", "Namespace"},
    {"types", "SimpleNamespace"},
    {"pathlib", "*Path"},
    {"pathlib._local", "*Path"},
    {"datetime", "datetime date time timedelta timezone"},
    {"numpy", "dtype ndarray bool_ int8 int16 int32 int64 uint8 float16 float32 float64"},
    {"numpy.core.multiarray", "scalar _reconstruct"},
    {"numpy._core.multiarray", "scalar _reconstruct"},
    {"numpy.dtypes", "*DType"},
    {"torch", "*Storage Size device dtype Tensor float32 float float16 half bfloat16 float64 double int8 int16 short int32 int "
              "int64 long uint8 uint16 uint32 uint64 bool strided contiguous_format channels_last preserve_format"},
    {"torch.cuda", "*Storage"},
    {"torch.storage", "UntypedStorage TypedStorage _UntypedStorage _TypedStorage"},
    {"torch.serialization", "_get_layout"},
    {"torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state"},
    {"torch.nn.parameter", "Parameter Buffer"},
    {"torch.nn.modules.", "*"},
    {"ultralytics.", "*"},
};

static bool pkl_name_listed(const char *names, const char *name, size_t length) {
    for (const char *p = names; *p;) {
        size_t word = strcspn(p, " ");
        if (*p == '*' ? length >= word - 1 && !memcmp(name + length - (word - 1), p + 1, word - 1)
                      : length == word && !memcmp(name, p, word)) return true;
        p += word;
        p += strspn(p, " ");
    }
    return false;
}

static bool pkl_global_allowed(const char *module, size_t module_length, const char *name, size_t name_length) {
    if (!name_length) return false;
    for (size_t i = 0; i < module_length + name_length; i++) { /* identifiers; dots in the module alone */
        char c = i < module_length ? module[i] : name[i - module_length];
        if (!isalnum((unsigned char)c) && c != '_' && (c != '.' || i >= module_length)) return false;
    }
    for (int i = 0; i < YOLO_COUNT(pkl_allowed); i++) {
        const char *allowed = pkl_allowed[i].module;
        size_t length = strlen(allowed);
        bool below = allowed[length - 1] == '.';
        if (below ? module_length >= length && !memcmp(module, allowed, length)
                  : module_length == length && !memcmp(module, allowed, length))
            if (pkl_name_listed(pkl_allowed[i].names, name, name_length)) return true;
    }
    return false;
}

/* Text of a file fit to be shown: at most 100 characters, no control characters. */
static void pkl_show(char out[104], const char *text, size_t length) {
    size_t n = YOLO_MIN(length, 100);
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i] < 32 || (unsigned char)text[i] > 126 ? '?' : text[i];
    memcpy(out + n, length > n ? "..." : "", length > n ? 4 : 1);
}

static void pkl_push_global(pkl *p, const char *module, size_t module_length, const char *name, size_t name_length) {
    if (!pkl_global_allowed(module, module_length, name, name_length)) {
        char shown_module[104], shown_name[104];
        pkl_show(shown_module, module, module_length);
        pkl_show(shown_name, name, name_length);
        bool old = module_length >= 7 && !memcmp(module, "models.", 7);
        pkl_fail(p, "global %s.%s is not allowed%s", shown_module, shown_name, old ? " (a YOLOv5 checkpoint? expected YOLOv8)" : "");
        return;
    }
    pkl_node *node = pkl_new(p, PKL_GLOBAL);
    char *text = node ? arena_alloc(&p->memory, module_length + name_length + 2) : NULL;
    if (!text) {
        pkl_fail_memory(p);
        return;
    }
    if (module_length == 11 && !memcmp(module, "__builtin__", 11)) { /* Python 2's name, which protocol 2 keeps */
        module = "builtins";
        module_length = 8;
    }
    memcpy(text, module, module_length);
    text[module_length] = '.';
    memcpy(text + module_length + 1, name, name_length);
    node->text = text;
    node->length = (int64_t)(module_length + 1 + name_length);
    pkl_push(p, node);
}

/* The rest of a line, without its end. */
static const char *pkl_line(pkl *p, size_t *length) {
    const uint8_t *start = p->c.bytes + p->c.at, *end = memchr(start, '\n', p->c.size - p->c.at);
    if (!end) {
        pkl_fail(p, "line cut off");
        return NULL;
    }
    *length = (size_t)(end - start);
    p->c.at += *length + 1;
    return (const char *)start;
}

static void pkl_push_int(pkl *p, int64_t value) {
    pkl_node *node = pkl_new(p, PKL_INT);
    if (node) node->integer = value;
    pkl_push(p, node);
}
static void pkl_push_bool(pkl *p, bool value) {
    pkl_node *node = pkl_new(p, PKL_BOOL);
    if (node) node->integer = value;
    pkl_push(p, node);
}
static void pkl_push_float(pkl *p, double value) {
    pkl_node *node = pkl_new(p, PKL_FLOAT);
    if (node) node->number = value;
    pkl_push(p, node);
}

/* A little-endian two's complement integer of any length; as a float where 64 bits do not hold it. */
static void pkl_push_long(pkl *p, uint64_t size) {
    const uint8_t *bytes = cur_take(&p->c, size);
    if (!bytes) return;
    bool negative = size && bytes[size - 1] & 0x80;
    if (size <= 8) {
        uint64_t value = negative ? UINT64_MAX : 0;
        for (uint64_t i = size; i--;) value = value << 8 | bytes[i];
        pkl_push_int(p, (int64_t)value);
        return;
    }
    double value = negative ? -1 : 0;
    for (uint64_t i = size; i--;) value = value * 256 + bytes[i];
    pkl_push_float(p, value);
}

/* Protocol 0's numbers in decimal. */
static void pkl_push_decimal(pkl *p, bool is_float) {
    size_t length;
    const char *line = pkl_line(p, &length);
    if (!line) return;
    if (!is_float && length == 2 && line[0] == '0' && (line[1] == '0' || line[1] == '1')) {
        pkl_push_bool(p, line[1] == '1');
        return;
    }
    if (length && line[length - 1] == 'L') length--;
    bool negative = length && line[0] == '-', whole = !is_float && length > (size_t)negative;
    uint64_t magnitude = 0, limit = (uint64_t)INT64_MAX + negative;
    for (size_t i = negative; i < length && whole; i++) {
        uint64_t digit = (uint64_t)(unsigned char)line[i] - '0';
        whole = digit <= 9 && magnitude <= (limit - digit) / 10;
        if (whole) magnitude = magnitude * 10 + digit;
    }
    double number = NAN; /* also for the names of what is no number */
    if (whole) pkl_push_int(p, (int64_t)(negative ? 0 - magnitude : magnitude));
    else if (str_to_number(line, length, &number) || is_float) pkl_push_float(p, number);
    else pkl_fail(p, "not a number");
}

static void pkl_push_text(pkl *p, pkl_kind kind, const char *text, size_t length) {
    pkl_node *node = text ? pkl_new(p, kind) : NULL;
    if (!node) return;
    node->text = text;
    node->length = (int64_t)length;
    pkl_push(p, node);
}

static void pkl_push_counted(pkl *p, pkl_kind kind, int count_bytes) {
    uint64_t length = cur_le(&p->c, count_bytes);
    const uint8_t *text = cur_take(&p->c, length);
    if (text) pkl_push_text(p, kind, (const char *)text, (size_t)length);
}

/* Appends a character as UTF-8; returns its length. */
static size_t pkl_put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    out[0] = (char)((0xf0 << (3 - more) & 0xff) | c >> (6 * more));
    for (int i = 1; i <= more; i++) out[i] = (char)(0x80 | (c >> (6 * (more - i)) & 63));
    return (size_t)more + 1;
}

/* Protocol 0's texts: STRING is a quoted Python literal, UNICODE has \u escapes alone. */
static void pkl_push_escaped(pkl *p, bool quoted) {
    static const char from[] = "\\'\"nrtabfv", to[] = "\\'\"\n\r\t\a\b\f\v";
    size_t length, n = 0;
    const char *line = pkl_line(p, &length);
    if (!line) return;
    if (quoted && (length < 2 || (line[0] != '\'' && line[0] != '"') || line[length - 1] != line[0])) {
        pkl_fail(p, "text without quotes");
        return;
    }
    const char *end = line + length - quoted;
    char *text = arena_alloc(&p->memory, 2 * (uint64_t)length + 1);
    if (!text) {
        pkl_fail_memory(p);
        return;
    }
    for (line += quoted; line < end;) {
        unsigned char c = (unsigned char)*line++;
        int digits = 0;
        const char *escape = NULL;
        if (c == '\\' && line < end) {
            digits = *line == 'u' && !quoted ? 4 : *line == 'U' && !quoted ? 8 : *line == 'x' && quoted ? 2 : 0;
            escape = quoted ? memchr(from, *line, sizeof from - 1) : NULL;
        }
        if (escape) {
            c = (unsigned char)to[escape - from];
            line++;
        } else if (digits) {
            uint32_t value = 0;
            if (end - line <= digits) break;
            for (int i = 1; i <= digits; i++)
                value = value << 4 | (uint32_t)(isdigit((unsigned char)line[i]) ? line[i] - '0' : (tolower((unsigned char)line[i]) - 'a' + 10) & 15);
            line += digits + 1;
            n += pkl_put_utf8(text + n, value & 0x1fffff);
            continue;
        }
        if (quoted) text[n++] = (char)c;
        else n += pkl_put_utf8(text + n, c);
    }
    pkl_push_text(p, PKL_TEXT, text, n);
}

static void pkl_memo_put(pkl *p, uint64_t index) {
    pkl_node *node = pkl_top(p);
    if (!node) return;
    if (index >= PKL_MEMO_CAP) pkl_fail(p, "memo index %llu, expected less than %d", (unsigned long long)index, PKL_MEMO_CAP);
    else if (!mem_grow(&p->memo, &p->memo_capacity, (int64_t)index + 1, sizeof *p->memo)) pkl_fail_memory(p);
    else {
        p->memo_count += !p->memo[index];
        p->memo[index] = node;
    }
}

static void pkl_memo_get(pkl *p, uint64_t index) {
    if (index >= (uint64_t)p->memo_capacity || !p->memo[index]) pkl_fail(p, "memo index %llu was never set", (unsigned long long)index);
    else pkl_push(p, p->memo[index]);
}

static uint64_t pkl_line_index(pkl *p) {
    size_t length;
    uint64_t value = 0;
    const char *line = pkl_line(p, &length);
    for (size_t i = 0; line && i < length; i++) {
        if (!isdigit((unsigned char)line[i]) || value > PKL_MEMO_CAP) {
            pkl_fail(p, "not a memo index");
            break;
        }
        value = value * 10 + (uint64_t)(line[i] - '0');
    }
    return value;
}

/* callable(*arguments): the containers of the standard library become what they are, all else stays a node. */
static void pkl_call(pkl *p, pkl_node *callable, pkl_node *arguments) {
    if (!callable || !arguments) return;
    if (callable->kind != PKL_GLOBAL) {
        pkl_fail(p, "call of something that is not a global");
        return;
    }
    if (arguments->kind != PKL_TUPLE) {
        pkl_fail(p, "call with arguments that are not a tuple");
        return;
    }
    bool dict = pkl_is_text(callable, "collections.OrderedDict") || pkl_is_text(callable, "builtins.dict");
    bool set = pkl_is_text(callable, "builtins.set") || pkl_is_text(callable, "builtins.frozenset");
    pkl_node *given = arguments->count == 1 && pkl_item(arguments->items[0], 0) ? arguments->items[0] : NULL;
    pkl_node *node = pkl_new(p, dict ? PKL_DICT : set ? PKL_SET : PKL_OBJECT);
    if (!node) return;
    if (dict) {
        for (int64_t i = 0; given && i < given->count; i++) {
            pkl_node *pair = given->items[i];
            if (!pkl_item(pair, 1) || pair->count != 2) {
                pkl_fail(p, "expected pairs of key and value");
                return;
            }
            if (!pkl_append(p, node, pair->items, 2)) return;
        }
    } else if (set) {
        if (given && !pkl_append(p, node, given->items, given->count)) return;
    } else {
        pkl_node *items[2] = {callable, arguments};
        if (!pkl_append(p, node, items, 2)) return;
    }
    pkl_push(p, node);
}

/* Appends stack[start .. depth) to the container below them. */
static void pkl_extend(pkl *p, int64_t start, bool pairs) {
    if (start - 1 < pkl_floor(p)) {
        pkl_fail(p, "nothing to append to");
        return;
    }
    pkl_node *node = p->stack[start - 1];
    if (node->kind != PKL_OBJECT && node->kind != (pairs ? PKL_DICT : PKL_LIST) && !(node->kind == PKL_SET && !pairs)) {
        pkl_fail(p, "appends to something that is no container");
        return;
    }
    if (pairs && (p->depth - start) % 2) {
        pkl_fail(p, "a key without a value");
        return;
    }
    if (pkl_append(p, node, p->stack + start, p->depth - start)) p->depth = start;
}

/* Numbers and constants. False: not one of these opcodes. */
static bool pkl_step_number(pkl *p, int opcode) {
    switch (opcode) {
    case 'N': pkl_push(p, pkl_new(p, PKL_NONE)); return true;
    case 0x88: pkl_push_bool(p, true); return true;
    case 0x89: pkl_push_bool(p, false); return true;
    case 'I': case 'L': pkl_push_decimal(p, false); return true;
    case 'F': pkl_push_decimal(p, true); return true;
    case 'K': pkl_push_int(p, (int64_t)cur_le(&p->c, 1)); return true;
    case 'M': pkl_push_int(p, (int64_t)cur_le(&p->c, 2)); return true;
    case 'J': pkl_push_int(p, (int32_t)(uint32_t)cur_le(&p->c, 4)); return true;
    case 0x8a: pkl_push_long(p, cur_le(&p->c, 1)); return true;
    case 0x8b: pkl_push_long(p, cur_le(&p->c, 4)); return true;
    case 'G': {
        uint64_t bits = cur_be(&p->c, 8);
        double value;
        memcpy(&value, &bits, 8);
        pkl_push_float(p, value);
        return true;
    }
    default: return false;
    }
}

static bool pkl_step_text(pkl *p, int opcode) {
    switch (opcode) {
    case 'S': pkl_push_escaped(p, true); return true;
    case 'V': pkl_push_escaped(p, false); return true;
    case 'U': case 0x8c: pkl_push_counted(p, PKL_TEXT, 1); return true; /* SHORT_BINSTRING, SHORT_BINUNICODE */
    case 'T': case 'X': pkl_push_counted(p, PKL_TEXT, 4); return true;  /* BINSTRING, BINUNICODE */
    case 0x8d: pkl_push_counted(p, PKL_TEXT, 8); return true;           /* BINUNICODE8 */
    case 'C': pkl_push_counted(p, PKL_BYTES, 1); return true;
    case 'B': pkl_push_counted(p, PKL_BYTES, 4); return true;
    case 0x8e: case 0x96: pkl_push_counted(p, PKL_BYTES, 8); return true; /* BINBYTES8, BYTEARRAY8 */
    default: return false;
    }
}

static bool pkl_step_container(pkl *p, int opcode) {
    int64_t start = 0;
    switch (opcode) {
    case ')': pkl_collect(p, PKL_TUPLE, p->depth); return true;
    case ']': pkl_collect(p, PKL_LIST, p->depth); return true;
    case '}': pkl_collect(p, PKL_DICT, p->depth); return true;
    case 0x8f: pkl_collect(p, PKL_SET, p->depth); return true;
    case 't': case 'l': case 'd': case 0x91:
        if (pkl_pop_mark(p, &start))
            pkl_collect(p, opcode == 't' ? PKL_TUPLE : opcode == 'l' ? PKL_LIST : opcode == 'd' ? PKL_DICT : PKL_SET, start);
        return true;
    case 0x85: case 0x86: case 0x87:
        if (p->depth - pkl_floor(p) < opcode - 0x84) pkl_fail(p, "nothing on the stack");
        else pkl_collect(p, PKL_TUPLE, p->depth - (opcode - 0x84));
        return true;
    case 'a': pkl_extend(p, p->depth - 1, false); return true;
    case 's': pkl_extend(p, p->depth - 2, true); return true;
    case 'e': case 0x90:
        if (pkl_pop_mark(p, &start)) pkl_extend(p, start, false);
        return true;
    case 'u':
        if (pkl_pop_mark(p, &start)) pkl_extend(p, start, true);
        return true;
    default: return false;
    }
}

static void pkl_build(pkl *p) {
    pkl_node *state = pkl_pop(p), *object = state ? pkl_top(p) : NULL;
    if (!object) return;
    if (object->kind != PKL_OBJECT && object->kind != PKL_DICT) pkl_fail(p, "state for something that is no object");
    else object->state = state;
}

static void pkl_inst(pkl *p, int opcode) {
    int64_t start;
    pkl_node *callable;
    if (!pkl_pop_mark(p, &start)) return;
    if (opcode == 'i') { /* INST: the class in text behind the opcode, the arguments on the stack */
        size_t module_length, name_length;
        const char *module = pkl_line(p, &module_length), *name = module ? pkl_line(p, &name_length) : NULL;
        if (!name) return;
        pkl_collect(p, PKL_TUPLE, start);
        if (p->status == YOLO_OK) pkl_push_global(p, module, module_length, name, name_length);
        callable = p->status == YOLO_OK ? pkl_pop(p) : NULL;
    } else { /* OBJ: the class on the stack, below the arguments */
        if (start == p->depth) {
            pkl_fail(p, "nothing on the stack");
            return;
        }
        callable = p->stack[start];
        pkl_collect(p, PKL_TUPLE, start + 1);
        if (p->status == YOLO_OK) {
            p->stack[start] = p->stack[start + 1];
            p->depth = start + 1;
        }
    }
    if (p->status == YOLO_OK) pkl_call(p, callable, pkl_pop(p));
}

static void pkl_push_persistent(pkl *p, pkl_node *id) {
    pkl_node *node = id ? pkl_new(p, PKL_PERSISTENT) : NULL;
    if (node && pkl_append(p, node, &id, 1)) pkl_push(p, node);
}

static bool pkl_step_object(pkl *p, int opcode) {
    size_t module_length, name_length;
    pkl_node *a, *b;
    switch (opcode) {
    case 'c': {
        const char *module = pkl_line(p, &module_length), *name = module ? pkl_line(p, &name_length) : NULL;
        if (name) pkl_push_global(p, module, module_length, name, name_length);
        return true;
    }
    case 0x93: /* STACK_GLOBAL */
        b = pkl_pop(p);
        a = b ? pkl_pop(p) : NULL;
        if (a && (a->kind != PKL_TEXT || b->kind != PKL_TEXT)) pkl_fail(p, "global whose name is no text");
        else if (a) pkl_push_global(p, a->text, (size_t)a->length, b->text, (size_t)b->length);
        return true;
    case 'R': case 0x81: /* REDUCE, NEWOBJ */
        b = pkl_pop(p);
        if (b) pkl_call(p, pkl_pop(p), b);
        return true;
    case 0x92: /* NEWOBJ_EX: keyword arguments are of no use to data */
        a = pkl_pop(p);
        b = a ? pkl_pop(p) : NULL;
        if (b) pkl_call(p, pkl_pop(p), b);
        return true;
    case 'b': pkl_build(p); return true;
    case 'i': case 'o': pkl_inst(p, opcode); return true;
    case 'Q': pkl_push_persistent(p, pkl_pop(p)); return true;
    case 'P': {
        const char *id = pkl_line(p, &name_length);
        pkl_push_text(p, PKL_TEXT, id, name_length);
        if (p->status == YOLO_OK) pkl_push_persistent(p, pkl_pop(p));
        return true;
    }
    default: return false;
    }
}

/* Stack, memo and framing. */
static bool pkl_step_stack(pkl *p, int opcode) {
    int64_t start;
    switch (opcode) {
    case 0x80: {
        uint64_t protocol = cur_le(&p->c, 1);
        if (protocol > 5) pkl_fail(p, "pickle protocol %llu, expected 0 to 5", (unsigned long long)protocol);
        return true;
    }
    case 0x95: /* FRAME: only says how much follows */
        if (cur_le(&p->c, 8) > p->c.size - p->c.at) pkl_fail(p, "opcode 0x95 truncated");
        return true;
    case '(':
        if (p->mark_count >= PKL_STACK_CAP) pkl_fail(p, "more than %d marks", PKL_STACK_CAP);
        else if (!mem_grow(&p->marks, &p->mark_capacity, p->mark_count + 1, sizeof *p->marks)) pkl_fail_memory(p);
        else p->marks[p->mark_count++] = p->depth;
        return true;
    case '0':
        if (p->mark_count && p->depth == pkl_floor(p)) p->mark_count--; /* POP takes a mark, too */
        else pkl_pop(p);
        return true;
    case '1':
        if (pkl_pop_mark(p, &start)) p->depth = start;
        return true;
    case '2': pkl_push(p, pkl_top(p)); return true;
    case 'p': pkl_memo_put(p, pkl_line_index(p)); return true;
    case 'q': pkl_memo_put(p, cur_le(&p->c, 1)); return true;
    case 'r': pkl_memo_put(p, cur_le(&p->c, 4)); return true;
    case 0x94: pkl_memo_put(p, (uint64_t)p->memo_count); return true;
    case 'g': pkl_memo_get(p, pkl_line_index(p)); return true;
    case 'h': pkl_memo_get(p, cur_le(&p->c, 1)); return true;
    case 'j': pkl_memo_get(p, cur_le(&p->c, 4)); return true;
    default: return false;
    }
}

static void pkl_close(pkl *p) {
    mem_free(p->stack);
    mem_free(p->marks);
    mem_free(p->memo);
    arena_free(&p->memory);
    memset(p, 0, sizeof *p);
}

/* Reads one pickle; its result is p->root. `bytes` must outlive it. On error there is nothing to close. */
static yolo_status pkl_read(pkl *p, const char *path, const uint8_t *bytes, size_t size, yolo_error *error) {
    memset(p, 0, sizeof *p);
    if (size > PKL_SIZE_CAP)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: a pickle of %zu bytes, expected at most %d", path, size, PKL_SIZE_CAP);
    p->path = path;
    p->error = error;
    p->c = cur_make(bytes, size);
    p->memory.cap = PKL_MEMORY_CAP;
    while (p->status == YOLO_OK) {
        p->at = (uint32_t)p->c.at;
        int opcode = (int)cur_le(&p->c, 1);
        if (p->c.failed) pkl_fail(p, "pickle cut off");
        else if (opcode == '.') {
            p->root = pkl_pop(p);
            break;
        } else if (!pkl_step_stack(p, opcode) && !pkl_step_text(p, opcode) && !pkl_step_container(p, opcode) &&
                   !pkl_step_number(p, opcode) && !pkl_step_object(p, opcode))
            pkl_fail(p, "opcode 0x%02x is not allowed", (unsigned)opcode);
        if (p->c.failed) pkl_fail(p, "opcode 0x%02x truncated", (unsigned)opcode);
    }
    yolo_status status = p->status;
    if (status != YOLO_OK) pkl_close(p);
    return status;
}

/* A little-endian numpy scalar, by its type code: what numpy.core.multiarray.scalar(dtype, bytes) stands for. */
static val *pkl_scalar(arena *a, const pkl_node *node) {
    const pkl_node *type = pkl_argument(pkl_argument(node, 0), 0), *bytes = pkl_argument(node, 1);
    uint8_t raw[8] = {0};
    int64_t size = 0;
    bool encoded = pkl_is_global(pkl_callable(bytes), "_codecs.encode"); /* protocol 2 has bytes as latin-1 text */
    if (encoded) bytes = pkl_argument(bytes, 0);
    if (!type || type->kind != PKL_TEXT || !bytes || (bytes->kind != PKL_TEXT && bytes->kind != PKL_BYTES)) return val_new(a, VAL_NULL);
    for (int64_t i = 0; i < bytes->length && size < 8; i++) {
        uint8_t c = (uint8_t)bytes->text[i];
        bool two = encoded && (c & 0xe0) == 0xc0 && i + 1 < bytes->length;
        raw[size++] = two ? (uint8_t)(c << 6 | (bytes->text[++i] & 0x3f)) : c;
    }
    cur c = cur_make(raw, 8);
    uint64_t bits = cur_le(&c, 8);
    double wide;
    float narrow;
    memcpy(&wide, raw, 8);
    memcpy(&narrow, raw, 4);
    if (pkl_is_text(type, "f8")) return val_float(a, wide);
    if (pkl_is_text(type, "f4")) return val_float(a, (double)narrow);
    if (pkl_is_text(type, "f2")) return val_float(a, (double)f16_from_half((uint16_t)bits));
    if (pkl_is_text(type, "b1")) return val_bool(a, raw[0] != 0);
    if (pkl_is_text(type, "i8") || pkl_is_text(type, "u8")) return val_int(a, (int64_t)bits);
    if (pkl_is_text(type, "i4")) return val_int(a, (int32_t)bits);
    if (pkl_is_text(type, "i2")) return val_int(a, (int16_t)bits);
    if (pkl_is_text(type, "i1")) return val_int(a, (int8_t)bits);
    return type->length == 2 && type->text[0] == 'u' ? val_int(a, (int64_t)bits) : val_new(a, VAL_NULL);
}

enum { PKL_VAL_DEPTH = 24 };

/* Text made fit to be kept: well-formed UTF-8, other bytes as '?'. */
static val *pkl_val_text(arena *a, const pkl_node *node) {
    val *v = val_string(a, node->text ? node->text : "", (size_t)node->length);
    if (v && !str_is_utf8(v->text, v->length)) {
        char *text = arena_text(a, v->text, v->length);
        if (!text) return NULL;
        for (size_t i = 0; i < v->length; i++)
            if ((unsigned char)text[i] > 126) text[i] = '?';
        v->text = text;
    }
    return v;
}

/* pathlib's paths are pickled as their parts. */
static val *pkl_val_path(arena *a, const pkl_node *parts) {
    str path = {0};
    for (int64_t i = 0; i < parts->count; i++) {
        if (path.length && path.text[path.length - 1] != '/') str_add(&path, "/");
        if (parts->items[i]->kind == PKL_TEXT) str_append(&path, parts->items[i]->text, (size_t)parts->items[i]->length);
    }
    pkl_node text = {.kind = PKL_TEXT, .text = path.text, .length = path.length};
    val *v = path.failed ? NULL : pkl_val_text(a, &text);
    str_free(&path);
    return v;
}

static bool pkl_ends_with(const pkl_node *node, const char *end) {
    size_t length = strlen(end);
    return node && (size_t)node->length >= length && !memcmp(node->text + node->length - length, end, length);
}

/* Objects that are data in a wrapping (name spaces, devices, shapes) give what is inside. */
static const pkl_node *pkl_unwrap(const pkl_node *node) {
    for (int i = 0; i < PKL_VAL_DEPTH; i++) {
        const pkl_node *callable = pkl_callable(node), *inside = NULL;
        if (!callable) break;
        if (pkl_ends_with(callable, "Namespace")) inside = node->state;
        else if (pkl_is_text(callable, "torch.device") || pkl_is_text(callable, "torch.Size")) inside = pkl_argument(node, 0);
        if (!inside) break;
        node = inside;
    }
    return node;
}

static val *pkl_val_at(arena *a, const pkl_node *node, int depth, int64_t *budget) {
    if (depth > PKL_VAL_DEPTH || --*budget < 0) return val_string(a, "...", 3);
    node = pkl_unwrap(node);
    const pkl_node *callable = pkl_callable(node);
    bool dictionary = pkl_is_global(callable, "collections.defaultdict"), map = dictionary || node->kind == PKL_DICT;
    switch (node->kind) {
    case PKL_BOOL: return val_bool(a, node->integer != 0);
    case PKL_INT: return val_int(a, node->integer);
    case PKL_FLOAT: return val_float(a, node->number);
    case PKL_TEXT: case PKL_BYTES: case PKL_GLOBAL:
        *budget -= node->length / 64; /* a long text may be shared */
        return pkl_val_text(a, node);
    case PKL_NONE: case PKL_PERSISTENT: return val_new(a, VAL_NULL);
    default: break;
    }
    if (pkl_ends_with(callable, "Path")) return pkl_val_path(a, node->items[1]);
    if (pkl_ends_with(callable, "multiarray.scalar")) return pkl_scalar(a, node);
    if (callable && !dictionary) return pkl_val_text(a, callable); /* its class stands for what is not data */
    val *v = val_new(a, map ? VAL_MAP : VAL_LIST);
    for (int64_t i = dictionary ? 2 : 0; v && i + map < node->count; i += 1 + map) {
        val *key = map ? pkl_val_at(a, node->items[i], depth + 1, budget) : NULL;
        if (!val_add(a, v, key, pkl_val_at(a, node->items[i + map], depth + 1, budget))) return NULL;
    }
    return v;
}

/* Plain data as a value tree in `a`: deeper than PKL_VAL_DEPTH, or behind 200,000 values, stands "...". NULL for want
   of memory. Recursion is bounded by the depth. */
static val *pkl_val(arena *a, const pkl_node *node) {
    int64_t budget = 200000;
    return node ? pkl_val_at(a, node, 0, &budget) : val_new(a, VAL_NULL);
}

/* The writer. Texts that come often (attribute names, globals) are written once and fetched from the memo after that. */
typedef struct pkl_out { str bytes; const char *known[256]; int known_index[256]; int known_count, memo_count; } pkl_out;

static void pkl_put(pkl_out *o, int opcode) {
    char c = (char)opcode;
    str_append(&o->bytes, &c, 1);
}

static void pkl_put_le(pkl_out *o, uint64_t value, int count) {
    for (int i = 0; i < count; i++) pkl_put(o, (int)(value >> (8 * i) & 255));
}

/* Remembers the object just written; returns its number. */
static int pkl_put_memo(pkl_out *o) {
    int index = o->memo_count++;
    pkl_put(o, index < 256 ? 'q' : 'r');
    pkl_put_le(o, (uint64_t)index, index < 256 ? 1 : 4);
    return index;
}

static void pkl_put_again(pkl_out *o, int index) {
    pkl_put(o, index < 256 ? 'h' : 'j');
    pkl_put_le(o, (uint64_t)index, index < 256 ? 1 : 4);
}

/* True: it was known and is on the stack again. False: the caller writes it, this remembers it. `text` is static. */
static bool pkl_put_known(pkl_out *o, const char *text) {
    for (int i = 0; i < o->known_count; i++)
        if (!strcmp(o->known[i], text)) {
            pkl_put_again(o, o->known_index[i]);
            return true;
        }
    return false;
}

static void pkl_put_remember(pkl_out *o, const char *text) {
    if (o->known_count == YOLO_COUNT(o->known)) return;
    o->known[o->known_count] = text;
    o->known_index[o->known_count++] = pkl_put_memo(o);
}

static void pkl_put_bytes(pkl_out *o, const char *text, size_t length) {
    pkl_put(o, 'X');
    pkl_put_le(o, length, 4);
    str_append(&o->bytes, text, length);
}

static void pkl_put_text(pkl_out *o, const char *text) { pkl_put_bytes(o, text, strlen(text)); }

/* A text that outlives the writer and is likely to come again. */
static void pkl_put_key(pkl_out *o, const char *key) {
    if (pkl_put_known(o, key)) return;
    pkl_put_text(o, key);
    pkl_put_remember(o, key);
}

/* `name` is "module\nname\n", the form that the opcode wants, and outlives the writer. */
static void pkl_put_global(pkl_out *o, const char *name) {
    if (pkl_put_known(o, name)) return;
    pkl_put(o, 'c');
    str_add(&o->bytes, name);
    pkl_put_remember(o, name);
}

static void pkl_put_int(pkl_out *o, int64_t value) {
    if (value >= 0 && value < 256) {
        pkl_put(o, 'K');
        pkl_put_le(o, (uint64_t)value, 1);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        pkl_put(o, 'J');
        pkl_put_le(o, (uint64_t)value, 4);
    } else {
        pkl_put(o, 0x8a);
        pkl_put_le(o, 8, 1);
        pkl_put_le(o, (uint64_t)value, 8);
    }
}

static void pkl_put_bool(pkl_out *o, bool value) { pkl_put(o, value ? 0x88 : 0x89); }

static void pkl_put_float(pkl_out *o, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    pkl_put(o, 'G');
    for (int i = 7; i >= 0; i--) pkl_put(o, (int)(bits >> (8 * i) & 255));
}

/* A value tree; NULL writes None. The depth of such a tree is bounded where it is made (yaml_, pkl_val). */
static void pkl_put_val(pkl_out *o, const val *v) {
    if (!v || v->kind == VAL_NULL) pkl_put(o, 'N');
    else if (v->kind == VAL_BOOL) pkl_put_bool(o, v->integer != 0);
    else if (v->kind == VAL_INT) pkl_put_int(o, v->integer);
    else if (v->kind == VAL_FLOAT) pkl_put_float(o, v->number);
    else if (v->kind == VAL_STRING) pkl_put_bytes(o, v->text, v->length);
    else {
        bool map = v->kind == VAL_MAP;
        pkl_put(o, map ? '}' : ']');
        if (!v->count) return;
        pkl_put(o, '(');
        for (int64_t i = 0; i < v->count; i++) {
            if (map && v->keys[i]->kind >= VAL_LIST) continue; /* no key in Python */
            if (map) pkl_put_val(o, v->keys[i]);
            pkl_put_val(o, v->items[i]);
        }
        pkl_put(o, map ? 'u' : 'e');
    }
}

/* ==== 12 net_: model graph ======================================================================================
   A model is a flat list of operators over tensors by index, made by one builder from a yaml description. Nothing
   here depends on the input's size but net_shape. Inference, memory plan, summary, export and checkpoints walk this
   list; a new block is a row in the builder. A tensor is a channel slice of a buffer, so concatenations are written
   in place: the builder lays buffers out so that producers write straight into them, and adds a NET_COPY only where
   one tensor is part of two concatenations.

   1. Every tensor is `down` times smaller than the input on both sides, a power of two, whatever the input's size;
      so every size is a multiple of max_stride and no operator ever pads unevenly.
   2. Operators stand in the order in which they run, parameters in the order of ultralytics' state dict.
   3. A buffer lives from first_op to last_op, both included; the input (buffer 0) and the heads always live.
   4. A description may come from a hostile file: it is copied with a depth and node budget before it is read, and
      layers, operators, channels, repeats and parameters are capped. */

typedef enum net_activation { NET_LINEAR, NET_SILU, NET_RELU, NET_LEAKYRELU, NET_MISH } net_activation;
typedef enum net_kind { NET_CONV, NET_MAXPOOL, NET_UPSAMPLE, NET_COPY } net_kind;
typedef enum net_group { NET_DECAY, NET_NO_DECAY, NET_BIAS, NET_BN_STAT, NET_FROZEN } net_group;

typedef struct net_param { /* a row of the parameter table, in state-dict order */
    char name[80];      /* "model.0.conv.weight" */
    int dims[4], rank;  /* as a checkpoint has it: O,I,H,W for a convolution's weight */
    int64_t count;
    int64_t offset;     /* first element in the block of parameters; a weight lies there as O,H,W,I */
    net_group group;
    ten_dtype stored;   /* what the checkpoint had; what is written back */
} net_param;

typedef struct net_tensor {
    int buffer;         /* index into buffers */
    int channel;        /* first channel of the slice */
    int channels;
} net_tensor;

typedef struct net_buffer {
    int channels;
    int down;               /* the input's height and width divided by this one's */
    int first_op, last_op;  /* lifetime, see 3 above */
    int h, w;               /* h, w, offset (in floats): set by net_shape */
    int64_t offset;
} net_buffer;

typedef struct net_op {
    net_kind kind;
    int layer;             /* row of the yaml description, for messages and the summary */
    int in, out, residual; /* tensors; residual -1 = none, else out = residual + act(conv(in)) */
    int kernel, stride, padding;
    net_activation activation;
    int weight, bias, bn;  /* rows of the parameter table, -1 = none; bn: gamma, then beta, mean, variance, (count) */
} net_op;

typedef enum net_module {
    NET_MODULE_CONV, NET_MODULE_C2F, NET_MODULE_SPPF, NET_MODULE_UPSAMPLE, NET_MODULE_CONCAT, NET_MODULE_DETECT
} net_module;

typedef struct net_layer { /* a row of the yaml description */
    char type[24];         /* Conv, C2f, SPPF, nn.Upsample -> "Upsample", Concat, Detect */
    net_module module;
    int from[8], from_count; /* rows, absolute; -1 = the input */
    int repeats;           /* after scaling by depth */
    int in_channels, out_channels, kernel, stride;
    bool shortcut;
    int output;            /* tensor; -1 for Detect */
    int first_op, op_count;
    int first_param, param_count;
    int padding, hidden;   /* Conv; channels between the convolutions of C2f and SPPF */
    int pools;             /* SPPF */
    bool activated;        /* Conv; first convolution of SPPF */
    int down;              /* of the output */
    int home, home_channel; /* buffer and first channel of the output; home -1 until placed */
    char arguments[48];    /* for the summary */
} net_layer;

enum {
    NET_MAX_LEVELS = 5, NET_REG_MAX = 16,
    NET_MAX_LAYERS = 256, NET_MAX_OPS = 1024, NET_MAX_CHANNELS = 8192, NET_MAX_REPEATS = 64, NET_MAX_KERNEL = 15,
    NET_MAX_DOWN = 256, NET_MAX_PARAM_ELEMENTS = 200000000, NET_MAX_YAML_DEPTH = 12, NET_MAX_YAML_NODES = 20000
};
#define NET_BN_EPS 1e-3
#define NET_BN_MOMENTUM 0.03
#define NET_LEAKYRELU_SLOPE 0.01 /* torch's default */

typedef struct net {
    arena memory;           /* holds everything below */
    int class_count;
    char **names;
    net_activation activation;
    double slope;           /* of NET_LEAKYRELU */
    double depth, width;
    int max_channels;
    char scale;             /* 'n' 's' 'm' 'l' 'x', or 0 */
    bool fused;             /* convolutions have a bias and no batch norm */
    double bn_eps, bn_momentum;
    val *yaml;              /* the description the model was built from, as ultralytics keeps it in the checkpoint */
    net_layer *layers; int layer_count;
    net_op *ops;       int op_count;
    net_tensor *tensors; int tensor_count;
    net_buffer *buffers; int buffer_count;
    int *plan_order, plan_count; /* of net_order */
    net_param *params; int param_count;
    int64_t param_elements; /* size of the block of parameters */
    int input;              /* tensor */
    int level_count;        /* detection levels */
    int heads[NET_MAX_LEVELS];  /* tensors of 4*NET_REG_MAX box logits followed by class_count class logits */
    int strides[NET_MAX_LEVELS];
    int max_stride;
    /* set by net_shape */
    int n, h, w;
    int64_t arena_floats;   /* activations, planned by lifetime */
    double flops;           /* 2 * multiply-adds of one forward pass */
} net;

typedef struct net_builder {
    net *net;
    int class_channels; /* of the head's class branch; 0 = by rule */
    yolo_error *error;
    yolo_status status; /* sticky */
} net_builder;

/* Records the first failure of a build, with the layer it is about (-1 = none). Returns false. */
YOLO_PRINTF(4, 5)
static bool net_fail(net_builder *b, yolo_status status, int layer, const char *format, ...) {
    char text[512];
    va_list arguments;
    if (b->status != YOLO_OK) return false;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (layer < 0) b->status = err_set(b->error, status, "model description: %s", text);
    else b->status = err_set(b->error, status, "model description: layer %d: %s", layer, text);
    return false;
}

static bool net_fail_memory(net_builder *b) {
    if (b->status == YOLO_OK) b->status = err_memory(b->error, b->net->memory.total);
    return false;
}

/* A copy of a tree that may come from a pickle, where lists can hold themselves: depth and nodes are limited. */
static val *net_copy_val(net_builder *b, const val *v, int depth, int *nodes) {
    arena *memory = &b->net->memory;
    if (depth > NET_MAX_YAML_DEPTH || ++*nodes > NET_MAX_YAML_NODES) {
        net_fail(b, YOLO_ERROR_FORMAT, -1, "nested deeper than %d or more than %d values", NET_MAX_YAML_DEPTH, NET_MAX_YAML_NODES);
        return NULL;
    }
    val *copy = v->kind == VAL_STRING ? val_string(memory, v->text, v->length) : val_new(memory, v->kind);
    if (!copy) { net_fail_memory(b); return NULL; }
    copy->integer = v->integer;
    copy->number = v->number;
    copy->line = v->line;
    for (int64_t i = 0; i < v->count; i++) {
        val *key = v->kind == VAL_MAP ? net_copy_val(b, v->keys[i], depth + 1, nodes) : NULL;
        val *item = b->status == YOLO_OK ? net_copy_val(b, v->items[i], depth + 1, nodes) : NULL;
        if (b->status != YOLO_OK) return NULL;
        if (!val_add(memory, copy, key, item)) { net_fail_memory(b); return NULL; }
    }
    return copy;
}

/* Sets map[key]; false for want of memory. */
static bool net_set_val(arena *memory, val *map, const char *key, val *item) {
    for (int64_t i = map->count - 1; i >= 0 && item; i--)
        if (map->keys[i]->kind == VAL_STRING && !strcmp(map->keys[i]->text, key)) {
            map->items[i] = item;
            return true;
        }
    return val_add(memory, map, val_string(memory, key, strlen(key)), item);
}

static const char *const net_activation_names[] = {"Identity", "SiLU", "ReLU", "LeakyReLU", "Mish"};

/* "silu", "nn.SiLU()", "torch.nn.LeakyReLU(0.1)", ... -> the activation and its slope; false when it is none. */
static bool net_parse_activation(const char *text, net_activation *activation, double *slope) {
    char name[24];
    size_t length = 0;
    if (!strncmp(text, "torch.", 6)) text += 6;
    if (!strncmp(text, "nn.", 3)) text += 3;
    while (isalnum((unsigned char)text[length]) && length + 1 < sizeof name) { name[length] = text[length]; length++; }
    name[length] = 0;
    int found = -1;
    for (int i = 0; i < YOLO_COUNT(net_activation_names); i++)
        if (str_equal_fold(name, net_activation_names[i])) found = i;
    text += length;
    if (found < 0 || (*text && (*text != '(' || !strchr(text, ')')))) return false;
    *activation = (net_activation)found;
    *slope = NET_LEAKYRELU_SLOPE;
    if (*activation != NET_LEAKYRELU || *text != '(') return true;
    text++;
    const char *named = strstr(text, "negative_slope");
    if (named) {
        text = named + strlen("negative_slope");
        text += strspn(text, " =");
    }
    size_t digits = strspn(text, "+-.0123456789eE");
    if (!digits) return !named;
    return str_to_number(text, digits, slope) && *slope >= 0 && *slope <= 1;
}

/* Reads the activation and writes an override back into the description, as ultralytics spells it. */
static bool net_read_activation(net_builder *b, int override) {
    net *net = b->net;
    const val *spelled = val_get(net->yaml, "activation");
    net->activation = NET_SILU;
    net->slope = NET_LEAKYRELU_SLOPE;
    if (spelled && spelled->kind != VAL_NULL && !(spelled->kind == VAL_STRING && !spelled->length) &&
        (spelled->kind != VAL_STRING || !net_parse_activation(spelled->text, &net->activation, &net->slope)))
        return net_fail(b, YOLO_ERROR_UNSUPPORTED, -1, "activation '%.60s' is not supported; supported: silu, relu, "
                        "leakyrelu, mish", val_text(spelled, "?"));
    if (override < 0 || override == (int)net->activation) return true;
    char text[40];
    net->activation = (net_activation)override;
    net->slope = NET_LEAKYRELU_SLOPE;
    int length = snprintf(text, sizeof text, "torch.nn.%s()", net_activation_names[override]);
    if (!net_set_val(&net->memory, net->yaml, "activation", val_string(&net->memory, text, (size_t)length)))
        return net_fail_memory(b);
    return true;
}

/* Depth, width and the largest unscaled channel count, by the scale letter or as depth_multiple and width_multiple.
   REF ultralytics/nn/tasks.py parse_model. */
static bool net_read_scale(net_builder *b, const char *scale) {
    net *net = b->net;
    const val *scales = val_get(net->yaml, "scales");
    const char *letter = scale && *scale ? scale : val_text(val_get(net->yaml, "scale"), "");
    const val *depth = val_get(net->yaml, "depth_multiple"), *width = val_get(net->yaml, "width_multiple");
    net->depth = depth ? val_number(depth, NAN) : 1;
    net->width = width ? val_number(width, NAN) : 1;
    net->max_channels = NET_MAX_CHANNELS * 16;
    if (scales && scales->kind == VAL_MAP && scales->count) {
        if (!*letter) letter = val_text(scales->keys[0], "");
        const val *row = val_get(scales, letter);
        if (!row || row->kind != VAL_LIST || row->count != 3 || !val_is_number(row->items[0]) ||
            !val_is_number(row->items[1]) || !val_is_number(row->items[2]))
            return net_fail(b, YOLO_ERROR_FORMAT, -1, "scales has no row '%.20s' of depth, width, max_channels", letter);
        net->depth = val_number(row->items[0], 0);
        net->width = val_number(row->items[1], 0);
        net->max_channels = (int)YOLO_CLAMP(val_number(row->items[2], 0), 0, NET_MAX_CHANNELS * 16);
        if (!net_set_val(&net->memory, net->yaml, "scale", val_string(&net->memory, letter, strlen(letter))))
            return net_fail_memory(b);
    }
    net->scale = letter[0] && !letter[1] ? letter[0] : 0;
    if (!(net->depth > 0 && net->depth <= 16 && net->width > 0 && net->width <= 16 && net->max_channels >= 1))
        return net_fail(b, YOLO_ERROR_FORMAT, -1, "depth %g, width %g, max_channels %d: expected above 0 and at most 16 "
                        "for depth and width", net->depth, net->width, net->max_channels);
    return true;
}

static bool net_read_classes(net_builder *b, int class_count, char *const *names) {
    net *net = b->net;
    int64_t count = class_count ? class_count : val_integer(val_get(net->yaml, "nc"), -1);
    if (count < 1 || count > NET_MAX_CHANNELS)
        return net_fail(b, YOLO_ERROR_FORMAT, -1, "nc is %lld, expected 1 to %d", (long long)count, NET_MAX_CHANNELS);
    net->class_count = (int)count;
    net->names = arena_array(&net->memory, (uint64_t)count, sizeof *net->names);
    if (!net->names || !net_set_val(&net->memory, net->yaml, "nc", val_int(&net->memory, count))) return net_fail_memory(b);
    for (int i = 0; i < net->class_count; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        const char *name = names && names[i] ? names[i] : number;
        net->names[i] = arena_text(&net->memory, name, strlen(name));
        if (!net->names[i]) return net_fail_memory(b);
    }
    return true;
}

/* Reading the rows [from, repeats, module, arguments]. REF ultralytics/nn/tasks.py parse_model. */

/* Argument `at` of a row, NULL when it is absent or None. */
static const val *net_argument(const val *arguments, int at) {
    const val *v = arguments && arguments->kind == VAL_LIST && at < arguments->count ? arguments->items[at] : NULL;
    return !v || v->kind == VAL_NULL || !strcmp(val_text(v, ""), "None") ? NULL : v;
}

static int net_argument_int(net_builder *b, int layer, const val *arguments, int at, int otherwise, int low, int high) {
    const val *v = net_argument(arguments, at);
    if (!v) return otherwise;
    double number = val_number(v, NAN);
    if (number == floor(number) && number >= low && number <= high) return (int)number;
    net_fail(b, YOLO_ERROR_UNSUPPORTED, layer, "argument %d of %s is %g, expected a whole number from %d to %d", at + 1,
             b->net->layers[layer].type, number, low, high);
    return low;
}

static bool net_argument_bool(net_builder *b, int layer, const val *arguments, int at, bool otherwise) {
    const val *v = net_argument(arguments, at);
    if (!v) return otherwise;
    if (v->kind == VAL_BOOL || v->kind == VAL_INT) return v->integer != 0;
    return net_fail(b, YOLO_ERROR_UNSUPPORTED, layer, "argument %d of %s is '%.40s', expected True or False", at + 1,
                    b->net->layers[layer].type, val_text(v, "?"));
}

/* The first argument, scaled by width to a multiple of 8. */
static int net_scaled_channels(net_builder *b, int layer, const val *arguments) {
    const net *net = b->net;
    int wanted = net_argument_int(b, layer, arguments, 0, 0, 1, NET_MAX_CHANNELS * 16);
    double channels = ceil(YOLO_MIN(wanted, net->max_channels) * net->width / 8) * 8;
    if (wanted < 1 || !(channels <= NET_MAX_CHANNELS)) {
        net_fail(b, YOLO_ERROR_FORMAT, layer, "%g channels, expected 1 to %d", channels, NET_MAX_CHANNELS);
        return 8;
    }
    return (int)channels;
}

/* Channels and size that the layer finds at its inputs. */
static bool net_read_from(net_builder *b, int i, const val *from) {
    net_layer *layer = &b->net->layers[i];
    layer->from_count = !from ? 0 : from->kind == VAL_LIST ? (int)YOLO_MIN(from->count, 99) : 1;
    if (layer->from_count < 1 || layer->from_count > YOLO_COUNT(layer->from))
        return net_fail(b, YOLO_ERROR_FORMAT, i, "%d inputs, expected 1 to %d", layer->from_count, YOLO_COUNT(layer->from));
    for (int j = 0; j < layer->from_count; j++) {
        int64_t at = val_integer(from->kind == VAL_LIST ? from->items[j] : from, INT64_MIN);
        if (at < 0 && at >= -i - 1) at += i;
        if (at >= i || at < -1 || (at == -1 && i > 0))
            return net_fail(b, YOLO_ERROR_FORMAT, i, "input %lld is not an earlier layer", (long long)at);
        layer->from[j] = (int)at;
        if (at >= 0 && b->net->layers[at].output == -1)
            return net_fail(b, YOLO_ERROR_FORMAT, i, "input %lld is the Detect layer, which has no output", (long long)at);
        int channels = at < 0 ? 3 : b->net->layers[at].out_channels, down = at < 0 ? 1 : b->net->layers[at].down;
        layer->in_channels += channels;
        if (j == 0) layer->down = down;
        if (layer->down != down && layer->module != NET_MODULE_DETECT)
            return net_fail(b, YOLO_ERROR_FORMAT, i, "inputs of different sizes: 1/%d and 1/%d of the picture", layer->down, down);
    }
    layer->out_channels = layer->in_channels;
    return true;
}

static void net_read_conv(net_builder *b, int i, const val *arguments) {
    net_layer *layer = &b->net->layers[i];
    layer->out_channels = net_scaled_channels(b, i, arguments);
    layer->kernel = net_argument_int(b, i, arguments, 1, 1, 1, NET_MAX_KERNEL);
    layer->stride = net_argument_int(b, i, arguments, 2, 1, 1, 4);
    layer->padding = net_argument_int(b, i, arguments, 3, layer->kernel / 2, 0, NET_MAX_KERNEL);
    net_argument_int(b, i, arguments, 4, 1, 1, 1); /* groups */
    net_argument_int(b, i, arguments, 5, 1, 1, 1); /* dilation */
    layer->activated = net_argument_bool(b, i, arguments, 6, true);
    int margin = layer->kernel - 2 * layer->padding;
    if (layer->stride == 3 || margin < 1 || margin > layer->stride)
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "Conv with kernel %d, stride %d, padding %d does not divide the size by 1, "
                 "2 or 4", layer->kernel, layer->stride, layer->padding);
    layer->down *= layer->stride;
    if (layer->down > NET_MAX_DOWN)
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "stride %d, expected at most %d", layer->down, NET_MAX_DOWN);
    snprintf(layer->arguments, sizeof layer->arguments, "%d, %d, %d, %d", layer->in_channels, layer->out_channels,
             layer->kernel, layer->stride);
}

static void net_read_c2f(net_builder *b, int i, const val *arguments) {
    net_layer *layer = &b->net->layers[i];
    layer->out_channels = net_scaled_channels(b, i, arguments);
    layer->shortcut = net_argument_bool(b, i, arguments, 1, false);
    net_argument_int(b, i, arguments, 2, 1, 1, 1); /* groups */
    double share = val_number(net_argument(arguments, 3), 0.5);
    layer->hidden = share > 0 && share <= 4 ? (int)(layer->out_channels * share) : 0;
    if (layer->hidden < 1) net_fail(b, YOLO_ERROR_FORMAT, i, "C2f with a hidden share of %g, expected above 0, at most 4", share);
    snprintf(layer->arguments, sizeof layer->arguments, "%d, %d, %d, %s", layer->in_channels, layer->out_channels,
             layer->repeats, layer->shortcut ? "True" : "False");
}

/* Rows with at most a kernel are from before the first convolution of SPPF lost its activation. */
static void net_read_sppf(net_builder *b, int i, const val *arguments) {
    net_layer *layer = &b->net->layers[i];
    layer->out_channels = net_scaled_channels(b, i, arguments);
    layer->kernel = net_argument_int(b, i, arguments, 1, 5, 1, NET_MAX_KERNEL);
    layer->pools = net_argument_int(b, i, arguments, 2, 3, 1, 8);
    layer->shortcut = net_argument_bool(b, i, arguments, 3, false) && layer->in_channels == layer->out_channels;
    layer->activated = arguments->count <= 2;
    layer->hidden = layer->in_channels / 2;
    if (layer->kernel % 2 == 0 || layer->hidden < 1)
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "SPPF with kernel %d on %d channels, expected an odd kernel, 2 channels",
                 layer->kernel, layer->in_channels);
    snprintf(layer->arguments, sizeof layer->arguments, "%d, %d, %d", layer->in_channels, layer->out_channels, layer->kernel);
}

static void net_read_upsample(net_builder *b, int i, const val *arguments) {
    net_layer *layer = &b->net->layers[i];
    if (net_argument(arguments, 0) || val_number(net_argument(arguments, 1), 0) != 2 ||
        strcmp(val_text(net_argument(arguments, 2), "nearest"), "nearest") || layer->down < 2)
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "nn.Upsample other than [None, 2, nearest] of a smaller picture");
    layer->down /= 2;
    snprintf(layer->arguments, sizeof layer->arguments, "None, 2, 'nearest'");
}

static void net_read_concat(net_builder *b, int i, const val *arguments) {
    net_argument_int(b, i, arguments, 0, 1, 1, 1);
    snprintf(b->net->layers[i].arguments, sizeof b->net->layers[i].arguments, "1");
}

static void net_read_detect(net_builder *b, int i, const val *arguments) {
    net *net = b->net;
    net_layer *layer = &net->layers[i];
    const val *classes = net_argument(arguments, 0);
    if (classes && strcmp(val_text(classes, ""), "nc") && val_integer(classes, -1) != net->class_count)
        net_fail(b, YOLO_ERROR_FORMAT, i, "Detect of %lld classes, but nc is %d", (long long)val_integer(classes, -1), net->class_count);
    net_argument_int(b, i, arguments, 1, NET_REG_MAX, NET_REG_MAX, NET_REG_MAX);
    if (val_integer(val_get(net->yaml, "reg_max"), NET_REG_MAX) != NET_REG_MAX || val_integer(val_get(net->yaml, "end2end"), 0))
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "Detect with reg_max other than %d or end2end is not supported", NET_REG_MAX);
    if (layer->from_count > NET_MAX_LEVELS)
        net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "%d detection levels, expected at most %d", layer->from_count, NET_MAX_LEVELS);
    if (i + 1 != net->layer_count) net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "Detect is not the last layer");
    layer->out_channels = 4 * NET_REG_MAX + net->class_count;
    layer->output = -1;
    net->level_count = layer->from_count;
    int length = snprintf(layer->arguments, sizeof layer->arguments, "%d, [", net->class_count);
    for (int j = 0; j < layer->from_count && length < (int)sizeof layer->arguments; j++)
        length += snprintf(layer->arguments + length, sizeof layer->arguments - (size_t)length, "%d%s",
                           net->layers[YOLO_MAX(layer->from[j], 0)].out_channels, j + 1 < layer->from_count ? ", " : "]");
}

/* The modules, in the order of net_module: how a row is read. net_emitters has which operators it becomes. */
static const struct {
    const char *spelled, *name;
    bool several_inputs;
    void (*read)(net_builder *b, int layer, const val *arguments);
} net_modules[] = {
    {"Conv", "Conv", false, net_read_conv},     {"C2f", "C2f", false, net_read_c2f},
    {"SPPF", "SPPF", false, net_read_sppf},     {"nn.Upsample", "Upsample", false, net_read_upsample},
    {"Concat", "Concat", true, net_read_concat}, {"Detect", "Detect", true, net_read_detect},
};

static bool net_read_row(net_builder *b, int i, const val *row) {
    net_layer *layer = &b->net->layers[i];
    if (!row || row->kind != VAL_LIST || row->count != 4 || row->items[3]->kind != VAL_LIST)
        return net_fail(b, YOLO_ERROR_FORMAT, i, "expected a row [from, repeats, module, [arguments]]");
    const char *name = val_text(row->items[2], "?");
    int module = 0;
    while (module < YOLO_COUNT(net_modules) && strcmp(name, net_modules[module].spelled)) module++;
    if (module == YOLO_COUNT(net_modules))
        return net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "module %.60s is not supported; supported: Conv, C2f, SPPF, "
                        "nn.Upsample, Concat, Detect", name);
    snprintf(layer->type, sizeof layer->type, "%s", net_modules[module].name);
    layer->module = (net_module)module;
    layer->home = -1;
    if (!net_read_from(b, i, row->items[0])) return false;
    if (layer->from_count > 1 && !net_modules[module].several_inputs)
        return net_fail(b, YOLO_ERROR_FORMAT, i, "%s with %d inputs, expected 1", name, layer->from_count);
    int64_t repeats = val_integer(row->items[1], 0);
    if (repeats < 1 || repeats > NET_MAX_REPEATS)
        return net_fail(b, YOLO_ERROR_FORMAT, i, "%lld repeats, expected 1 to %d", (long long)repeats, NET_MAX_REPEATS);
    layer->repeats = repeats > 1 ? (int)YOLO_MAX(rint((double)repeats * b->net->depth), 1) : 1;
    if (layer->repeats > NET_MAX_REPEATS)
        return net_fail(b, YOLO_ERROR_FORMAT, i, "%d repeats after scaling, expected 1 to %d", layer->repeats, NET_MAX_REPEATS);
    if (layer->repeats > 1 && layer->module != NET_MODULE_C2F)
        return net_fail(b, YOLO_ERROR_UNSUPPORTED, i, "%s repeated %d times is not supported", name, layer->repeats);
    net_modules[module].read(b, i, row->items[3]);
    if (layer->out_channels > NET_MAX_CHANNELS * 4)
        return net_fail(b, YOLO_ERROR_FORMAT, i, "%d channels, expected at most %d", layer->out_channels, NET_MAX_CHANNELS * 4);
    return b->status == YOLO_OK;
}

static bool net_read_rows(net_builder *b) {
    net *net = b->net;
    const val *backbone = val_get(net->yaml, "backbone"), *head = val_get(net->yaml, "head");
    if (!backbone || backbone->kind != VAL_LIST || !head || head->kind != VAL_LIST)
        return net_fail(b, YOLO_ERROR_FORMAT, -1, "expected the lists backbone and head");
    int64_t channels = val_integer(val_get(net->yaml, "ch"), val_integer(val_get(net->yaml, "channels"), 3));
    if (channels != 3) return net_fail(b, YOLO_ERROR_UNSUPPORTED, -1, "%lld input channels, expected 3", (long long)channels);
    int64_t count = backbone->count + head->count;
    if (count < 2 || count > NET_MAX_LAYERS)
        return net_fail(b, YOLO_ERROR_FORMAT, -1, "%lld layers, expected 2 to %d", (long long)count, NET_MAX_LAYERS);
    net->layers = arena_array(&net->memory, (uint64_t)count, sizeof *net->layers);
    if (!net->layers) return net_fail_memory(b);
    net->layer_count = (int)count;
    for (int i = 0; i < net->layer_count; i++) {
        const val *row = i < backbone->count ? backbone->items[i] : head->items[i - backbone->count];
        if (!net_read_row(b, i, row)) return false;
    }
    if (net->layers[count - 1].module != NET_MODULE_DETECT)
        return net_fail(b, YOLO_ERROR_UNSUPPORTED, (int)count - 1, "the last layer is %s, expected Detect (this program "
                        "trains and runs detection models only)", net->layers[count - 1].type);
    return true;
}

/* Room for everything that the layers become. */
static bool net_reserve(net_builder *b) {
    net *net = b->net;
    int ops = 0;
    for (int i = 0; i < net->layer_count; i++) ops += 2 + 2 * net->layers[i].repeats + net->layers[i].pools + 6 * net->layers[i].from_count;
    if (ops > NET_MAX_OPS) return net_fail(b, YOLO_ERROR_FORMAT, -1, "more than %d operators", NET_MAX_OPS);
    uint64_t room = (uint64_t)ops + 1;
    net->ops = arena_array(&net->memory, room, sizeof *net->ops);
    net->tensors = arena_array(&net->memory, 4 * room, sizeof *net->tensors);
    net->buffers = arena_array(&net->memory, 2 * room, sizeof *net->buffers);
    net->plan_order = arena_array(&net->memory, 2 * room, sizeof *net->plan_order);
    net->params = arena_array(&net->memory, 6 * room, sizeof *net->params);
    return (net->ops && net->tensors && net->buffers && net->plan_order && net->params) || net_fail_memory(b);
}

static int net_new_buffer(net_builder *b, int channels, int down) {
    net_buffer *buffer = &b->net->buffers[b->net->buffer_count];
    buffer->channels = channels;
    buffer->down = down;
    buffer->first_op = INT_MAX;
    buffer->last_op = -1;
    return b->net->buffer_count++;
}

static int net_new_tensor(net_builder *b, int buffer, int channel, int channels) {
    b->net->tensors[b->net->tensor_count] = (net_tensor){buffer, channel, channels};
    return b->net->tensor_count++;
}

/* Decides where each layer writes: into its slice of the concatenation that takes it, else into a buffer of its own.
   Later concatenations first, so that one that is part of another lies in the other's buffer. */
static void net_place(net_builder *b) {
    net *net = b->net;
    net->input = net_new_tensor(b, net_new_buffer(b, 3, 1), 0, 3);
    for (int i = net->layer_count - 1; i >= 0; i--) {
        net_layer *layer = &net->layers[i];
        if (layer->output == -1) continue;
        if (layer->home < 0) layer->home = net_new_buffer(b, layer->out_channels, layer->down);
        if (layer->module != NET_MODULE_CONCAT) continue;
        int channel = layer->home_channel;
        for (int j = 0; j < layer->from_count; j++) {
            net_layer *part = layer->from[j] < 0 ? NULL : &net->layers[layer->from[j]];
            if (part && part->home < 0) {
                part->home = layer->home;
                part->home_channel = channel;
            }
            channel += part ? part->out_channels : 3;
        }
    }
}

/* Emitting parameters and operators. */

static int net_new_param(net_builder *b, const char *name, net_group group, int rank, int d0, int d1, int d2, int d3) {
    net *net = b->net;
    net_param *p = &net->params[net->param_count];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->dims[0] = d0;
    p->dims[1] = d1;
    p->dims[2] = d2;
    p->dims[3] = d3;
    p->rank = rank;
    p->count = (int64_t)d0 * d1 * d2 * d3;
    p->offset = net->param_elements;
    p->group = group;
    p->stored = rank ? TEN_F32 : TEN_I64;
    net->param_elements += p->count;
    if (net->param_elements > NET_MAX_PARAM_ELEMENTS)
        net_fail(b, YOLO_ERROR_FORMAT, -1, "more than %d parameters", NET_MAX_PARAM_ELEMENTS);
    return net->param_count++;
}

/* The rows of a Conv: weight, then batch norm (or, fused, a bias). Returns the weight's row. */
YOLO_PRINTF(5, 6)
static int net_new_conv(net_builder *b, int in, int out, int kernel, const char *format, ...) {
    static const char *const norm[] = {"bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"};
    static const net_group groups[] = {NET_NO_DECAY, NET_BIAS, NET_BN_STAT, NET_BN_STAT, NET_BN_STAT};
    char prefix[48], name[80];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    snprintf(name, sizeof name, "%s.conv.weight", prefix);
    int row = net_new_param(b, name, NET_DECAY, 4, out, in, kernel, kernel);
    snprintf(name, sizeof name, "%s.conv.bias", prefix);
    if (b->net->fused) net_new_param(b, name, NET_BIAS, 1, out, 1, 1, 1);
    for (int i = 0; i < YOLO_COUNT(norm) && !b->net->fused; i++) {
        snprintf(name, sizeof name, "%s.%s", prefix, norm[i]);
        net_new_param(b, name, groups[i], i < 4, i < 4 ? out : 1, 1, 1, 1);
    }
    return row;
}

static void net_use(net *net, int tensor, int op) {
    net_buffer *buffer = &net->buffers[net->tensors[tensor].buffer];
    buffer->first_op = YOLO_MIN(buffer->first_op, op);
    buffer->last_op = YOLO_MAX(buffer->last_op, op);
}

static net_op *net_new_op(net_builder *b, net_kind kind, int layer, int in, int out) {
    net *net = b->net;
    net_op *op = &net->ops[net->op_count];
    *op = (net_op){.kind = kind, .layer = layer, .in = in, .out = out, .residual = -1, .kernel = 1, .stride = 1,
                   .weight = -1, .bias = -1, .bn = -1};
    net_use(net, in, net->op_count);
    net_use(net, out, net->op_count);
    net->op_count++;
    return op;
}

/* A convolution with batch norm whose parameters begin at `weight`; "same" padding. */
static net_op *net_new_conv_op(net_builder *b, int layer, int in, int out, int weight, net_activation activation) {
    net_op *op = net_new_op(b, NET_CONV, layer, in, out);
    op->kernel = b->net->params[weight].dims[2];
    op->padding = op->kernel / 2;
    op->activation = activation;
    op->weight = weight;
    *(b->net->fused ? &op->bias : &op->bn) = weight + 1;
    return op;
}

static void net_set_residual(net_builder *b, net_op *op, int residual) {
    op->residual = residual;
    net_use(b->net, residual, (int)(op - b->net->ops));
}

static int net_layer_input(const net *net, const net_layer *layer, int at) {
    return layer->from[at] < 0 ? net->input : net->layers[layer->from[at]].output;
}

static void net_emit_conv_layer(net_builder *b, int i) {
    net_layer *layer = &b->net->layers[i];
    int weight = net_new_conv(b, layer->in_channels, layer->out_channels, layer->kernel, "model.%d", i);
    net_op *op = net_new_conv_op(b, i, net_layer_input(b->net, layer, 0), layer->output, weight,
                                 layer->activated ? b->net->activation : NET_LINEAR);
    op->stride = layer->stride;
    op->padding = layer->padding;
}

/* cv1 writes the first two slices of one buffer, each bottleneck reads the last slice and writes the next one, and
   cv2 reads them all. REF ultralytics/nn/modules/block.py C2f. */
static void net_emit_c2f(net_builder *b, int i) {
    net *net = b->net;
    net_layer *layer = &net->layers[i];
    int c = layer->hidden, n = layer->repeats, first[NET_MAX_REPEATS], second[NET_MAX_REPEATS];
    int cv1 = net_new_conv(b, layer->in_channels, 2 * c, 1, "model.%d.cv1", i);
    int cv2 = net_new_conv(b, (2 + n) * c, layer->out_channels, 1, "model.%d.cv2", i);
    for (int j = 0; j < n; j++) {
        first[j] = net_new_conv(b, c, c, 3, "model.%d.m.%d.cv1", i, j);
        second[j] = net_new_conv(b, c, c, 3, "model.%d.m.%d.cv2", i, j);
    }
    int buffer = net_new_buffer(b, (2 + n) * c, layer->down);
    net_new_conv_op(b, i, net_layer_input(net, layer, 0), net_new_tensor(b, buffer, 0, 2 * c), cv1, net->activation);
    int last = net_new_tensor(b, buffer, c, c);
    for (int j = 0; j < n; j++) {
        int middle = net_new_tensor(b, net_new_buffer(b, c, layer->down), 0, c);
        int next = net_new_tensor(b, buffer, (2 + j) * c, c);
        net_new_conv_op(b, i, last, middle, first[j], net->activation);
        net_op *op = net_new_conv_op(b, i, middle, next, second[j], net->activation);
        if (layer->shortcut) net_set_residual(b, op, last);
        last = next;
    }
    net_new_conv_op(b, i, net_new_tensor(b, buffer, 0, (2 + n) * c), layer->output, cv2, net->activation);
}

/* Each pool reads the slice before and writes the next. REF ultralytics/nn/modules/block.py SPPF. */
static void net_emit_sppf(net_builder *b, int i) {
    net *net = b->net;
    net_layer *layer = &net->layers[i];
    int c = layer->hidden, count = layer->pools + 1, input = net_layer_input(net, layer, 0);
    int cv1 = net_new_conv(b, layer->in_channels, c, 1, "model.%d.cv1", i);
    int cv2 = net_new_conv(b, c * count, layer->out_channels, 1, "model.%d.cv2", i);
    int buffer = net_new_buffer(b, c * count, layer->down), last = net_new_tensor(b, buffer, 0, c);
    net_new_conv_op(b, i, input, last, cv1, layer->activated ? net->activation : NET_LINEAR);
    for (int j = 1; j < count; j++) {
        int next = net_new_tensor(b, buffer, j * c, c);
        net_op *op = net_new_op(b, NET_MAXPOOL, i, last, next);
        op->kernel = layer->kernel;
        op->padding = layer->kernel / 2;
        last = next;
    }
    net_op *op = net_new_conv_op(b, i, net_new_tensor(b, buffer, 0, c * count), layer->output, cv2, net->activation);
    if (layer->shortcut) net_set_residual(b, op, input);
}

static void net_emit_upsample(net_builder *b, int i) {
    const net_layer *layer = &b->net->layers[i];
    net_new_op(b, NET_UPSAMPLE, i, net_layer_input(b->net, layer, 0), layer->output)->stride = 2;
}

/* Copies what could not be written in place. */
static void net_emit_concat(net_builder *b, int i) {
    net *net = b->net;
    const net_layer *layer = &net->layers[i];
    int channel = layer->home_channel;
    for (int j = 0; j < layer->from_count; j++) {
        int part = net_layer_input(net, layer, j);
        net_tensor there = net->tensors[part];
        if (there.buffer != layer->home || there.channel != channel)
            net_new_op(b, NET_COPY, i, part, net_new_tensor(b, layer->home, channel, there.channels));
        channel += there.channels;
    }
}

/* One branch of one level: two 3x3 Conv and a plain 1x1 convolution with a bias. Parameters only; the return value is
   the first row. */
static int net_new_branch(net_builder *b, int i, const char *name, int level, int in, int hidden, int out) {
    char text[80];
    int row = net_new_conv(b, in, hidden, 3, "model.%d.%s.%d.0", i, name, level);
    net_new_conv(b, hidden, hidden, 3, "model.%d.%s.%d.1", i, name, level);
    snprintf(text, sizeof text, "model.%d.%s.%d.2.weight", i, name, level);
    net_new_param(b, text, NET_DECAY, 4, out, hidden, 1, 1);
    snprintf(text, sizeof text, "model.%d.%s.%d.2.bias", i, name, level);
    net_new_param(b, text, NET_BIAS, 1, out, 1, 1, 1);
    return row;
}

static void net_emit_branch(net_builder *b, int i, int in, int hidden, int out, int row) {
    net *net = b->net;
    int rows = net->fused ? 2 : 6, down = net->buffers[net->tensors[in].buffer].down;
    int first = net_new_tensor(b, net_new_buffer(b, hidden, down), 0, hidden);
    int second = net_new_tensor(b, net_new_buffer(b, hidden, down), 0, hidden);
    net_new_conv_op(b, i, in, first, row, net->activation);
    net_new_conv_op(b, i, first, second, row + rows, net->activation);
    net_op *op = net_new_op(b, NET_CONV, i, second, out);
    op->weight = row + 2 * rows;
    op->bias = row + 2 * rows + 1;
}

/* Both branches of a level write into one buffer: box logits, then class logits. The channel rules are those of
   YOLOv8. REF ultralytics/nn/modules/head.py Detect (legacy). */
static void net_emit_detect(net_builder *b, int i) {
    net *net = b->net;
    const net_layer *layer = &net->layers[i];
    int boxes = 4 * NET_REG_MAX, box_rows[NET_MAX_LEVELS], class_rows[NET_MAX_LEVELS];
    int first = net->tensors[net_layer_input(net, layer, 0)].channels;
    int box_hidden = YOLO_MAX(first / 4, boxes);
    int class_hidden = b->class_channels ? b->class_channels : YOLO_MAX(first, YOLO_MIN(net->class_count, 100));
    for (int j = 0; j < net->level_count; j++)
        box_rows[j] = net_new_branch(b, i, "cv2", j, net->tensors[net_layer_input(net, layer, j)].channels, box_hidden, boxes);
    for (int j = 0; j < net->level_count; j++)
        class_rows[j] = net_new_branch(b, i, "cv3", j, net->tensors[net_layer_input(net, layer, j)].channels, class_hidden,
                                       net->class_count);
    char name[80];
    snprintf(name, sizeof name, "model.%d.dfl.conv.weight", i);
    net_new_param(b, name, NET_FROZEN, 4, 1, NET_REG_MAX, 1, 1);
    for (int j = 0; j < net->level_count; j++) {
        int in = net_layer_input(net, layer, j), down = net->buffers[net->tensors[in].buffer].down;
        int buffer = net_new_buffer(b, layer->out_channels, down);
        net_emit_branch(b, i, in, box_hidden, net_new_tensor(b, buffer, 0, boxes), box_rows[j]);
        net_emit_branch(b, i, in, class_hidden, net_new_tensor(b, buffer, boxes, net->class_count), class_rows[j]);
        net->heads[j] = net_new_tensor(b, buffer, 0, layer->out_channels);
        net->strides[j] = down;
        net->buffers[buffer].last_op = INT_MAX;
    }
}

static void (*const net_emitters[])(net_builder *b, int layer) = {
    net_emit_conv_layer, net_emit_c2f, net_emit_sppf, net_emit_upsample, net_emit_concat, net_emit_detect,
};

static bool net_emit(net_builder *b) {
    net *net = b->net;
    net_place(b);
    for (int i = 0; i < net->layer_count && b->status == YOLO_OK; i++) {
        net_layer *layer = &net->layers[i];
        layer->first_op = net->op_count;
        layer->first_param = net->param_count;
        if (layer->output != -1) layer->output = net_new_tensor(b, layer->home, layer->home_channel, layer->out_channels);
        net_emitters[layer->module](b, i);
        layer->op_count = net->op_count - layer->first_op;
        layer->param_count = net->param_count - layer->first_param;
    }
    net->buffers[0].first_op = -1;
    net->buffers[0].last_op = INT_MAX;
    return b->status == YOLO_OK;
}

/* The buffers that live at all by falling size, for net_plan; sizes are proportional at every input size. Returns how many. */
static int net_order(const net_buffer *buffers, int count, int *order) {
    int ordered = 0;
    for (int i = 0; i < count; i++) {
        const net_buffer *buffer = &buffers[i];
        if (buffer->last_op < buffer->first_op) continue;
        int at = ordered++;
        for (; at > 0; at--) {
            const net_buffer *other = &buffers[order[at - 1]];
            if ((double)other->channels * buffer->down * buffer->down >= (double)buffer->channels * other->down * other->down) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return ordered;
}

static void net_free(net *net) {
    arena_free(&net->memory);
    memset(net, 0, sizeof *net);
}

static yolo_status net_build_with(net *net, const val *yaml, const char *scale, int class_count, char *const *names,
                                  int activation, bool fused, int class_channels, yolo_error *error) {
    net_builder b = {.net = net, .class_channels = class_channels, .error = error};
    int nodes = 0;
    memset(net, 0, sizeof *net);
    net->fused = fused;
    net->bn_eps = NET_BN_EPS;
    net->bn_momentum = NET_BN_MOMENTUM;
    if (!yaml || yaml->kind != VAL_MAP) net_fail(&b, YOLO_ERROR_FORMAT, -1, "expected a map with nc, backbone and head");
    else net->yaml = net_copy_val(&b, yaml, 0, &nodes);
    if (net->yaml && net_read_classes(&b, class_count, names) && net_read_scale(&b, scale) &&
        net_read_activation(&b, activation) && net_read_rows(&b) && net_reserve(&b) && net_emit(&b)) {
        if (!net_set_val(&net->memory, net->yaml, "channels", val_int(&net->memory, 3))) net_fail_memory(&b);
        net->max_stride = 32; /* REF ultralytics takes at least 32 */
        for (int i = 0; i < net->buffer_count; i++) net->max_stride = YOLO_MAX(net->max_stride, net->buffers[i].down);
        net->plan_count = net_order(net->buffers, net->buffer_count, net->plan_order);
    }
    if (b.status != YOLO_OK) net_free(net);
    return b.status;
}

/* Builds the graph of a description (yaml file, checkpoint or net_builtin_yaml). `scale` NULL = the description's;
   class_count 0 = its nc; names NULL = "0", "1", ...; activation -1 = its own. The description is copied and noted with
   what was overridden. On error *net is empty. */
static yolo_status net_build(net *net, const val *yaml, const char *scale, int class_count, char *const *names,
                             int activation, bool fused, yolo_error *error) {
    return net_build_with(net, yaml, scale, class_count, names, activation, fused, 0, error);
}

/* Row of the parameter table, or -1. */
static int net_param_find(const net *net, const char *name) {
    for (int i = 0; i < net->param_count; i++)
        if (!strcmp(net->params[i].name, name)) return i;
    return -1;
}

/* Memory plan. */

/* Refuses sizes that the graph cannot have or that are absurd. */
static yolo_status net_check_size(const net *net, int n, int h, int w, yolo_error *error) {
    if (n < 1 || h < 1 || w < 1 || h % net->max_stride || w % net->max_stride)
        return err_set(error, YOLO_ERROR_USAGE, "%d pictures of %dx%d: the network takes multiples of %d", n, w, h, net->max_stride);
    if (n > 4096 || h > YOLO_MAX_DIM + NET_MAX_DOWN || w > YOLO_MAX_DIM + NET_MAX_DOWN || (uint64_t)h * (uint64_t)w > MEM_CAP / 64 / (uint64_t)n)
        return err_set(error, YOLO_ERROR_MEMORY, "%d pictures of %dx%d are too many or too large for one pass", n, w, h);
    return YOLO_OK;
}

static int64_t net_buffer_floats(const net_buffer *buffer, int n) {
    return ((int64_t)n * buffer->h * buffer->w * buffer->channels + 15) & ~(int64_t)15;
}

/* Gives each of the buffers in `order` (of net_order) its size and place for a checked input size and returns the floats
   needed: the largest first, each at the lowest place that is free for its whole life. */
static int64_t net_plan(net_buffer *buffers, const int *order, int count, int n, int h, int w) {
    int64_t total = 0;
    for (int k = 0; k < count; k++) {
        net_buffer *buffer = &buffers[order[k]];
        buffer->h = h / buffer->down;
        buffer->w = w / buffer->down;
        buffer->offset = 0;
        int64_t size = net_buffer_floats(buffer, n);
        for (int j = 0; j < k; j++) {
            const net_buffer *other = &buffers[order[j]];
            int64_t end = other->offset + net_buffer_floats(other, n);
            if (other->last_op < buffer->first_op || buffer->last_op < other->first_op) continue;
            if (end <= buffer->offset || buffer->offset + size <= other->offset) continue;
            buffer->offset = end;
            j = -1; /* may now meet one that was passed */
        }
        total = YOLO_MAX(total, buffer->offset + size);
    }
    return total;
}

/* 2 * multiply-adds of an operator, at an input size. */
static double net_op_flops(const net *net, const net_op *op, int n, int h, int w) {
    if (op->kind != NET_CONV) return 0;
    int down = net->buffers[net->tensors[op->out].buffer].down;
    return 2.0 * n * (h / down) * (w / down) * op->kernel * op->kernel * net->tensors[op->in].channels * net->tensors[op->out].channels;
}

#ifdef YOLO_TESTING
/* Sets n, h, w, the buffers' sizes and places, arena_floats and flops. h and w are multiples of max_stride. */
static yolo_status net_shape(net *net, int n, int h, int w, yolo_error *error) {
    yolo_status status = net_check_size(net, n, h, w, error);
    if (status != YOLO_OK) return status;
    net->n = n;
    net->h = h;
    net->w = w;
    net->arena_floats = net_plan(net->buffers, net->plan_order, net->plan_count, n, h, w);
    net->flops = 0;
    for (int i = 0; i < net->op_count; i++) net->flops += net_op_flops(net, &net->ops[i], n, h, w);
    return YOLO_OK;
}
#endif

/* Summary. */

/* 1234567 -> "1,234,567" */
static const char *net_thousands(char text[32], int64_t number) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)number), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

/* Elements of a layer's parameters, without running statistics; frozen ones or not. */
static int64_t net_layer_elements(const net *net, int layer, bool frozen) {
    int64_t count = 0;
    for (int i = 0; i < net->layers[layer].param_count; i++) {
        const net_param *p = &net->params[net->layers[layer].first_param + i];
        if (p->group != NET_BN_STAT && (frozen || p->group != NET_FROZEN)) count += p->count;
    }
    return count;
}

/* Cells of all levels together. */
static int net_anchor_count(const net *net, int h, int w) {
    int count = 0;
    for (int i = 0; i < net->level_count; i++) count += (h / net->strides[i]) * (w / net->strides[i]);
    return count;
}

/* A layer's operations as ultralytics counts them: a batch norm costs 4 multiply-adds an element, the expectation over
   the box bins is a convolution.
   REF thop calculate_conv2d_flops, count_normalization. */
static double net_layer_flops(const net *net, int layer, int h, int w) {
    double flops = net->layers[layer].module == NET_MODULE_DETECT ? 2.0 * 4 * NET_REG_MAX * net_anchor_count(net, h, w) : 0;
    for (int i = 0; i < net->layers[layer].op_count; i++) {
        const net_op *op = &net->ops[net->layers[layer].first_op + i];
        int down = net->buffers[net->tensors[op->out].buffer].down;
        flops += net_op_flops(net, op, 1, h, w);
        if (op->bn >= 0) flops += 8.0 * (h / down) * (w / down) * net->tensors[op->out].channels;
    }
    return flops;
}

/* torch modules without children, as ultralytics counts layers; the activation is one shared module. */
static int net_module_count(const net *net) {
    int count = 2; /* the activation, the expectation over the box bins */
    for (int i = 0; i < net->op_count; i++) count += net->ops[i].kind == NET_CONV ? 1 + (net->ops[i].bn >= 0) : 0;
    for (int i = 0; i < net->layer_count; i++) {
        const net_layer *layer = &net->layers[i];
        count += layer->module == NET_MODULE_SPPF || layer->module == NET_MODULE_UPSAMPLE || layer->module == NET_MODULE_CONCAT;
        count += (layer->module == NET_MODULE_CONV || layer->module == NET_MODULE_SPPF) && !layer->activated;
    }
    return count;
}

static void net_summary_layer(const net *net, int i, int h, int w, str *out) {
    const net_layer *layer = &net->layers[i];
    char from[64] = "", shape[32] = "", count[32];
    int length = 0;
    for (int j = 0; j < layer->from_count && length < (int)sizeof from; j++)
        length += snprintf(from + length, sizeof from - (size_t)length, "%s%d", j ? "," : "", layer->from[j]);
    if (layer->output >= 0) snprintf(shape, sizeof shape, "%dx%dx%d", layer->out_channels, h / layer->down, w / layer->down);
    else snprintf(shape, sizeof shape, "%dx%d", layer->out_channels, net_anchor_count(net, h, w));
    str_format(out, "%3d %9s %2d %-9s %-26s %-13s %11s %8.3f\n", i, from, layer->repeats, layer->type, layer->arguments, shape,
               net_thousands(count, net_layer_elements(net, i, true)), net_layer_flops(net, i, h, w) * 1e-9);
}

/* A line a layer, then the totals as ultralytics prints them, for the size of net_shape, or 640x640 before it. */
static void net_summary(const net *net, str *out) {
    int h = net->h ? net->h : 640, w = net->w ? net->w : 640;
    int64_t all = 0, trained = 0;
    double flops = 0;
    char first[32], second[32], third[32], name[64] = "Model";
    str_format(out, "%3s %9s %2s %-9s %-26s %-13s %11s %8s\n", "", "from", "n", "module", "arguments", "output", "parameters", "GFLOPs");
    for (int i = 0; i < net->layer_count; i++) {
        net_summary_layer(net, i, h, w, out);
        all += net_layer_elements(net, i, true);
        trained += net_layer_elements(net, i, false);
        flops += net_layer_flops(net, i, h, w);
    }
    const char *file = path_name(val_text(val_get(net->yaml, "yaml_file"), ""));
    if (*file) snprintf(name, sizeof name, "%s%.*s", strncmp(file, "yolo", 4) ? "" : "YOLO",
                        (int)YOLO_MIN(path_extension(file) - file, 40) - (strncmp(file, "yolo", 4) ? 0 : 4),
                        strncmp(file, "yolo", 4) ? file : file + 4);
    str_format(out, "%s summary%s: %s layers, %s parameters, %s gradients, %.1f GFLOPs\n", name, net->fused ? " (fused)" : "",
               net_thousands(first, net_module_count(net)), net_thousands(second, all),
               net_thousands(third, net->fused ? 0 : trained), flops * 1e-9);
}

/* Initial parameters. */

static void net_init_uniform(const net_param *p, float *params, double bound, uint64_t seed) {
    rng r = {.key = hash_bytes(p->name, strlen(p->name), seed)};
    for (int64_t i = 0; i < p->count; i++) params[p->offset + i] = (float)((2 * rng_uniform(&r) - 1) * bound);
}

static void net_fill(const net_param *p, float *params, float value) {
    for (int64_t i = 0; i < p->count; i++) params[p->offset + i] = value;
}

/* What a new model of ultralytics starts from: torch's uniform distribution for convolutions, identity batch norms, and
   head biases for few objects a picture. REF torch/nn/modules/conv.py reset_parameters; ultralytics/nn/modules/head.py
   bias_init. The numbers are a function of the seed and each parameter's name. */
static void net_init_params(const net *net, float *params, uint64_t seed) {
    for (int i = 0; i < net->param_count; i++) {
        const net_param *p = &net->params[i];
        net_fill(p, params, p->group == NET_NO_DECAY || str_ends_with(p->name, "running_var") ? 1.0f : 0.0f);
        for (int64_t j = 0; p->group == NET_FROZEN && j < p->count; j++) params[p->offset + j] = (float)j;
    }
    for (int i = 0; i < net->op_count; i++) {
        const net_op *op = &net->ops[i];
        if (op->kind != NET_CONV) continue;
        double bound = 1 / sqrt((double)net->tensors[op->in].channels * op->kernel * op->kernel);
        net_init_uniform(&net->params[op->weight], params, bound, seed);
        if (op->bias >= 0) net_init_uniform(&net->params[op->bias], params, bound, seed);
        for (int j = 0; j < net->level_count; j++) {
            if (net->tensors[op->out].buffer != net->tensors[net->heads[j]].buffer) continue;
            double cells = 640.0 / net->strides[j];
            double prior = log(5.0 / net->class_count / (cells * cells));
            net_fill(&net->params[op->bias], params, net->tensors[op->out].channel ? (float)prior : 2.0f);
        }
    }
}

/* The descriptions that are built in: the rows of YOLOv8 and of its variant with a fourth, finer level. */
typedef struct net_row { net_module module; int channels, repeats; int with; /* Concat: the other input */ } net_row;
enum { NET_BACKBONE_ROWS = 10, NET_SHARED_ROWS = 16, NET_MAX_ROWS = 32 };

static const net_row net_backbone[] = { /* and the head up to the first detection level of P5 */
    {NET_MODULE_CONV, 64, 1, 0},    {NET_MODULE_CONV, 128, 1, 0},   {NET_MODULE_C2F, 128, 3, 0},
    {NET_MODULE_CONV, 256, 1, 0},   {NET_MODULE_C2F, 256, 6, 0},    {NET_MODULE_CONV, 512, 1, 0},
    {NET_MODULE_C2F, 512, 6, 0},    {NET_MODULE_CONV, 1024, 1, 0},  {NET_MODULE_C2F, 1024, 3, 0},
    {NET_MODULE_SPPF, 1024, 1, 0},
    {NET_MODULE_UPSAMPLE, 0, 1, 0}, {NET_MODULE_CONCAT, 0, 1, 6},   {NET_MODULE_C2F, 512, 3, 0},
    {NET_MODULE_UPSAMPLE, 0, 1, 0}, {NET_MODULE_CONCAT, 0, 1, 4},   {NET_MODULE_C2F, 256, 3, 0},
};
static const net_row net_rows_p5[] = {
    {NET_MODULE_CONV, 256, 1, 0},   {NET_MODULE_CONCAT, 0, 1, 12},  {NET_MODULE_C2F, 512, 3, 0},
    {NET_MODULE_CONV, 512, 1, 0},   {NET_MODULE_CONCAT, 0, 1, 9},   {NET_MODULE_C2F, 1024, 3, 0},
    {NET_MODULE_DETECT, 0, 1, 0},
};
static const net_row net_rows_p2[] = {
    {NET_MODULE_UPSAMPLE, 0, 1, 0}, {NET_MODULE_CONCAT, 0, 1, 2},   {NET_MODULE_C2F, 128, 3, 0},
    {NET_MODULE_CONV, 128, 1, 0},   {NET_MODULE_CONCAT, 0, 1, 15},  {NET_MODULE_C2F, 256, 3, 0},
    {NET_MODULE_CONV, 256, 1, 0},   {NET_MODULE_CONCAT, 0, 1, 12},  {NET_MODULE_C2F, 512, 3, 0},
    {NET_MODULE_CONV, 512, 1, 0},   {NET_MODULE_CONCAT, 0, 1, 9},   {NET_MODULE_C2F, 1024, 3, 0},
    {NET_MODULE_DETECT, 0, 1, 0},
};
static const int net_levels_p5[] = {15, 18, 21}, net_levels_p2[] = {18, 21, 24, 27};
static const struct { char letter; double depth, width; int max_channels; } net_scales[] = {
    {'n', 0.33, 0.25, 1024}, {'s', 0.33, 0.50, 1024}, {'m', 0.67, 0.75, 768}, {'l', 1.00, 1.00, 512}, {'x', 1.00, 1.25, 512},
};

static int net_row_count(bool p2) { return NET_SHARED_ROWS + (p2 ? YOLO_COUNT(net_rows_p2) : YOLO_COUNT(net_rows_p5)); }
static const net_row *net_row_at(bool p2, int i) {
    return i < NET_SHARED_ROWS ? &net_backbone[i] : p2 ? &net_rows_p2[i - NET_SHARED_ROWS] : &net_rows_p5[i - NET_SHARED_ROWS];
}

static val *net_text_val(arena *a, const char *text) { return val_string(a, text, strlen(text)); }

/* A list of up to four items; NULL when one of the first `count` is. */
static val *net_list_val(arena *a, int count, val *v0, val *v1, val *v2, val *v3) {
    val *items[] = {v0, v1, v2, v3}, *list = val_new(a, VAL_LIST);
    for (int i = 0; i < count; i++)
        if (!val_add(a, list, NULL, items[i])) return NULL;
    return list;
}

static val *net_from_val(arena *a, const net_row *row, bool p2) {
    const int *levels = p2 ? net_levels_p2 : net_levels_p5;
    if (row->module == NET_MODULE_CONCAT) return net_list_val(a, 2, val_int(a, -1), val_int(a, row->with), NULL, NULL);
    if (row->module == NET_MODULE_DETECT)
        return net_list_val(a, p2 ? 4 : 3, val_int(a, levels[0]), val_int(a, levels[1]), val_int(a, levels[2]), p2 ? val_int(a, levels[3]) : NULL);
    return val_int(a, -1);
}

/* Row i as the description has it, with channels and repeats given. */
static val *net_row_val(arena *a, bool p2, int i, int channels, int repeats) {
    const net_row *row = net_row_at(p2, i);
    val *arguments = NULL, *c = val_int(a, channels);
    switch (row->module) {
    case NET_MODULE_CONV: arguments = net_list_val(a, 3, c, val_int(a, 3), val_int(a, 2), NULL); break;
    case NET_MODULE_C2F: arguments = net_list_val(a, i < NET_BACKBONE_ROWS ? 2 : 1, c, val_bool(a, true), NULL, NULL); break;
    case NET_MODULE_SPPF: arguments = net_list_val(a, 2, c, val_int(a, 5), NULL, NULL); break;
    case NET_MODULE_UPSAMPLE:
        arguments = net_list_val(a, 3, net_text_val(a, "None"), val_int(a, 2), net_text_val(a, "nearest"), NULL);
        break;
    case NET_MODULE_CONCAT: arguments = net_list_val(a, 1, val_int(a, 1), NULL, NULL, NULL); break;
    case NET_MODULE_DETECT: arguments = net_list_val(a, 1, net_text_val(a, "nc"), NULL, NULL, NULL); break;
    }
    return net_list_val(a, 4, net_from_val(a, row, p2), val_int(a, repeats), net_text_val(a, net_modules[row->module].spelled), arguments);
}

static val *net_scales_val(arena *a) {
    val *scales = val_new(a, VAL_MAP);
    for (int i = 0; i < YOLO_COUNT(net_scales); i++)
        if (!val_add(a, scales, val_string(a, &net_scales[i].letter, 1),
                     net_list_val(a, 3, val_float(a, net_scales[i].depth), val_float(a, net_scales[i].width),
                                  val_int(a, net_scales[i].max_channels), NULL))) return NULL;
    return scales;
}

/* The YOLOv8 description; with `channels` and `repeats` (one a row) that of a model that follows no scale. */
static val *net_layout_val(arena *a, bool p2, int nc, const int *channels, const int *repeats) {
    val *yaml = val_new(a, VAL_MAP), *backbone = val_new(a, VAL_LIST), *head = val_new(a, VAL_LIST);
    if (!yaml || !net_set_val(a, yaml, "nc", val_int(a, nc))) return NULL;
    if (!channels && !net_set_val(a, yaml, "scales", net_scales_val(a))) return NULL;
    for (int i = 0; i < net_row_count(p2); i++) {
        const net_row *row = net_row_at(p2, i);
        val *v = net_row_val(a, p2, i, channels ? channels[i] : row->channels, repeats ? repeats[i] : row->repeats);
        if (!val_add(a, i < NET_BACKBONE_ROWS ? backbone : head, NULL, v)) return NULL;
    }
    return net_set_val(a, yaml, "backbone", backbone) && net_set_val(a, yaml, "head", head) ? yaml : NULL;
}

/* The description by name: yolov8.yaml, yolov8n.yaml .. yolov8x.yaml, yolov8-p2.yaml, yolov8n-p2.yaml ..; ".yaml" may
   be left out. NULL = no such name (or no memory). */
static val *net_builtin_yaml(arena *a, const char *name) {
    char letter[2] = {0}, file[32];
    if (strncmp(name, "yolov8", 6)) return NULL;
    const char *rest = name + 6;
    if (*rest && strchr("nsmlx", *rest)) letter[0] = *rest++;
    bool p2 = !strncmp(rest, "-p2", 3);
    if (p2) rest += 3;
    if (*rest && strcmp(rest, ".yaml") && strcmp(rest, ".yml")) return NULL;
    snprintf(file, sizeof file, "yolov8%s%s.yaml", letter, p2 ? "-p2" : "");
    val *yaml = net_layout_val(a, p2, 80, NULL, NULL);
    return yaml && net_set_val(a, yaml, "scale", net_text_val(a, letter)) &&
           net_set_val(a, yaml, "yaml_file", net_text_val(a, file)) ? yaml : NULL;
}

/* Building from a bare state dict. */

YOLO_PRINTF(3, 4)
static const net_param *net_row_named(const net_param *rows, int count, const char *format, ...) {
    char name[80];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (int i = 0; i < count; i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

/* Channels and repeats of each row of the layout as the parameters have them; false when a row has none. */
static bool net_measure(const net_param *rows, int count, bool p2, int *channels, int *repeats) {
    for (int i = 0; i < net_row_count(p2); i++) {
        const net_row *row = net_row_at(p2, i);
        channels[i] = row->channels;
        repeats[i] = 1;
        if (!row->channels) continue;
        const net_param *weight = net_row_named(rows, count, row->module == NET_MODULE_CONV ? "model.%d.conv.weight" : "model.%d.cv2.conv.weight", i);
        if (!weight) return false;
        channels[i] = weight->dims[0];
        if (row->module != NET_MODULE_C2F) continue;
        repeats[i] = 0;
        while (repeats[i] < NET_MAX_REPEATS && net_row_named(rows, count, "model.%d.m.%d.cv1.conv.weight", i, repeats[i])) repeats[i]++;
    }
    return true;
}

/* The scale that gives these channels and repeats, as an index into net_scales, or -1. */
static int net_matching_scale(bool p2, const int *channels, const int *repeats) {
    for (int s = 0; s < YOLO_COUNT(net_scales); s++) {
        bool same = true;
        for (int i = 0; i < net_row_count(p2); i++) {
            const net_row *row = net_row_at(p2, i);
            double wanted = ceil(YOLO_MIN(row->channels, net_scales[s].max_channels) * net_scales[s].width / 8) * 8;
            double deep = row->repeats > 1 ? YOLO_MAX(rint(row->repeats * net_scales[s].depth), 1) : 1;
            same = same && (!row->channels || (channels[i] == (int)wanted && repeats[i] == (int)deep));
        }
        if (same) return s;
    }
    return -1;
}

/* Does every row of the graph exist with the same shape? */
static yolo_status net_compare_rows(const net *net, const net_param *rows, int count, yolo_error *error) {
    for (int i = 0; i < net->param_count; i++) {
        const net_param *want = &net->params[i], *have = net_row_named(rows, count, "%s", want->name);
        if (str_ends_with(want->name, "num_batches_tracked") || want->group == NET_FROZEN) continue; /* old files lack them */
        if (!have) return err_set(error, YOLO_ERROR_UNSUPPORTED, "state dict: %s is missing from what looks like a YOLOv8 model", want->name);
        bool same = have->rank == want->rank;
        for (int d = 0; d < want->rank && same; d++) same = have->dims[d] == want->dims[d];
        if (!same)
            return err_set(error, YOLO_ERROR_UNSUPPORTED, "state dict: %s is %dx%dx%dx%d, expected %dx%dx%dx%d for this YOLOv8 model",
                           want->name, have->dims[0], have->dims[1], have->dims[2], have->dims[3], want->dims[0], want->dims[1],
                           want->dims[2], want->dims[3]);
    }
    return YOLO_OK;
}

/* Builds the graph that has these parameters (names and dims are looked at): any width, depth and nc of the built-in
   layouts, also those of early versions that scale some channels differently. On error *net is empty. */
static yolo_status net_build_from_shapes(net *net, const net_param *rows, int count, yolo_error *error) {
    int channels[NET_MAX_ROWS], repeats[NET_MAX_ROWS];
    memset(net, 0, sizeof *net);
    bool p2 = net_row_named(rows, count, "model.28.cv3.0.2.weight") != NULL;
    int detect = p2 ? 28 : 22;
    const net_param *classes = net_row_named(rows, count, "model.%d.cv3.0.2.weight", detect);
    const net_param *hidden = net_row_named(rows, count, "model.%d.cv3.0.0.conv.weight", detect);
    if (!classes || !hidden || hidden->dims[0] < 1 || hidden->dims[0] > NET_MAX_CHANNELS || !net_measure(rows, count, p2, channels, repeats))
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "state dict: the parameters are not those of a YOLOv8 detection model "
                       "(model.0.conv.weight .. model.22.cv3.0.2.weight)");
    arena memory = {0};
    int scale = net_matching_scale(p2, channels, repeats);
    char letter[2] = {scale < 0 ? '\0' : net_scales[scale].letter, 0};
    val *yaml = net_layout_val(&memory, p2, classes->dims[0], scale < 0 ? channels : NULL, scale < 0 ? repeats : NULL);
    yolo_status status = yaml ? YOLO_OK : err_memory(error, 65536);
    if (status == YOLO_OK)
        status = net_build_with(net, yaml, letter, 0, NULL, -1, !net_row_named(rows, count, "model.0.bn.weight"), hidden->dims[0], error);
    if (status == YOLO_OK) status = net_compare_rows(net, rows, count, error);
    if (status != YOLO_OK) net_free(net);
    arena_free(&memory);
    return status;
}

/* ==== 13 pt_: checkpoints =======================================================================================
   torch's zip files <-> graph and parameters. Reading: zip -> pickle -> the module tree (or bare state dict) is walked
   to rows (name, shape, tensor) -> the graph is built from the description that came along -> rows are copied by name.
     1 No row is copied before every row of the graph has been found with its shape, and none is left over.
     2 A tensor is a strided view of a storage; its last element is checked to lie inside before the first is read.
     3 The module tree may be hostile (cycles, endless sharing): the walk has a stack of its own, depth and step caps.
     4 A last.pt of this engine has, beside what ultralytics reads, the key "yolo_state": numbers, and blocks of floats
       bit for bit as they lie in memory (little-endian hosts). All blocks together are never larger than the file.
   Writing: the object graph that ultralytics unpickles, in protocol 2. Nothing in it comes from the clock or from
   chance: the same model gives the same bytes. Convolution weights are O,I,H,W in files and O,H,W,I in memory. */

/* The state of a training between two epochs. Read: the arena holds all of it. To be written: `data` is the trainer's. */
enum { PT_MAX_BLOCKS = 12 };
typedef struct pt_block { char name[24]; float *data; int64_t count; } pt_block;
typedef struct pt_state {
    arena memory;
    val *numbers;           /* map: text -> integer, float, text, or plain data of those */
    int block_count;
    pt_block blocks[PT_MAX_BLOCKS];
} pt_state;

typedef struct pt_model { /* a checkpoint: graph, parameters, and what came with them */
    net net;
    float *params;          /* net.param_elements, laid out by the parameter table; BN counts as floats */
    val *train_args;        /* map, or NULL */
    val *train_metrics, *train_results; /* maps, or NULL: of the epoch that was kept; columns of results.csv */
    val *best_fitness;      /* number, or NULL = not said */
    char version[32];       /* of the program that wrote it */
    char date[48];
    int64_t epoch;          /* the last whole one, from 0; -1 = finished (stripped) */
    bool from_ema, has_optimizer;
    bool built;             /* from a .yaml: no training behind it */
    pt_state *state;        /* of a last.pt of this engine, else NULL */
    arena memory;           /* holds the values */
} pt_model;

typedef struct pt_tensor { /* a view of a storage */
    ten_dtype dtype;
    int64_t strides[4], offset; /* in elements */
    zip_entry *storage;
} pt_tensor;

enum { PT_MAX_ROWS = 5000, PT_MAX_DEPTH = 24, PT_MAX_MODULES = 5000 };
#define PT_FILE_CAP ((uint64_t)8 << 30)

typedef struct pt_reader {
    const char *path;
    zip_archive zip;
    pkl pickle;
    char folder[200];            /* of the archive, with its slash */
    bool blocks;                 /* read the data of the training state, too */
    const pkl_node *root, *module; /* module NULL: a bare state dict */
    const pkl_node *dict;        /* the bare state dict */
    const pkl_node *detect, *norm; /* state of the Detect module, of the first batch norm */
    net_activation activation;   /* NET_LINEAR = none seen */
    double slope;
    net_param *rows;             /* name, dims, rank, count, stored */
    pt_tensor *tensors;          /* of the rows */
    int64_t count, row_capacity, tensor_capacity;
    arena memory;
    yolo_error *error;
} pt_reader;

static void pt_state_free(pt_state *state) { /* what it holds, not the struct */
    arena_free(&state->memory);
    memset(state, 0, sizeof *state);
}

/* Notes a number, or plain data, under its name; `item` from the state's arena. False for want of memory, also when
   `item` is NULL. */
static bool pt_state_set(pt_state *state, const char *name, val *item) {
    if (!state->numbers) state->numbers = val_new(&state->memory, VAL_MAP);
    return val_add(&state->memory, state->numbers, val_string(&state->memory, name, strlen(name)), item);
}

/* Names floats that are to be kept; they stay the caller's. */
static void pt_state_add(pt_state *state, const char *name, float *data, int64_t count) {
    YOLO_ASSERT(state->block_count < PT_MAX_BLOCKS && strlen(name) < sizeof state->blocks[0].name);
    pt_block *block = &state->blocks[state->block_count++];
    snprintf(block->name, sizeof block->name, "%s", name);
    block->data = data;
    block->count = count;
}

static const pt_block *pt_state_block(const pt_state *state, const char *name) {
    for (int i = 0; i < state->block_count; i++)
        if (!strcmp(state->blocks[i].name, name)) return &state->blocks[i];
    return NULL;
}

/* Copies a block that has to be there with that many floats. `path` is for the message. */
static yolo_status pt_state_take(const pt_state *state, const char *path, const char *name, float *out, int64_t count, yolo_error *error) {
    const pt_block *block = pt_state_block(state, name);
    if (!block || block->count != count || !block->data)
        return err_set(error, YOLO_ERROR_FORMAT, "%s: its training state has %lld floats of '%s', expected %lld: it cannot be continued; "
                       "start a new training with model=%s", path, (long long)(block ? block->count : 0), name, (long long)count, path);
    memcpy(out, block->data, (size_t)count * sizeof *out);
    return YOLO_OK;
}

static void pt_free(pt_model *m) {
    if (m->state) pt_state_free(m->state);
    mem_free(m->state);
    net_free(&m->net);
    mem_free(m->params);
    arena_free(&m->memory);
    memset(m, 0, sizeof *m);
}

/* An attribute of an unpickled object, or NULL. */
static pkl_node *pt_attribute(const pkl_node *object, const char *name) {
    if (!object || object->kind != PKL_OBJECT || !object->state) return NULL;
    return pkl_get(object->state->kind == PKL_TUPLE ? pkl_item(object->state, 0) : object->state, name);
}

/* Is the object of a class of that name, whatever module it comes from? `name` begins with its dot. */
static bool pt_is_class(const pkl_node *object, const char *name) { return pkl_ends_with(pkl_callable(object), name); }

static bool pt_is_tensor(const pkl_node *node) {
    const pkl_node *callable = pkl_callable(node);
    return callable && callable->kind == PKL_GLOBAL &&
           (pkl_ends_with(callable, ".Parameter") || (callable->length > 20 && !memcmp(callable->text, "torch._utils._rebuild", 21)));
}

/* torch's names: of a storage class ("torch.HalfStorage") or of a dtype ("torch.float16"). */
static bool pt_dtype(const pkl_node *global, ten_dtype *dtype) {
    static const struct { const char *storage, *name; ten_dtype dtype; } known[] = {
        {".FloatStorage", ".float32", TEN_F32},  {".HalfStorage", ".float16", TEN_F16},   {".BFloat16Storage", ".bfloat16", TEN_BF16},
        {".DoubleStorage", ".float64", TEN_F64}, {".LongStorage", ".int64", TEN_I64},     {".IntStorage", ".int32", TEN_I32},
        {".ShortStorage", ".int16", TEN_I16},    {".CharStorage", ".int8", TEN_I8},       {".ByteStorage", ".uint8", TEN_U8},
        {".BoolStorage", ".bool", TEN_BOOL},
    };
    if (!global || global->kind != PKL_GLOBAL) return false;
    for (int i = 0; i < YOLO_COUNT(known); i++)
        if (pkl_ends_with(global, known[i].storage) || pkl_ends_with(global, known[i].name)) {
            *dtype = known[i].dtype;
            return true;
        }
    return false;
}

static yolo_status pt_bad_tensor(const pt_reader *r, const pkl_node *node, const char *name, const char *what) {
    return err_set(r->error, YOLO_ERROR_FORMAT, "%s: byte %u: tensor %s: %s", r->path, (unsigned)node->at, name, what);
}

/* ('storage', type, key, place, count) -> the entry that holds it. */
static yolo_status pt_read_storage(pt_reader *r, const pkl_node *node, const char *name, const pkl_node *dtype, pt_tensor *tensor) {
    const pkl_node *id = node && node->kind == PKL_PERSISTENT ? node->items[0] : NULL, *key = pkl_item(id, 2);
    if (!node || !pkl_is_text(pkl_item(id, 0), "storage") || !key || key->kind != PKL_TEXT || key->length > 40)
        return pt_bad_tensor(r, node ? node : r->root, name, "expected a storage");
    if (!pt_dtype(dtype ? dtype : pkl_item(id, 1), &tensor->dtype))
        return pt_bad_tensor(r, node, name, "of a type that is not supported; supported: float16, bfloat16, float32, float64, "
                             "int8 to int64, uint8, bool");
    char entry[256];
    snprintf(entry, sizeof entry, "%sdata/%.*s", r->folder, (int)key->length, key->text);
    tensor->storage = zip_find(&r->zip, entry);
    if (!tensor->storage) return err_set(r->error, YOLO_ERROR_FORMAT, "%s: tensor %s: its data, zip entry %s, is missing", r->path, name, entry);
    return YOLO_OK;
}

/* Fills `row` and `tensor` from a pickled tensor, and checks that the view lies inside its storage.
   REF torch/_utils.py _rebuild_tensor_v2, _rebuild_parameter. */
static yolo_status pt_read_tensor(pt_reader *r, const pkl_node *node, net_param *row, pt_tensor *tensor) {
    const pkl_node *start = node;
    for (int i = 0; i < 4 && pt_is_tensor(node) && !pkl_ends_with(pkl_callable(node), "_rebuild_tensor") &&
         !pkl_ends_with(pkl_callable(node), "_v2") && !pkl_ends_with(pkl_callable(node), "_v3"); i++)
        node = pkl_argument(node, 0); /* a parameter is a tensor in a wrapping */
    if (!pt_is_tensor(node)) return pt_bad_tensor(r, start, row->name, "expected a tensor");
    const pkl_node *dtype = pkl_ends_with(pkl_callable(node), "_v3") ? pkl_argument(node, 6) : NULL;
    const pkl_node *offset = pkl_argument(node, 1), *sizes = pkl_argument(node, 2), *strides = pkl_argument(node, 3);
    sizes = sizes ? pkl_unwrap(sizes) : NULL;
    yolo_status status = pt_read_storage(r, pkl_argument(node, 0), row->name, dtype, tensor);
    if (status != YOLO_OK) return status;
    if (!sizes || sizes->kind != PKL_TUPLE || !strides || strides->kind != PKL_TUPLE || sizes->count != strides->count || sizes->count > 4 ||
        !offset || offset->kind != PKL_INT || offset->integer < 0 || offset->integer > INT64_MAX / 16)
        return pt_bad_tensor(r, node, row->name, "expected sizes and strides of at most 4 dimensions");
    int64_t last = tensor->offset = offset->integer;
    row->rank = (int)sizes->count;
    row->count = 1;
    row->stored = tensor->dtype;
    for (int d = 0; d < 4; d++) row->dims[d] = 1;
    for (int d = 0; d < row->rank; d++) {
        const pkl_node *size = sizes->items[d], *stride = strides->items[d];
        if (size->kind != PKL_INT || stride->kind != PKL_INT || size->integer < 0 || size->integer > INT32_MAX || stride->integer < 0 ||
            stride->integer > (int64_t)1 << 40 || row->count > ((int64_t)1 << 40) / YOLO_MAX(size->integer, 1))
            return pt_bad_tensor(r, node, row->name, "impossible size or stride");
        row->dims[d] = (int)size->integer;
        row->count *= size->integer;
        tensor->strides[d] = stride->integer;
        if (size->integer > 0 && stride->integer > (INT64_MAX / 16 - last) / YOLO_MAX(size->integer - 1, 1))
            return pt_bad_tensor(r, node, row->name, "impossible size or stride");
        last += (size->integer - 1) * stride->integer;
    }
    if (row->count && (uint64_t)last >= tensor->storage->size / (uint64_t)ten_dtype_size(tensor->dtype))
        return err_set(r->error, YOLO_ERROR_FORMAT, "%s: tensor %s: needs %lld %s elements, its storage has %llu bytes", r->path, row->name,
                       (long long)last + 1, ten_dtype_name(tensor->dtype), (unsigned long long)tensor->storage->size);
    return YOLO_OK;
}

/* Notes one tensor of the state dict under "prefix" + its key. */
static yolo_status pt_add_row(pt_reader *r, const char *prefix, const pkl_node *key, const pkl_node *node) {
    if (r->count == PT_MAX_ROWS) return err_set(r->error, YOLO_ERROR_FORMAT, "%s: more than %d tensors", r->path, PT_MAX_ROWS);
    if (!mem_grow(&r->rows, &r->row_capacity, r->count + 1, sizeof *r->rows) ||
        !mem_grow(&r->tensors, &r->tensor_capacity, r->count + 1, sizeof *r->tensors)) return err_memory(r->error, sizeof *r->rows);
    net_param *row = &r->rows[r->count];
    memset(row, 0, sizeof *row);
    char shown[104];
    pkl_show(shown, key->kind == PKL_TEXT ? key->text : "?", key->kind == PKL_TEXT ? (size_t)key->length : 1);
    if (snprintf(row->name, sizeof row->name, "%s%s", prefix, shown) >= (int)sizeof row->name)
        return err_set(r->error, YOLO_ERROR_FORMAT, "%s: byte %u: a tensor's name has more than %d characters", r->path, (unsigned)node->at,
                       (int)sizeof row->name - 1);
    yolo_status status = pt_read_tensor(r, node, row, &r->tensors[r->count]);
    if (status == YOLO_OK) r->count++;
    return status;
}

/* The tensors of a DICT of them; other values (None) are passed over. */
static yolo_status pt_add_rows(pt_reader *r, const char *prefix, const pkl_node *dict) {
    yolo_status status = YOLO_OK;
    if (dict && dict->count > 2 * PT_MAX_ROWS) return err_set(r->error, YOLO_ERROR_FORMAT, "%s: more than %d tensors", r->path, PT_MAX_ROWS);
    for (int64_t i = 0; dict && dict->kind == PKL_DICT && i + 1 < dict->count && status == YOLO_OK; i += 2)
        if (pt_is_tensor(dict->items[i + 1])) status = pt_add_row(r, prefix, dict->items[i], dict->items[i + 1]);
    return status;
}

/* What the module tree says about the model beside its tensors. */
static yolo_status pt_note_module(pt_reader *r, const pkl_node *module, const char *prefix) {
    const pkl_node *modules = pt_attribute(module, "_modules");
    if (pt_is_class(module, ".Detect")) r->detect = module;
    if (pt_is_class(module, ".BatchNorm2d") && !r->norm) r->norm = module;
    const pkl_node *act = pt_is_class(module, ".Conv") ? pkl_get(modules, "act") : NULL, *class = pkl_callable(act);
    if (!class || pkl_ends_with(class, ".Identity")) return YOLO_OK;
    double slope = NET_LEAKYRELU_SLOPE;
    int found = NET_SILU;
    while (found <= NET_MISH && !(pkl_ends_with(class, net_activation_names[found]) &&
                                  class->text[class->length - (int64_t)strlen(net_activation_names[found]) - 1] == '.')) found++;
    if (found > NET_MISH)
        return err_set(r->error, YOLO_ERROR_UNSUPPORTED, "%s: %sact: activation %.*s is not supported; supported: SiLU, ReLU, LeakyReLU, Mish",
                       r->path, prefix, (int)YOLO_MIN(class->length, 100), class->text);
    const pkl_node *given = pt_attribute(act, "negative_slope");
    if (found == NET_LEAKYRELU && given) slope = given->kind == PKL_FLOAT ? given->number : given->kind == PKL_INT ? (double)given->integer : NAN;
    if (r->activation != NET_LINEAR && (r->activation != (net_activation)found || !(r->slope == slope)))
        return err_set(r->error, YOLO_ERROR_UNSUPPORTED, "%s: %sact: activation %s, but %s before it: a mixture is not supported", r->path,
                       prefix, net_activation_names[found], net_activation_names[r->activation]);
    r->activation = (net_activation)found;
    r->slope = slope;
    return YOLO_OK;
}

typedef struct pt_visit { const pkl_node *module; const char *prefix; int depth; } pt_visit;

/* Walks the module tree, depth first in the order of the state dict. */
static yolo_status pt_walk(pt_reader *r) {
    pt_visit *stack = NULL;
    int64_t depth = 0, capacity = 0, seen = 0;
    yolo_status status = mem_grow(&stack, &capacity, 1, sizeof *stack) ? YOLO_OK : err_memory(r->error, sizeof *stack);
    if (status == YOLO_OK) stack[depth++] = (pt_visit){r->module, "", 0};
    while (status == YOLO_OK && depth) {
        pt_visit at = stack[--depth];
        const pkl_node *modules = pt_attribute(at.module, "_modules");
        if (++seen > PT_MAX_MODULES || at.depth > PT_MAX_DEPTH || (modules && modules->count > 2 * PT_MAX_MODULES)) {
            status = err_set(r->error, YOLO_ERROR_FORMAT, "%s: modules nested deeper than %d, or more than %d of them", r->path, PT_MAX_DEPTH, PT_MAX_MODULES);
            break;
        }
        status = pt_note_module(r, at.module, at.prefix);
        if (status == YOLO_OK) status = pt_add_rows(r, at.prefix, pt_attribute(at.module, "_parameters"));
        if (status == YOLO_OK) status = pt_add_rows(r, at.prefix, pt_attribute(at.module, "_buffers"));
        for (int64_t i = modules && modules->kind == PKL_DICT ? modules->count - 2 : -1; i >= 0 && status == YOLO_OK; i -= 2) {
            const pkl_node *key = modules->items[i], *child = modules->items[i + 1];
            if (child->kind != PKL_OBJECT || key->kind != PKL_TEXT) continue;
            char prefix[200], shown[104];
            pkl_show(shown, key->text, (size_t)key->length);
            int length = snprintf(prefix, sizeof prefix, "%s%s.", at.prefix, shown);
            char *kept = length < 80 ? arena_text(&r->memory, prefix, (size_t)length) : NULL;
            if (length >= 80) status = err_set(r->error, YOLO_ERROR_FORMAT, "%s: a module's name has more than 79 characters", r->path);
            else if (!kept || depth > PT_MAX_MODULES || !mem_grow(&stack, &capacity, depth + 1, sizeof *stack)) status = err_memory(r->error, sizeof *stack);
            else stack[depth++] = (pt_visit){child, kept, at.depth + 1};
        }
    }
    mem_free(stack);
    return status;
}

/* Names of a bare state dict begin with "model.0."; wrappings put words before that, a bare nn.Sequential has "0." */
static void pt_normalise_names(pt_reader *r) {
    static const struct { const char *begin; size_t drop; } wrappings[] = {{"module.", 7}, {"_orig_mod.", 10}, {"model.model.", 6}};
    for (int64_t i = 0; i < r->count; i++) {
        char *name = r->rows[i].name, plain[sizeof r->rows[i].name];
        const char *p = name;
        for (int w = 0; w < YOLO_COUNT(wrappings); w++)
            if (!strncmp(p, wrappings[w].begin, strlen(wrappings[w].begin))) {
                p += wrappings[w].drop;
                w = -1; /* once more */
            }
        snprintf(plain, sizeof plain, "%s%.73s", isdigit((unsigned char)*p) ? "model." : "", p);
        memcpy(name, plain, sizeof plain);
    }
}

static bool pt_is_state_dict(const pkl_node *node) {
    return node && node->kind == PKL_DICT && node->count >= 2 && pt_is_tensor(node->items[1]);
}

/* Finds the module tree or state dict: EMA before model, as ultralytics prefers it. */
static yolo_status pt_find_model(pt_reader *r, bool *from_ema) {
    static const char *const keys[] = {"ema", "model", "state_dict", "model_state_dict"};
    const pkl_node *found = r->root;
    *from_ema = false;
    for (int i = 0; i < YOLO_COUNT(keys) && found == r->root; i++) {
        const pkl_node *node = pkl_get(r->root, keys[i]);
        if (!node || (!pt_is_state_dict(node) && node->kind != PKL_OBJECT)) continue;
        found = node;
        *from_ema = i == 0;
    }
    if (pt_is_state_dict(found)) {
        r->dict = found;
        return YOLO_OK;
    }
    if (found->kind != PKL_OBJECT || pt_is_tensor(found) || !pt_attribute(found, "_modules"))
        return err_set(r->error, YOLO_ERROR_FORMAT, "%s: no model in it: expected 'ema' or 'model' with a model, or a state dict", r->path);
    if (!pt_is_class(found, ".DetectionModel")) {
        const pkl_node *class = pkl_callable(found);
        return err_set(r->error, YOLO_ERROR_UNSUPPORTED, "%s: holds a %.*s, expected a DetectionModel of ultralytics", r->path,
                       (int)YOLO_MIN(class->length, 100), class->text);
    }
    r->module = found;
    return YOLO_OK;
}

/* The zip's entries: which folder, and is it torch.save's? */
static yolo_status pt_find_pickle(pt_reader *r, zip_entry **pickle) {
    *pickle = NULL;
    for (int i = 0; i < r->zip.count; i++) {
        const char *name = r->zip.entries[i].name;
        size_t length = strlen(name);
        if (strcmp(path_name(name), "data.pkl") || length - 8 >= sizeof r->folder || (*pickle && strlen((*pickle)->name) <= length)) continue;
        *pickle = &r->zip.entries[i];
        snprintf(r->folder, sizeof r->folder, "%.*s", (int)length - 8, name);
    }
    if (!*pickle) return err_set(r->error, YOLO_ERROR_FORMAT, "%s: a zip archive without data.pkl, expected a checkpoint of torch.save", r->path);
    char name[256];
    snprintf(name, sizeof name, "%sconstants.pkl", r->folder);
    if (zip_find(&r->zip, name))
        return err_set(r->error, YOLO_ERROR_UNSUPPORTED, "%s: a TorchScript archive, expected a checkpoint: give the .pt that it was exported from", r->path);
    snprintf(name, sizeof name, "%sbyteorder", r->folder);
    zip_entry *order = zip_find(&r->zip, name);
    const uint8_t *text = NULL;
    if (!order) return YOLO_OK;
    yolo_status status = zip_read(&r->zip, order, &text, r->error);
    if (status == YOLO_OK && (order->size != 6 || memcmp(text, "little", 6)))
        status = err_set(r->error, YOLO_ERROR_UNSUPPORTED, "%s: written by a big-endian machine, which is not supported", r->path);
    return status;
}

static float pt_element(const uint8_t *p, ten_dtype dtype) {
    uint64_t bits = 0;
    for (int i = ten_dtype_size(dtype) - 1; i >= 0; i--) bits = bits << 8 | p[i];
    uint32_t low = (uint32_t)bits;
    float narrow;
    double wide;
    switch (dtype) {
    case TEN_F32: memcpy(&narrow, &low, 4); return narrow;
    case TEN_F16: return f16_from_half((uint16_t)bits);
    case TEN_BF16: return f16_from_bfloat((uint16_t)bits);
    case TEN_F64: memcpy(&wide, &bits, 8); return (float)wide;
    case TEN_I64: return (float)(int64_t)bits;
    case TEN_I32: return (float)(int32_t)low;
    case TEN_I16: return (float)(int16_t)bits;
    case TEN_I8: return (float)(int8_t)bits;
    case TEN_U8: return (float)bits;
    case TEN_BOOL: return bits ? 1.0f : 0.0f;
    }
    return 0;
}

static void pt_put_element(uint8_t *p, float value, ten_dtype dtype) {
    uint64_t bits = 0;
    uint32_t low = 0;
    double wide = (double)value, whole = value == value ? YOLO_CLAMP(rint(wide), -9.2e18, 9.2e18) : 0;
    switch (dtype) {
    case TEN_F32: memcpy(&low, &value, 4); bits = low; break;
    case TEN_F16: bits = f16_to_half(value); break;
    case TEN_BF16: bits = f16_to_bfloat(value); break;
    case TEN_F64: memcpy(&bits, &wide, 8); break;
    case TEN_I64: case TEN_I32: case TEN_I16: case TEN_I8: case TEN_U8: bits = (uint64_t)(int64_t)whole; break;
    case TEN_BOOL: bits = value != 0; break;
    }
    for (int i = 0; i < ten_dtype_size(dtype); i++) p[i] = (uint8_t)(bits >> (8 * i));
}

/* Copies a row into the block of parameters. */
static yolo_status pt_copy_row(pt_reader *r, const net_param *to, const pt_tensor *from, float *params) {
    const uint8_t *bytes;
    yolo_status status = zip_read(&r->zip, from->storage, &bytes, r->error);
    if (status != YOLO_OK) return status;
    int size = ten_dtype_size(from->dtype), dims[4] = {1, 1, 1, 1};
    int64_t strides[4] = {0};
    for (int d = 0; d < to->rank; d++) {
        int at = to->rank < 4 || d == 0 ? d : d == 1 ? 3 : d - 1; /* O,I,H,W -> O,H,W,I */
        dims[at] = to->dims[d];
        strides[at] = from->strides[d] * size;
    }
    float *out = params + to->offset;
    const uint8_t *start = bytes + from->offset * size;
    for (int a = 0; a < dims[0]; a++)
        for (int b = 0; b < dims[1]; b++)
            for (int c = 0; c < dims[2]; c++) {
                const uint8_t *p = start + a * strides[0] + b * strides[1] + c * strides[2];
                for (int d = 0; d < dims[3]; d++) *out++ = pt_element(p + d * strides[3], from->dtype);
            }
    return YOLO_OK;
}

static void pt_show_shape(char text[48], const net_param *row) {
    int length = snprintf(text, 48, "(");
    for (int d = 0; d < row->rank; d++) length += snprintf(text + length, 48 - (size_t)length, "%s%d", d ? "," : "", row->dims[d]);
    snprintf(text + length, 48 - (size_t)length, ")");
}

/* Pairs the rows of the graph with those of the file: match[i] is the file's row, -1 where an old file may lack it.
   Their order is nearly always the same, so each search begins behind the last find. */
static yolo_status pt_match_rows(pt_reader *r, const net *net, int64_t *match) {
    char want[48], have[48];
    int64_t next = 0, matched = 0;
    for (int i = 0; i < net->param_count; i++) {
        const net_param *row = &net->params[i];
        match[i] = -1;
        for (int64_t j = 0; j < r->count && match[i] < 0; j++)
            if (!strcmp(r->rows[(next + j) % r->count].name, row->name)) match[i] = (next + j) % r->count;
        pt_show_shape(want, row);
        if (match[i] < 0) {
            if (row->group == NET_FROZEN || str_ends_with(row->name, "num_batches_tracked")) continue;
            return err_set(r->error, YOLO_ERROR_FORMAT, "%s: %s is missing, expected with shape %s", r->path, row->name, want);
        }
        next = match[i] + 1;
        matched++;
        const net_param *found = &r->rows[match[i]];
        pt_show_shape(have, found);
        if (strcmp(want, have)) return err_set(r->error, YOLO_ERROR_FORMAT, "%s: %s has shape %s, expected %s", r->path, row->name, have, want);
    }
    for (int64_t j = 0; j < r->count && matched < r->count; j++)
        if (net_param_find(net, r->rows[j].name) < 0) {
            pt_show_shape(have, &r->rows[j]);
            return err_set(r->error, YOLO_ERROR_FORMAT, "%s: %s with shape %s is not a part of the model that the file describes", r->path, r->rows[j].name, have);
        }
    return matched < r->count ? err_set(r->error, YOLO_ERROR_FORMAT, "%s: a tensor's name comes twice", r->path) : YOLO_OK;
}

/* Allocates and fills the block of parameters. */
static yolo_status pt_copy_rows(pt_reader *r, pt_model *m) {
    int64_t *match = mem_array((uint64_t)m->net.param_count, sizeof *match);
    yolo_status status = match ? pt_match_rows(r, &m->net, match) : err_memory(r->error, (uint64_t)m->net.param_count * sizeof *match);
    uint64_t bytes = (uint64_t)m->net.param_elements * sizeof *m->params;
    if (status == YOLO_OK && bytes > ((uint64_t)64 << 20) + 32 * (uint64_t)r->zip.size) /* views of one element, repeated */
        status = err_set(r->error, YOLO_ERROR_FORMAT, "%s: %.0f MiB of parameters in a file of %.1f MiB, refused", r->path,
                         (double)bytes / 1048576, (double)r->zip.size / 1048576);
    if (status == YOLO_OK && !(m->params = mem_array((uint64_t)m->net.param_elements, sizeof *m->params))) status = err_memory(r->error, bytes);
    for (int i = 0; i < m->net.param_count && status == YOLO_OK; i++) {
        net_param *row = &m->net.params[i];
        if (match[i] >= 0) {
            row->stored = r->rows[match[i]].stored;
            status = pt_copy_row(r, row, &r->tensors[match[i]], m->params);
        } else if (row->group == NET_FROZEN) /* the expectation over the bins of a box side */
            for (int64_t j = 0; j < row->count; j++) m->params[row->offset + j] = (float)j;
    }
    mem_free(match);
    return status;
}

/* "PATH: " before what another section said. */
static yolo_status pt_say_path(const pt_reader *r, yolo_status status) {
    if (status == YOLO_OK || !r->error || !strncmp(r->error->message, r->path, strlen(r->path))) return status;
    char text[sizeof r->error->message];
    memcpy(text, r->error->message, sizeof text);
    return err_set(r->error, status, "%s: %s", r->path, text);
}

/* The class names as a checkpoint has them, map by number or list, as an array for `count` classes; NULL where the file
   names none. False for want of memory. */
static bool pt_names(pt_reader *r, const pkl_node *node, int64_t count, char ***names) {
    *names = NULL;
    const pkl_node *given = node ? pkl_unwrap(node) : NULL;
    if (!given || (given->kind != PKL_DICT && given->kind != PKL_LIST && given->kind != PKL_TUPLE)) return true;
    if (!(*names = arena_array(&r->memory, (uint64_t)count, sizeof **names))) return false;
    bool map = given->kind == PKL_DICT;
    for (int64_t i = 0; i + map < given->count; i += 1 + map) {
        int64_t class = map ? given->items[i]->kind == PKL_INT ? given->items[i]->integer : -1 : i;
        const pkl_node *name = given->items[i + map];
        if (class < 0 || class >= count || name->kind != PKL_TEXT || name->length > 1000) continue;
        val *text = pkl_val_text(&r->memory, name);
        if (!text) return false;
        (*names)[class] = (char *)(uintptr_t)text->text;
    }
    return true;
}

/* The names beside a bare state dict, where there are any. */
static yolo_status pt_set_names(pt_reader *r, net *net) {
    char **names;
    bool good = pt_names(r, pkl_get(r->root, "names"), net->class_count, &names);
    for (int i = 0; good && names && i < net->class_count; i++)
        if (names[i]) good = (net->names[i] = arena_text(&net->memory, names[i], strlen(names[i]))) != NULL;
    return good ? YOLO_OK : err_memory(r->error, (uint64_t)net->class_count * sizeof *names);
}

/* Writes the activation that the modules have into the description, which may not say. */
static bool pt_set_activation(pt_reader *r, val *yaml) {
    net_activation activation = NET_SILU;
    double slope = 0;
    const char *text = val_text(val_get(yaml, "activation"), "silu");
    if (r->activation == NET_LINEAR || yaml->kind != VAL_MAP) return true;
    if (net_parse_activation(text, &activation, &slope) && activation == r->activation && (activation != NET_LEAKYRELU || slope == r->slope)) return true;
    char spelled[64];
    int length = snprintf(spelled, sizeof spelled, "torch.nn.%s(", net_activation_names[r->activation]);
    if (r->activation == NET_LEAKYRELU) length += snprintf(spelled + length, sizeof spelled - (size_t)length, "%.9g", r->slope);
    length += snprintf(spelled + length, sizeof spelled - (size_t)length, ")");
    return net_set_val(&r->memory, yaml, "activation", val_string(&r->memory, spelled, (size_t)length));
}

/* The graph from the description in the module, or from the shapes of a bare state dict. */
static yolo_status pt_build(pt_reader *r, pt_model *m) {
    bool fused = true;
    int class_channels = 0;
    for (int64_t i = 0; i < r->count; i++) {
        if (str_ends_with(r->rows[i].name, ".bn.weight")) fused = false;
        /* the class branch keeps the width of the model that a fine-tuning began with */
        if (str_ends_with(r->rows[i].name, ".cv3.0.0.conv.weight")) class_channels = r->rows[i].dims[0];
    }
    if (!r->module) {
        yolo_status status = net_build_from_shapes(&m->net, r->rows, (int)r->count, r->error);
        return status == YOLO_OK ? pt_set_names(r, &m->net) : pt_say_path(r, status);
    }
    val *yaml = pkl_val(&r->memory, pt_attribute(r->module, "yaml"));
    const pkl_node *nc = pt_attribute(r->detect, "nc");
    int64_t classes = nc && nc->kind == PKL_INT ? nc->integer : val_integer(val_get(yaml, "nc"), 0);
    if (!yaml || !pt_set_activation(r, yaml)) return err_memory(r->error, sizeof *yaml);
    if (classes < 1 || classes > NET_MAX_CHANNELS || class_channels < 0 || class_channels > NET_MAX_CHANNELS)
        return err_set(r->error, YOLO_ERROR_FORMAT, "%s: %lld classes, expected 1 to %d", r->path, (long long)classes, NET_MAX_CHANNELS);
    char **names;
    if (!pt_names(r, pt_attribute(r->module, "names"), classes, &names)) return err_memory(r->error, (uint64_t)classes * sizeof *names);
    return pt_say_path(r, net_build_with(&m->net, yaml, NULL, (int)classes, names, -1, fused, class_channels, r->error));
}

/* A text of the file in a fixed field: what does not fit is cut at a character, what is no text is "". */
static void pt_copy_text(char *out, size_t size, const pkl_node *node) {
    size_t length = node && node->kind == PKL_TEXT ? YOLO_MIN((size_t)node->length, size - 1) : 0;
    if (length) memcpy(out, node->text, length);
    while (length && !str_is_utf8(out, length)) length--;
    out[length] = 0;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)out[i] < 32) out[i] = ' ';
}

static yolo_status pt_bad_state(const pt_reader *r, const char *what) {
    return err_set(r->error, YOLO_ERROR_FORMAT, "%s: damaged training state: %s", r->path, what);
}

/* One block of the state: a contiguous run of float32. `left`: bytes that the blocks may still have. */
static yolo_status pt_read_block(pt_reader *r, const pkl_node *key, const pkl_node *node, pt_state *state, uint64_t *left) {
    net_param row = {0};
    pt_tensor tensor = {0};
    pt_block *block = &state->blocks[state->block_count];
    char shown[104];
    const uint8_t *bytes;
    if (key->kind != PKL_TEXT || !key->length || key->length >= (int64_t)sizeof block->name) return pt_bad_state(r, "a block without a proper name");
    pkl_show(shown, key->text, (size_t)key->length);
    snprintf(row.name, sizeof row.name, "%.23s", shown);
    if (pt_state_block(state, row.name)) return pt_bad_state(r, "two blocks of the same name");
    yolo_status status = pt_read_tensor(r, node, &row, &tensor);
    if (status != YOLO_OK) return status;
    if (row.rank != 1 || tensor.dtype != TEN_F32 || (row.count > 1 && tensor.strides[0] != 1)) return pt_bad_state(r, "a block that is no run of float32");
    uint64_t size = (uint64_t)row.count * sizeof *block->data;
    if (size > *left) return pt_bad_state(r, "its blocks are larger than the file");
    *left -= size;
    snprintf(block->name, sizeof block->name, "%.23s", row.name);
    block->count = row.count;
    state->block_count++;
    if (!r->blocks) return YOLO_OK;
    if ((status = zip_read(&r->zip, tensor.storage, &bytes, r->error)) != YOLO_OK) return status;
    if (!(block->data = arena_alloc(&state->memory, size))) return err_memory(r->error, size);
    if (size) memcpy(block->data, bytes + 4 * tensor.offset, (size_t)size);
    return YOLO_OK;
}

static yolo_status pt_read_state(pt_reader *r, pt_model *m) {
    const pkl_node *node = pkl_get(r->root, "yolo_state"), *blocks = pkl_get(node, "blocks");
    if (!node) return YOLO_OK;
    uint64_t left = r->zip.size;
    pt_state *state = m->state = mem_array(1, sizeof *state);
    if (!state || !(state->numbers = pkl_val(&state->memory, pkl_get(node, "numbers")))) return err_memory(r->error, sizeof *state);
    if (state->numbers->kind != VAL_MAP) return pt_bad_state(r, "expected 'numbers', a map");
    if (!blocks || blocks->kind != PKL_DICT || blocks->count > 2 * PT_MAX_BLOCKS) return pt_bad_state(r, "expected 'blocks', a map of at most 12 tensors");
    yolo_status status = YOLO_OK;
    for (int64_t i = 0; i + 1 < blocks->count && status == YOLO_OK; i += 2)
        status = pt_read_block(r, blocks->items[i], blocks->items[i + 1], state, &left);
    m->has_optimizer = true;
    return status;
}

/* A key of the checkpoint as plain data of that kind, in *out; else NULL. */
static yolo_status pt_read_map(pt_reader *r, pt_model *m, const pkl_node *node, val **out) {
    *out = NULL;
    if (!node) return YOLO_OK;
    if (!(*out = pkl_val(&m->memory, node))) return err_memory(r->error, sizeof **out);
    if ((*out)->kind != VAL_MAP) *out = NULL;
    return YOLO_OK;
}

/* What came with the weights. */
static yolo_status pt_read_extras(pt_reader *r, pt_model *m) {
    const pkl_node *epoch = pkl_get(r->root, "epoch"), *optimizer = pkl_get(r->root, "optimizer"), *args = pkl_get(r->root, "train_args");
    pt_copy_text(m->version, sizeof m->version, pkl_get(r->root, "version"));
    pt_copy_text(m->date, sizeof m->date, pkl_get(r->root, "date"));
    m->epoch = epoch && epoch->kind == PKL_INT ? epoch->integer : -1;
    m->has_optimizer = optimizer && optimizer->kind != PKL_NONE;
    if (!args || args->kind == PKL_NONE) args = pt_attribute(r->module, "args");
    yolo_status status = pt_read_map(r, m, args, &m->train_args);
    if (status == YOLO_OK) status = pt_read_map(r, m, pkl_get(r->root, "train_metrics"), &m->train_metrics);
    if (status == YOLO_OK) status = pt_read_map(r, m, pkl_get(r->root, "train_results"), &m->train_results);
    if (status != YOLO_OK) return status;
    if (!(m->best_fitness = pkl_val(&m->memory, pkl_get(r->root, "best_fitness")))) return err_memory(r->error, sizeof *m->best_fitness);
    if (!val_is_number(m->best_fitness)) m->best_fitness = NULL;
    const pkl_node *eps = pt_attribute(r->norm, "eps"), *momentum = pt_attribute(r->norm, "momentum");
    if (eps && eps->kind == PKL_FLOAT && eps->number > 0 && eps->number < 1) m->net.bn_eps = eps->number;
    if (momentum && momentum->kind == PKL_FLOAT && momentum->number > 0 && momentum->number < 1) m->net.bn_momentum = momentum->number;
    return pt_read_state(r, m);
}

static yolo_status pt_read_pickle(pt_reader *r, pt_model *m) {
    yolo_status status = pt_find_model(r, &m->from_ema);
    if (status == YOLO_OK) status = r->module ? pt_walk(r) : pt_add_rows(r, "", r->dict);
    if (status != YOLO_OK) return status;
    if (!r->module) pt_normalise_names(r);
    status = pt_build(r, m);
    if (status == YOLO_OK) status = pt_copy_rows(r, m);
    if (status == YOLO_OK) status = pt_read_extras(r, m);
    return status;
}

/* Reads a checkpoint that lies in memory; `path` is for messages. Without `blocks` the training state's have no data:
   enough for all but going on with it. On error *m is empty. */
static yolo_status pt_read_memory(const char *path, const uint8_t *bytes, size_t size, bool blocks, pt_model *m, yolo_error *error) {
    pt_reader r = {.path = path, .blocks = blocks, .error = error};
    zip_entry *entry;
    const uint8_t *pickle;
    memset(m, 0, sizeof *m);
    if (size >= 2 && bytes[0] == 0x80 && bytes[1] <= 5)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "%s: a pickle without a zip archive, as torch before 1.6 wrote it; load and save it "
                       "once with a newer torch: torch.save(torch.load(path, weights_only=False), path)", path);
    yolo_status status = zip_open(&r.zip, path, bytes, size, error);
    if (status == YOLO_OK) status = pt_find_pickle(&r, &entry);
    if (status == YOLO_OK && entry->size > PKL_SIZE_CAP)
        status = err_set(error, YOLO_ERROR_FORMAT, "%s: a pickle of %llu bytes, expected at most %d", path, (unsigned long long)entry->size, PKL_SIZE_CAP);
    if (status == YOLO_OK) status = zip_read(&r.zip, entry, &pickle, error);
    if (status == YOLO_OK) status = pkl_read(&r.pickle, path, pickle, (size_t)entry->size, error);
    if (status == YOLO_OK) {
        r.root = r.pickle.root;
        status = pt_read_pickle(&r, m);
        pkl_close(&r.pickle);
    }
    mem_free(r.rows);
    mem_free(r.tensors);
    arena_free(&r.memory);
    zip_close(&r.zip);
    if (status != YOLO_OK) pt_free(m);
    return status;
}

static yolo_status pt_read_file(const char *path, bool blocks, pt_model *m, yolo_error *error) {
    uint8_t *bytes;
    size_t size;
    memset(m, 0, sizeof *m);
    yolo_status status = path_read(path, PT_FILE_CAP, &bytes, &size, error);
    if (status != YOLO_OK) return status;
    status = pt_read_memory(path, bytes, size, blocks, m, error);
    mem_free(bytes);
    return status;
}

/* Reads a checkpoint with all that it takes to go on with its training. */
static yolo_status pt_read(const char *path, pt_model *m, yolo_error *error) { return pt_read_file(path, true, m, error); }

/* Writing. The module tree is walked from net.layers; each pt_put_ function below leaves one object on the stack of the
   reading machine. REF torch/nn/modules/module.py for what an nn.Module's state holds; ultralytics/nn/modules for the
   attributes of the blocks. */

typedef struct pt_writer {
    pkl_out out;
    const pt_model *model;
    const pt_state *state; /* of a training; NULL = stripped */
    bool half;
    int row; /* the next one of the parameter table: modules are written in its order */
    int activation; /* number in the memo of the one module that all convolutions share; 0 = not yet written */
} pt_writer;

static ten_dtype pt_stored(const pt_writer *w, const net_param *row) {
    bool floating = row->stored <= TEN_F64;
    return !floating ? row->stored : w->state ? TEN_F32 : w->half ? TEN_F16 : row->stored;
}

static void pt_put_pair(pkl_out *o, int64_t a, int64_t b) {
    pkl_put_int(o, a);
    pkl_put_int(o, b);
    pkl_put(o, 0x86);
}

static void pt_put_key_int(pkl_out *o, const char *key, int64_t value) {
    pkl_put_key(o, key);
    pkl_put_int(o, value);
}
static void pt_put_key_float(pkl_out *o, const char *key, double value) {
    pkl_put_key(o, key);
    pkl_put_float(o, value);
}
static void pt_put_key_bool(pkl_out *o, const char *key, bool value) {
    pkl_put_key(o, key);
    pkl_put_bool(o, value);
}
static void pt_put_key_none(pkl_out *o, const char *key) {
    pkl_put_key(o, key);
    pkl_put(o, 'N');
}

static void pt_put_empty(pkl_out *o, const char *class) {
    pkl_put_global(o, class);
    pkl_put(o, ')');
    pkl_put(o, 'R');
}

/* A contiguous tensor that is all of storage `key`. */
static void pt_put_tensor(pkl_out *o, int key, ten_dtype dtype, int rank, const int *dims) {
    static const char *const classes[] = {"torch\nFloatStorage\n", "torch\nHalfStorage\n", "torch\nBFloat16Storage\n", "torch\nDoubleStorage\n",
        "torch\nLongStorage\n", "torch\nIntStorage\n", "torch\nShortStorage\n", "torch\nCharStorage\n", "torch\nByteStorage\n", "torch\nBoolStorage\n"};
    char text[16];
    int64_t count = 1, stride = 1;
    for (int d = 0; d < rank; d++) count *= dims[d];
    pkl_put_global(o, "torch._utils\n_rebuild_tensor_v2\n");
    pkl_put(o, '(');
    pkl_put(o, '(');
    pkl_put_key(o, "storage");
    pkl_put_global(o, classes[dtype]);
    snprintf(text, sizeof text, "%d", key);
    pkl_put_text(o, text);
    pkl_put_key(o, "cpu");
    pkl_put_int(o, count);
    pkl_put(o, 't');
    pkl_put(o, 'Q');
    pkl_put_int(o, 0);
    pkl_put(o, '(');
    for (int d = 0; d < rank; d++) pkl_put_int(o, dims[d]);
    pkl_put(o, 't');
    pkl_put(o, '(');
    for (int d = 0; d < rank; d++) {
        stride = 1;
        for (int e = d + 1; e < rank; e++) stride *= dims[e];
        pkl_put_int(o, stride);
    }
    pkl_put(o, 't');
    pkl_put_bool(o, false);
    pt_put_empty(o, "collections\nOrderedDict\n");
    pkl_put(o, 't');
    pkl_put(o, 'R');
}

/* Row `index` of the parameter table: a Parameter, or a plain tensor for a running statistic. */
static void pt_put_row(pt_writer *w, int index) {
    pkl_out *o = &w->out;
    const net_param *row = &w->model->net.params[index];
    bool parameter = row->group != NET_BN_STAT;
    if (parameter) {
        pkl_put_global(o, "torch._utils\n_rebuild_parameter\n");
        pkl_put(o, '(');
    }
    pt_put_tensor(o, index, pt_stored(w, row), row->rank, row->dims);
    if (!parameter) return;
    pkl_put_bool(o, false); /* requires_grad, as in a stripped checkpoint; training sets it */
    pt_put_empty(o, "collections\nOrderedDict\n");
    pkl_put(o, 't');
    pkl_put(o, 'R');
}

/* Begins a module of that class: its state up to the parameters. Until pt_close, pairs of key and value follow.
   Returns its number in the memo. */
static int pt_open(pkl_out *o, const char *class) {
    static const char *const hooks[] = {"_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks",
        "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"};
    pkl_put_global(o, class);
    pkl_put(o, ')');
    pkl_put(o, 0x81);
    int self = pkl_put_memo(o);
    pkl_put(o, '}');
    pkl_put(o, '(');
    pt_put_key_bool(o, "training", false);
    pkl_put_key(o, "_non_persistent_buffers_set");
    pkl_put_global(o, "__builtin__\nset\n");
    pkl_put(o, ']');
    pkl_put(o, 0x85);
    pkl_put(o, 'R');
    pt_put_key_none(o, "_is_full_backward_hook");
    for (int i = 0; i < YOLO_COUNT(hooks); i++) {
        pkl_put_key(o, hooks[i]);
        pt_put_empty(o, "collections\nOrderedDict\n");
    }
    return self;
}

static void pt_close(pkl_out *o) {
    pkl_put(o, 'u');
    pkl_put(o, 'b');
}

/* The three tables of a module, with its next `parameters` rows (weight and bias, or a weight alone) and, for a batch
   norm, the statistics behind them. Leaves _modules open for children; pt_end_tables closes it. */
static void pt_put_tables(pt_writer *w, int parameters, bool norm) {
    static const char *const names[] = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"};
    pkl_out *o = &w->out;
    pkl_put_key(o, "_parameters");
    pkl_put(o, '}');
    pkl_put(o, '(');
    for (int i = 0; i < parameters; i++) {
        pkl_put_key(o, names[i]);
        pt_put_row(w, w->row++);
    }
    if (parameters == 1) pt_put_key_none(o, names[1]);
    pkl_put(o, 'u');
    pkl_put_key(o, "_buffers");
    pkl_put(o, '}');
    pkl_put(o, '(');
    for (int i = 2; norm && i < YOLO_COUNT(names); i++) {
        pkl_put_key(o, names[i]);
        pt_put_row(w, w->row++);
    }
    pkl_put(o, 'u');
    pkl_put_key(o, "_modules");
    pkl_put(o, '}');
    pkl_put(o, '(');
}

static void pt_end_tables(pkl_out *o) { pkl_put(o, 'u'); }

/* A module without children, still open for attributes. Returns its number in the memo. */
static int pt_open_leaf(pt_writer *w, const char *class, int parameters, bool norm) {
    int self = pt_open(&w->out, class);
    pt_put_tables(w, parameters, norm);
    pt_end_tables(&w->out);
    return self;
}

static void pt_put_conv2d(pt_writer *w, bool bias, int stride, int padding) {
    pkl_out *o = &w->out;
    const net_param *row = &w->model->net.params[w->row];
    pt_open_leaf(w, "torch.nn.modules.conv\nConv2d\n", 1 + bias, false);
    pt_put_key_int(o, "in_channels", row->dims[1]);
    pt_put_key_int(o, "out_channels", row->dims[0]);
    pkl_put_key(o, "kernel_size");
    pt_put_pair(o, row->dims[2], row->dims[3]);
    pkl_put_key(o, "stride");
    pt_put_pair(o, stride, stride);
    pkl_put_key(o, "padding");
    pt_put_pair(o, padding, padding);
    pkl_put_key(o, "dilation");
    pt_put_pair(o, 1, 1);
    pt_put_key_bool(o, "transposed", false);
    pkl_put_key(o, "output_padding");
    pt_put_pair(o, 0, 0);
    pt_put_key_int(o, "groups", 1);
    pkl_put_key(o, "padding_mode");
    pkl_put_key(o, "zeros");
    pkl_put_key(o, "_reversed_padding_repeated_twice");
    pkl_put(o, '(');
    for (int i = 0; i < 4; i++) pkl_put_int(o, padding);
    pkl_put(o, 't');
    pt_close(o);
}

static void pt_put_norm(pt_writer *w) {
    pkl_out *o = &w->out;
    const net *net = &w->model->net;
    int features = net->params[w->row].dims[0];
    pt_open_leaf(w, "torch.nn.modules.batchnorm\nBatchNorm2d\n", 2, true);
    pt_put_key_int(o, "num_features", features);
    pt_put_key_float(o, "eps", net->bn_eps);
    pt_put_key_float(o, "momentum", net->bn_momentum);
    pt_put_key_bool(o, "affine", true);
    pt_put_key_bool(o, "track_running_stats", true);
    pt_close(o);
}

static void pt_put_activation(pt_writer *w, net_activation activation) {
    static const char *const classes[] = {"torch.nn.modules.linear\nIdentity\n", "torch.nn.modules.activation\nSiLU\n",
        "torch.nn.modules.activation\nReLU\n", "torch.nn.modules.activation\nLeakyReLU\n", "torch.nn.modules.activation\nMish\n"};
    if (activation != NET_LINEAR && w->activation) {
        pkl_put_again(&w->out, w->activation);
        return;
    }
    int self = pt_open_leaf(w, classes[activation], 0, false);
    if (activation == NET_LEAKYRELU) pt_put_key_float(&w->out, "negative_slope", w->model->net.slope);
    if (activation != NET_LINEAR) {
        pt_put_key_bool(&w->out, "inplace", true);
        w->activation = self;
    }
    pt_close(&w->out);
}

/* Convolution, batch norm, activation. A fused one calls another method of its class. Left open for the attributes of
   a layer. */
static void pt_open_conv(pt_writer *w, int stride, int padding, bool activated) {
    pkl_out *o = &w->out;
    const net *net = &w->model->net;
    int self = pt_open(o, "ultralytics.nn.modules.conv\nConv\n");
    pt_put_tables(w, 0, false);
    pkl_put_key(o, "conv");
    pt_put_conv2d(w, net->fused, stride, padding);
    if (!net->fused) {
        pkl_put_key(o, "bn");
        pt_put_norm(w);
    }
    pkl_put_key(o, "act");
    pt_put_activation(w, activated ? net->activation : NET_LINEAR);
    pt_end_tables(o);
    if (!net->fused) return;
    pkl_put_key(o, "forward");
    pkl_put_global(o, "__builtin__\ngetattr\n");
    pkl_put_again(o, self);
    pkl_put_key(o, "forward_fuse");
    pkl_put(o, 0x86);
    pkl_put(o, 'R');
}

/* A Conv of stride 1 inside a block. */
static void pt_put_conv(pt_writer *w, const char *key, bool activated) {
    pkl_put_key(&w->out, key);
    pt_open_conv(w, 1, w->model->net.params[w->row].dims[2] / 2, activated);
    pt_close(&w->out);
}

static void pt_open_c2f(pt_writer *w, const net_layer *layer) {
    pkl_out *o = &w->out;
    char key[16];
    pt_open(o, "ultralytics.nn.modules.block\nC2f\n");
    pt_put_tables(w, 0, false);
    pt_put_conv(w, "cv1", true);
    pt_put_conv(w, "cv2", true);
    pkl_put_key(o, "m");
    pt_open(o, "torch.nn.modules.container\nModuleList\n");
    pt_put_tables(w, 0, false);
    for (int i = 0; i < layer->repeats; i++) {
        snprintf(key, sizeof key, "%d", i);
        pkl_put_text(o, key);
        pt_open(o, "ultralytics.nn.modules.block\nBottleneck\n");
        pt_put_tables(w, 0, false);
        pt_put_conv(w, "cv1", true);
        pt_put_conv(w, "cv2", true);
        pt_end_tables(o);
        pt_put_key_bool(o, "add", layer->shortcut);
        pt_close(o);
    }
    pt_end_tables(o);
    pt_close(o);
    pt_end_tables(o);
    pt_put_key_int(o, "c", layer->hidden);
}

static void pt_open_sppf(pt_writer *w, const net_layer *layer) {
    pkl_out *o = &w->out;
    pt_open(o, "ultralytics.nn.modules.block\nSPPF\n");
    pt_put_tables(w, 0, false);
    pt_put_conv(w, "cv1", layer->activated);
    pt_put_conv(w, "cv2", true);
    pkl_put_key(o, "m");
    pt_open_leaf(w, "torch.nn.modules.pooling\nMaxPool2d\n", 0, false);
    pt_put_key_int(o, "kernel_size", layer->kernel);
    pt_put_key_int(o, "stride", 1);
    pt_put_key_int(o, "padding", layer->kernel / 2);
    pt_put_key_int(o, "dilation", 1);
    pt_put_key_bool(o, "return_indices", false);
    pt_put_key_bool(o, "ceil_mode", false);
    pt_close(o);
    pt_end_tables(o);
    pt_put_key_int(o, "n", layer->pools);
    pt_put_key_bool(o, "add", layer->shortcut);
}

static void pt_open_upsample(pt_writer *w) {
    pkl_out *o = &w->out;
    pt_open_leaf(w, "torch.nn.modules.upsampling\nUpsample\n", 0, false);
    pkl_put_key(o, "name");
    pkl_put_key(o, "Upsample");
    pt_put_key_none(o, "size");
    pt_put_key_float(o, "scale_factor", 2);
    pkl_put_key(o, "mode");
    pkl_put_key(o, "nearest");
    pt_put_key_none(o, "align_corners");
    pt_put_key_none(o, "recompute_scale_factor");
}

/* The strides as a tensor, in the storage with that number behind the parameters'. */
static void pt_put_strides(pt_writer *w, int number) {
    const net *net = &w->model->net;
    pkl_put_key(&w->out, "stride");
    pt_put_tensor(&w->out, net->param_count + number, TEN_F32, 1, &net->level_count);
}

static void pt_open_detect(pt_writer *w) {
    pkl_out *o = &w->out;
    const net *net = &w->model->net;
    char key[16];
    pt_open(o, "ultralytics.nn.modules.head\nDetect\n");
    pt_put_tables(w, 0, false);
    for (int branch = 2; branch <= 3; branch++) {
        pkl_put_key(o, branch == 2 ? "cv2" : "cv3");
        pt_open(o, "torch.nn.modules.container\nModuleList\n");
        pt_put_tables(w, 0, false);
        for (int i = 0; i < net->level_count; i++) {
            snprintf(key, sizeof key, "%d", i);
            pkl_put_text(o, key);
            pt_open(o, "torch.nn.modules.container\nSequential\n");
            pt_put_tables(w, 0, false);
            pt_put_conv(w, "0", true);
            pt_put_conv(w, "1", true);
            pkl_put_key(o, "2");
            pt_put_conv2d(w, true, 1, 0);
            pt_end_tables(o);
            pt_close(o);
        }
        pt_end_tables(o);
        pt_close(o);
    }
    pkl_put_key(o, "dfl");
    pt_open(o, "ultralytics.nn.modules.block\nDFL\n");
    pt_put_tables(w, 0, false);
    pkl_put_key(o, "conv");
    pt_put_conv2d(w, false, 1, 0);
    pt_end_tables(o);
    pt_put_key_int(o, "c1", NET_REG_MAX);
    pt_close(o);
    pt_end_tables(o);
    pt_put_key_int(o, "nc", net->class_count);
    pt_put_key_int(o, "nl", net->level_count);
    pt_put_key_int(o, "reg_max", NET_REG_MAX);
    pt_put_key_int(o, "no", net->class_count + 4 * NET_REG_MAX);
    pt_put_strides(w, 1);
    pt_put_key_bool(o, "inplace", true);
}

/* The row of the description that layer `i` came from. */
static const val *pt_yaml_row(const net *net, int i) {
    const val *backbone = val_get(net->yaml, "backbone"), *head = val_get(net->yaml, "head");
    return i < backbone->count ? backbone->items[i] : head->items[i - backbone->count];
}

static void pt_put_layer(pt_writer *w, int i) {
    static const char *const types[] = {"ultralytics.nn.modules.conv.Conv", "ultralytics.nn.modules.block.C2f", "ultralytics.nn.modules.block.SPPF",
        "torch.nn.modules.upsampling.Upsample", "ultralytics.nn.modules.conv.Concat", "ultralytics.nn.modules.head.Detect"};
    pkl_out *o = &w->out;
    const net *net = &w->model->net;
    const net_layer *layer = &net->layers[i];
    YOLO_ASSERT(w->row == layer->first_param);
    switch (layer->module) {
    case NET_MODULE_CONV: pt_open_conv(w, layer->stride, layer->padding, layer->activated); break;
    case NET_MODULE_C2F: pt_open_c2f(w, layer); break;
    case NET_MODULE_SPPF: pt_open_sppf(w, layer); break;
    case NET_MODULE_UPSAMPLE: pt_open_upsample(w); break;
    case NET_MODULE_CONCAT:
        pt_open_leaf(w, "ultralytics.nn.modules.conv\nConcat\n", 0, false);
        pt_put_key_int(o, "d", 1);
        break;
    case NET_MODULE_DETECT: pt_open_detect(w); break;
    }
    pt_put_key_int(o, "np", net_layer_elements(net, i, true));
    pt_put_key_int(o, "i", i);
    pkl_put_key(o, "f");
    pkl_put_val(o, pt_yaml_row(net, i)->items[0]);
    pkl_put_key(o, "type");
    pkl_put_key(o, types[layer->module]);
    pt_close(o);
}

/* Which layers' outputs are needed again, in order. */
static void pt_put_save(pt_writer *w) {
    const net *net = &w->model->net;
    bool saved[NET_MAX_LAYERS] = {false};
    for (int i = 0; i < net->layer_count; i++) {
        const val *from = pt_yaml_row(net, i)->items[0];
        for (int j = 0; j < net->layers[i].from_count; j++)
            if (val_integer(from->kind == VAL_LIST ? from->items[j] : from, 0) != -1) saved[net->layers[i].from[j]] = true;
    }
    pkl_put_key(&w->out, "save");
    pkl_put(&w->out, ']');
    pkl_put(&w->out, '(');
    for (int i = 0; i < net->layer_count; i++)
        if (saved[i]) pkl_put_int(&w->out, i);
    pkl_put(&w->out, 'e');
}

static void pt_put_names(pt_writer *w) {
    const net *net = &w->model->net;
    pkl_put_key(&w->out, "names");
    pkl_put(&w->out, '}');
    pkl_put(&w->out, '(');
    for (int i = 0; i < net->class_count; i++) {
        pkl_put_int(&w->out, i);
        pkl_put_text(&w->out, net->names[i]);
    }
    pkl_put(&w->out, 'u');
}

static void pt_put_train_args(pt_writer *w) {
    if (w->model->train_args) pkl_put_val(&w->out, w->model->train_args);
    else pkl_put(&w->out, '}');
}

/* The model's object graph. REF ultralytics/nn/tasks.py DetectionModel. */
static void pt_put_model(pt_writer *w) {
    pkl_out *o = &w->out;
    const net *net = &w->model->net;
    char key[16];
    pt_open(o, "ultralytics.nn.tasks\nDetectionModel\n");
    pt_put_tables(w, 0, false);
    pkl_put_key(o, "model");
    pt_open(o, "torch.nn.modules.container\nSequential\n");
    pt_put_tables(w, 0, false);
    for (int i = 0; i < net->layer_count; i++) {
        snprintf(key, sizeof key, "%d", i);
        pkl_put_text(o, key);
        pt_put_layer(w, i);
    }
    YOLO_ASSERT(w->row == net->param_count);
    pt_end_tables(o);
    pt_close(o);
    pt_end_tables(o);
    pkl_put_key(o, "yaml");
    pkl_put_val(o, net->yaml);
    pt_put_save(w);
    pt_put_names(w);
    pt_put_key_bool(o, "inplace", true);
    pt_put_strides(w, 0);
    pkl_put_key(o, "args");
    pt_put_train_args(w);
    pkl_put_key(o, "task");
    pkl_put_key(o, "detect");
    pt_put_key_int(o, "nc", net->class_count);
    pt_close(o);
}

static void pt_put_key_val(pkl_out *o, const char *key, const val *v) {
    pkl_put_key(o, key);
    pkl_put_val(o, v);
}

/* What the file's reader needs to go on bit-exactly: numbers, and blocks as float32 tensors. */
static void pt_put_state(pt_writer *w) {
    pkl_out *o = &w->out;
    const pt_state *state = w->state;
    pkl_put_key(o, "yolo_state");
    pkl_put(o, '}');
    pkl_put(o, '(');
    pt_put_key_val(o, "numbers", state->numbers);
    pkl_put_key(o, "blocks");
    pkl_put(o, '}');
    pkl_put(o, '(');
    for (int i = 0; i < state->block_count; i++) {
        int count = (int)state->blocks[i].count;
        pkl_put_text(o, state->blocks[i].name);
        pt_put_tensor(o, w->model->net.param_count + 2 + i, TEN_F32, 1, &count);
    }
    pkl_put(o, 'u');
    pkl_put(o, 'u');
}

/* What ultralytics' trainer looks for beside the model. */
static void pt_put_progress(pt_writer *w) {
    pkl_out *o = &w->out;
    const val *numbers = w->state->numbers;
    double fitness = val_number(val_get(numbers, "best_fitness"), -1);
    pt_put_key_int(o, "epoch", w->model->epoch);
    if (fitness < 0) pt_put_key_none(o, "best_fitness");
    else pt_put_key_float(o, "best_fitness", fitness);
    pt_put_key_int(o, "updates", val_integer(val_get(numbers, "updates"), 0));
    pkl_put_key(o, "stopper");
    pkl_put(o, '}');
    pkl_put(o, '(');
    pt_put_key_float(o, "best_fitness", YOLO_MAX(fitness, 0));
    pt_put_key_int(o, "best_epoch", val_integer(val_get(numbers, "best_epoch"), 0));
    pkl_put(o, 'u');
}

/* The whole of data.pkl: what ultralytics' stripped checkpoints hold, or those of an epoch, whose model is the moving
   average. REF ultralytics/engine/trainer.py save_model; ultralytics/utils/torch_utils.py strip_optimizer. */
static void pt_put_checkpoint(pt_writer *w) {
    static const char *const stripped[] = {"best_fitness", "updates", "stopper"};
    pkl_out *o = &w->out;
    const pt_model *m = w->model;
    pkl_put(o, 0x80);
    pkl_put(o, 2);
    pkl_put(o, '}');
    pkl_put(o, '(');
    pkl_put_key(o, "date");
    if (m->date[0]) pkl_put_text(o, m->date);
    else pkl_put(o, 'N');
    pkl_put_key(o, "version");
    pkl_put_text(o, "yolo " YOLO_VERSION);
    if (w->state) pt_put_progress(w);
    else {
        pt_put_key_int(o, "epoch", -1);
        for (int i = 0; i < YOLO_COUNT(stripped); i++) pt_put_key_none(o, stripped[i]);
    }
    pt_put_key_none(o, w->state ? "model" : "ema");
    pkl_put_key(o, w->state ? "ema" : "model");
    pt_put_model(w);
    pt_put_key_none(o, "optimizer");
    pt_put_key_none(o, "scaler");
    pkl_put_key(o, "train_args");
    pt_put_train_args(w);
    if (m->train_metrics) pt_put_key_val(o, "train_metrics", m->train_metrics);
    if (m->train_results) pt_put_key_val(o, "train_results", m->train_results);
    if (w->state) pt_put_state(w);
    pkl_put(o, 'u');
    pkl_put(o, '.');
}

/* The bytes of a row as the file has them, in `bytes`. Halves are kept finite, as ultralytics keeps them. */
static void pt_pack_row(const pt_writer *w, const net_param *row, uint8_t *bytes) {
    ten_dtype dtype = pt_stored(w, row);
    int size = ten_dtype_size(dtype), inner = row->rank == 4 ? row->dims[1] : 1, plane = row->rank == 4 ? row->dims[2] * row->dims[3] : 1;
    const float *from = w->model->params + row->offset;
    int64_t outer = row->count / inner / plane;
    bool clamp = dtype == TEN_F16 && row->stored != TEN_F16;
    for (int64_t o = 0; o < outer; o++, from += (int64_t)inner * plane)
        for (int i = 0; i < inner; i++)
            for (int p = 0; p < plane; p++, bytes += size) {
                float value = from[(int64_t)p * inner + i];
                if (clamp) value = value == value ? YOLO_CLAMP(value, -65504.0f, 65504.0f) : 0;
                pt_put_element(bytes, value, dtype);
            }
}

static void pt_add_entry(zip_writer *zip, int key, const void *bytes, uint64_t size) {
    char name[40];
    snprintf(name, sizeof name, "archive/data/%d", key);
    zip_add(zip, name, bytes, size);
}

/* All entries of the archive; `row` has room for the largest row. */
static void pt_put_entries(const pt_writer *w, zip_writer *zip, uint8_t *row) {
    const net *net = &w->model->net;
    uint8_t strides[4 * NET_MAX_LEVELS];
    zip_add(zip, "archive/data.pkl", w->out.bytes.text, (uint64_t)w->out.bytes.length);
    zip_add(zip, "archive/byteorder", "little", 6);
    for (int i = 0; i < net->param_count && !zip->failed; i++) {
        pt_pack_row(w, &net->params[i], row);
        pt_add_entry(zip, i, row, (uint64_t)net->params[i].count * (uint64_t)ten_dtype_size(pt_stored(w, &net->params[i])));
    }
    for (int i = 0; i < net->level_count; i++) pt_put_element(strides + 4 * i, (float)net->strides[i], TEN_F32);
    for (int i = 0; i < 2; i++) pt_add_entry(zip, net->param_count + i, strides, 4 * (uint64_t)net->level_count);
    for (int i = 0; w->state && i < w->state->block_count && !zip->failed; i++)
        pt_add_entry(zip, net->param_count + 2 + i, w->state->blocks[i].data, 4 * (uint64_t)w->state->blocks[i].count);
    zip_add(zip, "archive/version", "3\n", 2);
}

static yolo_status pt_write_with(const char *path, const pt_model *m, const pt_state *state, bool half, yolo_error *error) {
    pt_writer *w = mem_array(1, sizeof *w);
    zip_writer zip;
    int64_t largest = 1;
    for (int i = 0; i < m->net.param_count; i++) largest = YOLO_MAX(largest, m->net.params[i].count);
    uint8_t *row = mem_array((uint64_t)largest, 8);
    yolo_status status = w && row ? YOLO_OK : err_memory(error, (uint64_t)largest * 8);
    if (status == YOLO_OK) {
        w->model = m;
        w->state = state;
        w->half = half;
        pt_put_checkpoint(w);
        if (w->out.bytes.failed) status = err_memory(error, (uint64_t)w->out.bytes.capacity);
    }
    if (status == YOLO_OK && (status = zip_begin(&zip, path, error)) == YOLO_OK) {
        pt_put_entries(w, &zip, row);
        status = zip_end(&zip, true, error);
    }
    if (w) str_free(&w->out.bytes);
    mem_free(w);
    mem_free(row);
    return status;
}

/* Writes what `yolo_model_open` and ultralytics.YOLO load: a finished model, as best.pt is. Every row is stored as it was
   read, with `half` as fp16. */
static yolo_status pt_write(const char *path, const pt_model *m, bool half, yolo_error *error) {
    return pt_write_with(path, m, NULL, half, error);
}

/* Writes a last.pt: m->params is the moving average, kept in fp32; m->epoch the last whole epoch; `state` what pt_read
   gives back bit for bit. Its numbers best_fitness (below 0 = none yet), best_epoch (from 1) and updates are told to
   ultralytics, too. */
static yolo_status pt_write_training(const char *path, const pt_model *m, const pt_state *state, yolo_error *error) {
    for (int i = 0; i < state->block_count; i++) YOLO_ASSERT(state->blocks[i].count >= 0 && state->blocks[i].count <= INT32_MAX);
    return pt_write_with(path, m, state, false, error);
}

/* What the rows are stored as: "float16, int64". */
static void pt_info_dtypes(const net *net, str *out) {
    bool seen[TEN_BOOL + 1] = {false}, any = false;
    for (int i = 0; i < net->param_count; i++) seen[net->params[i].stored] = true;
    for (int t = 0; t <= TEN_BOOL; t++)
        if (seen[t] && (t != TEN_I64 || !any)) { /* the counts of batches are integers always */
            str_format(out, "%s%s", any ? ", " : "", ten_dtype_name((ten_dtype)t));
            any = true;
        }
}

/* Text of a file on a terminal: no control characters. */
static void pt_info_text(str *out, const char *text) {
    for (const char *p = text; *p; p++) str_append(out, (unsigned char)*p < 32 || *p == 127 ? "?" : p, 1);
}

/* How far the training is, and what there is to go on with. */
static void pt_info_training(const pt_model *m, str *out) {
    const val *numbers = m->state ? m->state->numbers : NULL, *epochs = val_get(m->train_args, "epochs"), *best = val_get(numbers, "best_epoch");
    const char *optimizer = val_text(val_get(numbers, "optimizer"), val_text(val_get(m->train_args, "optimizer"), NULL));
    str_add(out, "\ntraining     ");
    if (m->epoch < 0) str_add(out, m->state ? "begun" : "finished");
    else str_format(out, "epoch %lld", (long long)m->epoch + 1);
    if (m->epoch >= 0 && val_is_number(epochs)) str_format(out, " of %lld", (long long)val_integer(epochs, 0));
    if (m->best_fitness) str_format(out, ", best fitness %.5f", val_number(m->best_fitness, 0));
    if (m->best_fitness && val_is_number(best)) str_format(out, " in epoch %lld", (long long)val_integer(best, 0));
    if (m->from_ema) str_add(out, ", moving average of the weights");
    if (m->has_optimizer) {
        str_add(out, ", with optimizer state");
        if (optimizer) str_add(out, " of ");
        if (optimizer) pt_info_text(out, optimizer);
    }
    str_add(out, m->state ? "; to go on with it: resume=true\n" : "\n");
}

/* The text of `yolo info`. */
static yolo_status pt_info(const pt_model *m, const char *path, str *out, yolo_error *error) {
    const net *net = &m->net;
    char count[32];
    int64_t parameters = 0;
    for (int i = 0; i < net->layer_count; i++) parameters += net_layer_elements(net, i, true);
    str_format(out, "file         %s\n", path);
    if (m->built) str_add(out, "origin       built from a description, not trained\n");
    else {
        str_add(out, "written by   ");
        bool own = !strncmp(m->version, "yolo ", 5);
        str_add(out, !m->version[0] ? "unknown" : own ? "" : "ultralytics ");
        pt_info_text(out, m->version);
        if (m->date[0]) str_add(out, ", ");
        pt_info_text(out, m->date);
        pt_info_training(m, out);
    }
    str_format(out, "parameters   %s, stored as ", net_thousands(count, parameters));
    pt_info_dtypes(net, out);
    str_format(out, "%s\nactivation   %s\n", net->fused ? "; batch norms fused into the convolutions" : "", net_activation_names[net->activation]);
    str_add(out, "scale        ");
    if (net->scale) str_format(out, "%c, ", net->scale);
    str_format(out, "depth %g, width %g; strides", net->depth, net->width);
    for (int i = 0; i < net->level_count; i++) str_format(out, " %d", net->strides[i]);
    str_format(out, "\nclasses      %d:", net->class_count);
    for (int i = 0; i < net->class_count; i++) {
        str_format(out, "%s %d ", i ? "," : "", i);
        pt_info_text(out, net->names[i]);
    }
    str_add(out, "\n\n");
    net_summary(net, out);
    if (m->train_args && m->train_args->count) {
        str_add(out, "\ntraining arguments\n");
        yaml_write(out, m->train_args);
    }
    return out->failed ? err_memory(error, (uint64_t)out->capacity) : YOLO_OK;
}

/* The scale letter in a description's file name, "my-yolov8s-long.yaml", or "". REF ultralytics/nn/tasks.py
   guess_model_scale. */
static void pt_scale_of_name(const char *path, char letter[2]) {
    letter[0] = letter[1] = 0;
    for (const char *p = path_name(path); (p = strstr(p, "yolo")); p++) {
        const char *q = p + 4;
        if (!strncmp(q, "e-", 2)) q += 2;
        if (*q == 'v') q++;
        const char *digits = q;
        while (*q >= '0' && *q <= '9') q++;
        if (q > digits && *q && strchr("nslmx", *q)) {
            letter[0] = *q;
            return;
        }
    }
}

/* Reads a description from its file or, where there is none, from those built in. */
static yolo_status pt_read_description(arena *memory, const char *path, val **yaml, yolo_error *error) {
    char letter[2];
    uint8_t *bytes;
    size_t size;
    if (os_path_kind(path) == OS_NOTHING) {
        *yaml = net_builtin_yaml(memory, path_name(path));
        return *yaml ? YOLO_OK : err_set(error, YOLO_ERROR_IO, "%s: no such file, and no such built-in model; built in are "
                                         "yolov8n.yaml, yolov8s, yolov8m, yolov8l, yolov8x, and each with -p2", path);
    }
    yolo_status status = path_read(path, 1 << 20, &bytes, &size, error);
    if (status == YOLO_OK) status = yaml_parse(memory, path, (const char *)bytes, size, yaml, error);
    mem_free(bytes);
    if (status != YOLO_OK) return status;
    pt_scale_of_name(path, letter);
    if ((*yaml)->kind != VAL_MAP) return err_set(error, YOLO_ERROR_FORMAT, "%s: expected a model description", path);
    if ((*letter && !net_set_val(memory, *yaml, "scale", val_string(memory, letter, 1))) ||
        !net_set_val(memory, *yaml, "yaml_file", val_string(memory, path, strlen(path)))) return err_memory(error, size);
    return YOLO_OK;
}

/* A new model of a description, with initial weights. */
static yolo_status pt_new(pt_model *model, const char *path, const yolo_open_options *options, yolo_error *error) {
    arena memory = {.cap = 64 << 20};
    val *yaml = NULL;
    net_activation activation = NET_SILU;
    double slope;
    yolo_error reason = {0};
    if (options->activation && !net_parse_activation(options->activation, &activation, &slope))
        return err_set(error, YOLO_ERROR_USAGE, "activation '%.40s': expected silu, relu, leakyrelu or mish", options->activation);
    if (options->classes < 0 || options->classes > NET_MAX_CHANNELS)
        return err_set(error, YOLO_ERROR_USAGE, "%d classes: expected 1 to %d", options->classes, NET_MAX_CHANNELS);
    yolo_status status = pt_read_description(&memory, path, &yaml, error);
    if (status == YOLO_OK) {
        status = net_build(&model->net, yaml, NULL, options->classes, NULL, options->activation ? (int)activation : -1, false, &reason);
        if (status != YOLO_OK) err_set(error, status, "%s: %s", path, reason.message);
    }
    arena_free(&memory);
    if (status != YOLO_OK) return status;
    model->params = mem_array((uint64_t)model->net.param_elements, sizeof *model->params);
    if (!model->params) return err_memory(error, (uint64_t)model->net.param_elements * sizeof *model->params);
    net_init_params(&model->net, model->params, options->seed);
    model->built = true;
    model->epoch = -1;
    return YOLO_OK;
}

/* Does the path name a model description, not a checkpoint? */
static bool pt_is_description(const char *path) {
    const char *extension = path_extension(path);
    return str_equal_fold(extension, ".yaml") || str_equal_fold(extension, ".yml") || !*extension;
}

/* Opens a checkpoint, or builds a new model of a description (a file, or a bare name that is built in). */
static yolo_status pt_load(const char *path, const yolo_open_options *options, pt_model *model, yolo_error *error) {
    memset(model, 0, sizeof *model);
    return pt_is_description(path) ? pt_new(model, path, options, error) : pt_read_file(path, false, model, error);
}

/* The width of the class branch of `from` that a model like `to` takes over, or 0: ultralytics rebuilds it where every level
   of the head has the same inputs, since its own width follows from the number of classes. */
static int pt_class_width(const net *to, const net *from) {
    char name[80];
    int width = 0;
    if (to->fused || from->fused || to->level_count != from->level_count) return 0;
    for (int level = 0; level < to->level_count; level++) {
        int rows[2];
        for (int i = 0; i < 2; i++) {
            const net *net = i ? from : to;
            snprintf(name, sizeof name, "model.%d.cv2.%d.0.conv.weight", net->layer_count - 1, level);
            rows[i] = net_param_find(net, name);
            if (rows[i] < 0) return 0;
        }
        if (to->params[rows[0]].dims[1] != from->params[rows[1]].dims[1]) return 0;
    }
    snprintf(name, sizeof name, "model.%d.cv3.0.0.conv.weight", from->layer_count - 1);
    int row = net_param_find(from, name);
    if (row >= 0) width = from->params[row].dims[0];
    return width;
}

/* A new model for a data set's classes: the graph that `like` was built from, with initial weights for `weights` (NULL =
   none) to be transferred into. The head's class branch is as wide as that of `weights` where both have the same inputs.
   `activation` -1 = as described. REF ultralytics/nn/tasks.py load. */
static yolo_status pt_create(pt_model *to, const pt_model *like, int class_count, char *const *names, int activation, uint64_t seed,
                             const pt_model *weights, yolo_error *error) {
    memset(to, 0, sizeof *to);
    yolo_status status = net_build(&to->net, like->net.yaml, NULL, class_count, names, activation, false, error);
    int width = status == YOLO_OK && weights ? pt_class_width(&to->net, &weights->net) : 0;
    if (width) {
        net_free(&to->net);
        status = net_build_with(&to->net, like->net.yaml, NULL, class_count, names, activation, false, width, error);
    }
    if (status != YOLO_OK) return status;
    to->params = mem_array((uint64_t)to->net.param_elements, sizeof *to->params);
    to->epoch = -1;
    to->built = true;
    if (to->params) net_init_params(&to->net, to->params, seed);
    else {
        status = err_memory(error, (uint64_t)to->net.param_elements * sizeof *to->params);
        pt_free(to);
    }
    return status;
}

/* Is the row part of the convolution that makes the class logits? */
static bool pt_is_class_row(const net_param *row) {
    return strstr(row->name, ".cv3.") && (str_ends_with(row->name, ".2.weight") || str_ends_with(row->name, ".2.bias"));
}

/* Are two class names the same to ultralytics: but for case and space around? */
static bool pt_same_name(const char *a, const char *b) {
    size_t length_a = strlen(a), length_b = strlen(b);
    while (isspace((unsigned char)*a)) a++, length_a--;
    while (isspace((unsigned char)*b)) b++, length_b--;
    while (length_a && isspace((unsigned char)a[length_a - 1])) length_a--;
    while (length_b && isspace((unsigned char)b[length_b - 1])) length_b--;
    if (length_a != length_b) return false;
    for (size_t i = 0; i < length_a; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i])) return false;
    return true;
}

/* Are the names those of a description without names: "0", "1", ...? */
static bool pt_has_placeholders(const net *net) {
    char number[16];
    for (int i = 0; i < net->class_count; i++) {
        snprintf(number, sizeof number, "%d", i);
        if (strcmp(net->names[i], number)) return false;
    }
    return true;
}

/* map[i]: the class of `from` with the name of class i of `to`, else -1. False: nothing is to be mapped, since no name
   is found again or all are in their places. REF ultralytics/nn/tasks.py _remap_cls_by_names. */
static bool pt_map_classes(const net *to, const net *from, int *map, int *found) {
    bool moved = to->class_count != from->class_count;
    *found = 0;
    if (pt_has_placeholders(to) || pt_has_placeholders(from)) return false;
    for (int i = 0; i < to->class_count; i++) {
        map[i] = from->class_count - 1; /* of equal names the last one counts */
        while (map[i] >= 0 && !pt_same_name(to->names[i], from->names[map[i]])) map[i]--;
        *found += map[i] >= 0;
        moved |= map[i] != i;
    }
    return *found && moved;
}

/* Copies what row `a` of `to` gets from row `b` of `from`; false when their shapes do not allow it. `map` NULL: classes
   stay where they are. */
static bool pt_transfer_row(pt_model *to, const net_param *a, const pt_model *from, const net_param *b, const int *map) {
    float *out = to->params + a->offset;
    const float *in = from->params + b->offset;
    bool same_rank = a->rank == b->rank, same_tail = same_rank, first = !strcmp(a->name, "model.0.conv.weight");
    for (int d = 1; d < a->rank; d++) same_tail &= a->dims[d] == b->dims[d];
    if (map && same_tail && pt_is_class_row(a)) {
        size_t size = (size_t)(a->count / a->dims[0]);
        for (int c = 0; c < a->dims[0]; c++)
            if (map[c] >= 0) memcpy(out + (size_t)c * size, in + (size_t)map[c] * size, size * sizeof *out);
        return true;
    }
    if (same_tail && a->dims[0] == b->dims[0]) {
        memcpy(out, in, (size_t)a->count * sizeof *out);
        return true;
    }
    if (!first || !same_rank || a->dims[2] != b->dims[2] || a->dims[3] != b->dims[3]) return false;
    int plane = a->dims[2] * a->dims[3], channels = YOLO_MIN(a->dims[1], b->dims[1]); /* the filters that both have */
    for (int64_t i = 0; i < (int64_t)YOLO_MIN(a->dims[0], b->dims[0]) * plane; i++)
        memcpy(out + i * a->dims[1], in + i * b->dims[1], (size_t)channels * sizeof *out);
    return true;
}

/* Fills what the checkpoint `from` has for the model `to`: rows of the same name and shape; in the head also the rows of
   classes of the same name. The rest stays as it is. *rows_taken (NULL allowed) counts rows of the table. */
static yolo_status pt_transfer(pt_model *to, const pt_model *from, const yolo_log *log, int64_t *rows_taken, yolo_error *error) {
    int found = 0, mapped = 0;
    int64_t taken = 0;
    int *map = mem_array((uint64_t)to->net.class_count, sizeof *map);
    if (!map) return err_memory(error, (uint64_t)to->net.class_count * sizeof *map);
    bool maps = pt_map_classes(&to->net, &from->net, map, &found);
    for (int i = 0; i < to->net.param_count; i++) {
        const net_param *row = &to->net.params[i];
        int other = net_param_find(&from->net, row->name);
        bool done = other >= 0 && pt_transfer_row(to, row, from, &from->net.params[other], maps ? map : NULL);
        taken += done;
        mapped += done && maps && pt_is_class_row(row);
    }
    mem_free(map);
    if (mapped) log_write(log, YOLO_LOG_INFO, "Remapped %d/%d cls head rows from pretrained weights by class name", found, to->net.class_count);
    log_write(log, YOLO_LOG_INFO, "Transferred %lld/%d items from pretrained weights", (long long)taken, to->net.param_count);
    if (from->net.fused && !to->net.fused)
        log_write(log, YOLO_LOG_WARNING, "the pretrained weights are fused for inference: without batch norms they are a poor start; "
                  "train from the checkpoint that they were exported from");
    if (rows_taken) *rows_taken = taken;
    return YOLO_OK;
}

/* ==== 14 op_: CPU operators =====================================================================================
   Operators in fp32 on NHWC views; none allocates. A convolution is, on the inside, always the same loop: a tile
   of rows (output pixels) times a panel of output channels, summed over input channels in their order (OP_(tile)).
     1x1, stride 1        the rows are the pixels where they lie.
     anything else        a band of padded input rows is copied next to each other, so that the S*C inputs of a tap
                          row are one run of memory and padding needs no test.
     3x3, stride 1        Winograd F(4x4,3x3): 36 products of (tiles x C)(C x K), a quarter of the multiplications.
   Weights are packed once: panel by panel (two vectors of output channels wide, the last one possibly one vector),
   in the order in which the inner loop reads them; channels that do not exist are zeros.
   Bias, activation and residual are applied while the sums are still in the first-level cache, and the result is
   written straight into the slice: never a float outside of it.
   Gradients: that of a convolution's input is a convolution again (op_dgrad), that of its weights is a sum of outer
   products over pixels (OP_(outer)). Gradients of inputs are = or, where asked, +=; those of weights are always +=.
   The order of additions to an output depends on neither threads nor blocking, so results are bit-identical for
   every thread count; they differ between instruction sets.
   The kernels are written once over a few vector macros and compiled for each instruction set by including this
   file again with OP_PASS defined, which selects just them. No vector is ever passed to or kept by a function that
   is not inlined: mingw-w64 does not align the stack for them. */

typedef enum op_isa { OP_PORTABLE, OP_AVX2, OP_AVX512 } op_isa;

enum { OP_MAX_TILE = 14, OP_FREQUENCIES = 36, OP_WINOGRAD_OUT = 4, OP_WINOGRAD_IN = 6 };

typedef void op_tile_kernel(float *out, ptrdiff_t out_stride, const float *a, ptrdiff_t a_stride, ptrdiff_t a_pitch,
                            const float *w, int taps, int depth);

typedef struct op_rows { /* where finished rows go */
    float *out;
    const float *residual; /* or NULL */
    ptrdiff_t out_stride, residual_stride;
    int rows, channels;
    float slope; /* of NET_LEAKYRELU */
} op_rows;

typedef struct op_pairs { /* two views of the same rows x columns pixels */
    const float *a, *b;
    ptrdiff_t a_pixel, a_row, b_pixel, b_row;
    int rows, columns;
} op_pairs;

typedef void op_outer_kernel(float *out, ptrdiff_t out_stride, const op_pairs *pairs);

typedef struct op_norm { /* a batch norm and its activation; arrays of op_align(channels) floats */
    int channels;
    net_activation activation;
    float slope;             /* of NET_LEAKYRELU */
    float *mean, *inverse;   /* 1 / sqrt(variance + eps) */
    float *scale, *shift;    /* out = activation(scale * (z - mean) + shift) */
    float *d_shift, *d_mean; /* d_z = scale * g - d_mean * (z - mean) - d_shift, g = d_out * activation' */
} op_norm;

typedef struct op_norm_rows { /* pixels that go through one; steps are floats from pixel to pixel */
    int pixels;
    const float *z;
    float *out;              /* forward: result. backward: d_out, turned into d_z */
    float *residual;         /* or NULL. forward: added. backward: gets d_out */
    ptrdiff_t z_step, out_step, residual_step;
    bool accumulate;         /* backward: residual += */
    float *sums, *products;  /* of the backward's first pass: whole vectors */
} op_norm_rows;

typedef struct op_window { /* of a pooling: the part inside the image */
    const float *in;
    float *d_in;
    ptrdiff_t step, pitch, d_step, d_pitch; /* floats from pixel to pixel and from row to row */
    int rows, columns, channels;
} op_window;

typedef struct op_kernels {
    int vector;   /* floats */
    int tile_rows;
    op_tile_kernel *tile[2][OP_MAX_TILE]; /* [vectors - 1][rows - 1] */
    op_outer_kernel *outer[2][OP_MAX_TILE];
    void (*finish)(const op_rows *to, const float *sums, ptrdiff_t sums_stride, const float *bias, net_activation activation);
    void (*winograd_in)(float *v, ptrdiff_t frequency, const float *in, ptrdiff_t pixel, ptrdiff_t pitch, int channels, float *scratch);
    void (*winograd_out)(float *out, ptrdiff_t pixel, const float *m, ptrdiff_t frequency);
    void (*winograd_filter)(float *u, ptrdiff_t frequency, const float *g, ptrdiff_t tap);
    void (*winograd_d_out)(float *v, ptrdiff_t frequency, const float *in, ptrdiff_t pixel, ptrdiff_t pitch, int channels, float *scratch);
    void (*winograd_d_filter)(float *g, ptrdiff_t tap, const float *u, ptrdiff_t frequency, int channels);
    void (*largest)(float *out, const float *in, ptrdiff_t step, int count, int channels);
    void (*moments)(float *mean, float *squares, const float *z, ptrdiff_t step, int pixels, int channels);
    void (*norm_fwd)(const op_norm *norm, const op_norm_rows *rows);
    void (*norm_sums)(const op_norm *norm, const op_norm_rows *rows);
    void (*norm_bwd)(const op_norm *norm, const op_norm_rows *rows);
    void (*sum)(float *out, const float *const *in, int count, int channels, bool accumulate);
    void (*largest_bwd)(const op_window *window, const float *largest, const float *d_out);
} op_kernels;

#if defined(__GNUC__)
#define OP_INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define OP_INLINE static __forceinline
#else
#define OP_INLINE static inline
#endif

#else /* OP_PASS */

/* ---- kernels: compiled once per instruction set, with OP_PASS naming it ---- */

#define OP_JOIN(name, suffix) op_##name##_##suffix
#if OP_PASS == 2 /* 32 registers of 16 floats */
#define OP_(name) OP_JOIN(name, avx512)
#define V __m512
#define OP_VECTOR 16
#define OP_TILE 14
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, a) _mm512_storeu_ps(p, a)
#define v_set1(x) _mm512_set1_ps(x)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_min(a, b) _mm512_min_ps(a, b)
#define v_times_power_of_2(a, bits) \
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(bits), 23)))
#define v_reciprocal_estimate(a) _mm512_rcp14_ps(a)
#define v_keep_nan(a, b) _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a)
#define v_if_greater(a, b, x, y) _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), x)
#define v_if_equal(a, b, x, y) _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), x)
#elif OP_PASS == 1 /* 16 registers of 8 floats */
#define OP_(name) OP_JOIN(name, avx2)
#define V __m256
#define OP_VECTOR 8
#define OP_TILE 6
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, a) _mm256_storeu_ps(p, a)
#define v_set1(x) _mm256_set1_ps(x)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_min(a, b) _mm256_min_ps(a, b)
#define v_times_power_of_2(a, bits) \
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(bits), 23)))
#define v_reciprocal_estimate(a) _mm256_rcp_ps(a)
#define v_keep_nan(a, b) _mm256_blendv_ps(b, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q))
#define v_if_greater(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ))
#define v_if_equal(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_EQ_OQ))
#else
#define OP_(name) OP_JOIN(name, portable)
#define OP_TILE 6
#ifdef __GNUC__ /* becomes SSE2, NEON, ... */
typedef float op_v4 __attribute__((vector_size(16), may_alias));
typedef float op_v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t op_u4 __attribute__((vector_size(16), may_alias));
#define V op_v4
#define OP_VECTOR 4
#define v_load(p) ((op_v4)*(const op_v4_unaligned *)(p))
#define v_store(p, a) (*(op_v4_unaligned *)(p) = (a))
#define v_set1(x) op_v4_set1(x)
#define v_times_power_of_2(a, bits) ((op_v4)((op_u4)(a) + ((op_u4)(bits) << 23)))
#define v_max(a, b) op_v4_select((op_u4)((a) > (b)), a, b)
#define v_min(a, b) op_v4_select((op_u4)((a) < (b)), a, b)
#define v_keep_nan(a, b) op_v4_select((op_u4)((a) != (a)), a, b)
#define v_if_greater(a, b, x, y) op_v4_select((op_u4)((a) > (b)), x, y)
#define v_if_equal(a, b, x, y) op_v4_select((op_u4)((a) == (b)), x, y)
OP_INLINE op_v4 op_v4_set1(float x) { return (op_v4){x, x, x, x}; }
OP_INLINE op_v4 op_v4_select(op_u4 mask, op_v4 a, op_v4 b) { return (op_v4)(((op_u4)a & mask) | ((op_u4)b & ~mask)); }
#else
#define V float
#define OP_VECTOR 1
#define v_load(p) (*(p))
#define v_store(p, a) (*(p) = (a))
#define v_set1(x) (x)
#define v_times_power_of_2(a, bits) op_float_shift(a, bits)
#define v_max(a, b) ((a) > (b) ? (a) : (b))
#define v_min(a, b) ((a) < (b) ? (a) : (b))
#define v_keep_nan(a, b) ((a) != (a) ? (a) : (b))
#define v_if_greater(a, b, x, y) ((a) > (b) ? (x) : (y))
#define v_if_equal(a, b, x, y) ((a) == (b) ? (x) : (y))
OP_INLINE float op_float_shift(float a, float bits) {
    uint32_t x, y;
    memcpy(&x, &a, 4);
    memcpy(&y, &bits, 4);
    x += y << 23;
    memcpy(&a, &x, 4);
    return a;
}
#endif
#define v_add(a, b) ((a) + (b))
#define v_sub(a, b) ((a) - (b))
#define v_mul(a, b) ((a) * (b))
#define v_fma(a, b, c) ((a) * (b) + (c))
#endif

/* X(row, pointer, step) for each row of the largest tile: a row's inputs are at pointer[step * a_stride], so that five
   pointers serve fourteen rows. */
#define OP_ROWS_6(X) X(0, a0, 0) X(1, a0, 1) X(2, a0, 2) X(3, a1, 0) X(4, a1, 1) X(5, a1, 2)
#if OP_TILE == 14
#define OP_ROWS(X) OP_ROWS_6(X) \
    X(6, a2, 0) X(7, a2, 1) X(8, a2, 2) X(9, a3, 0) X(10, a3, 1) X(11, a3, 2) X(12, a4, 0) X(13, a4, 1)
#else
#define OP_ROWS(X) OP_ROWS_6(X)
#endif

/* The one inner loop of all convolutions: out(m, nv vectors) = sum over rows r < taps and l < depth of
   a[m*a_stride + r*a_pitch + l] * w[(r*depth + l)*nv vectors]. m and nv are constants where this is inlined. */
OP_INLINE void OP_(tile)(const int m, const int nv, float *out, ptrdiff_t out_stride, const float *a, ptrdiff_t a_stride,
                         ptrdiff_t a_pitch, const float *w, int taps, int depth) {
#define OP_ZERO(i, p, s) V x##i = v_set1(0.0f), y##i = v_set1(0.0f);
    OP_ROWS(OP_ZERO)
    for (int r = 0; r < taps; r++, a += a_pitch) {
        const float *a0 = a, *a1 = a0 + 3 * a_stride;
#if OP_TILE == 14
        const float *a2 = a1 + 3 * a_stride, *a3 = a2 + 3 * a_stride, *a4 = a3 + 3 * a_stride;
#endif
        for (int l = 0; l < depth; l++) {
            V w0 = v_load(w), w1 = nv > 1 ? v_load(w + OP_VECTOR) : w0;
#define OP_STEP(i, p, s)                           \
    if (i < m) {                                   \
        V b = v_set1(p[s * a_stride]);             \
        x##i = v_fma(b, w0, x##i);                 \
        if (nv > 1) y##i = v_fma(b, w1, y##i);     \
    }
            OP_ROWS(OP_STEP)
            w += nv * OP_VECTOR;
            a0++, a1++;
#if OP_TILE == 14
            a2++, a3++, a4++;
#endif
        }
    }
#define OP_OUT(i, p, s)                                                      \
    if (i < m) {                                                             \
        v_store(out + i * out_stride, x##i);                                 \
        if (nv > 1) v_store(out + i * out_stride + OP_VECTOR, y##i);         \
    }
    OP_ROWS(OP_OUT)
}

#define OP_TILES(i, p, s)                                                                                             \
    static void OP_(tile_##i##_1)(float *out, ptrdiff_t out_stride, const float *a, ptrdiff_t a_stride,               \
                                  ptrdiff_t a_pitch, const float *w, int taps, int depth) {                           \
        OP_(tile)(i + 1, 1, out, out_stride, a, a_stride, a_pitch, w, taps, depth);                                   \
    }                                                                                                                 \
    static void OP_(tile_##i##_2)(float *out, ptrdiff_t out_stride, const float *a, ptrdiff_t a_stride,               \
                                  ptrdiff_t a_pitch, const float *w, int taps, int depth) {                           \
        OP_(tile)(i + 1, 2, out, out_stride, a, a_stride, a_pitch, w, taps, depth);                                   \
    }
OP_ROWS(OP_TILES)

/* The inner loop of all weight gradients: out(m, nv vectors) += sum over pixels of a[i] * b[vector]. */
OP_INLINE void OP_(outer)(const int m, const int nv, float *out, ptrdiff_t out_stride, const op_pairs *pairs) {
    OP_ROWS(OP_ZERO)
    for (int row = 0; row < pairs->rows; row++) {
        const float *a = pairs->a + row * pairs->a_row, *b = pairs->b + row * pairs->b_row;
        for (int column = 0; column < pairs->columns; column++, a += pairs->a_pixel, b += pairs->b_pixel) {
            const V b0 = v_load(b), b1 = nv > 1 ? v_load(b + OP_VECTOR) : b0;
#define OP_OUTER_STEP(i, p, s)                     \
    if (i < m) {                                   \
        const V c = v_set1(a[i]);                  \
        x##i = v_fma(c, b0, x##i);                 \
        if (nv > 1) y##i = v_fma(c, b1, y##i);     \
    }
            OP_ROWS(OP_OUTER_STEP)
        }
    }
#define OP_OUTER_OUT(i, p, s)                                                                                    \
    if (i < m) {                                                                                                 \
        float *to = out + i * out_stride;                                                                        \
        v_store(to, v_add(v_load(to), x##i));                                                                    \
        if (nv > 1) v_store(to + OP_VECTOR, v_add(v_load(to + OP_VECTOR), y##i));                                \
    }
    OP_ROWS(OP_OUTER_OUT)
}

#define OP_OUTERS(i, p, s)                                                                                       \
    static void OP_(outer_##i##_1)(float *out, ptrdiff_t out_stride, const op_pairs *pairs) {                    \
        OP_(outer)(i + 1, 1, out, out_stride, pairs);                                                            \
    }                                                                                                            \
    static void OP_(outer_##i##_2)(float *out, ptrdiff_t out_stride, const op_pairs *pairs) {                    \
        OP_(outer)(i + 1, 2, out, out_stride, pairs);                                                            \
    }
OP_ROWS(OP_OUTERS)

/* e^x for |x| <= 86, relative error below 3e-7: 2^n by the exponent field, 2^f by a polynomial on [-1/2, 1/2]. NaN stays. */
OP_INLINE V OP_(exp)(V x) {
    const V log2e = v_set1(1.44269504f), magic = v_set1(12582912.0f); /* 1.5 * 2^23: the sum's low bits are the integer n */
    V shifted = v_fma(x, log2e, magic);
    V f = v_fma(x, log2e, v_sub(magic, shifted));
    V p = v_fma(v_set1(0.00132764722f), f, v_set1(0.00967554162f));
    p = v_fma(p, f, v_set1(0.0555071328f));
    p = v_fma(p, f, v_set1(0.240221197f));
    p = v_fma(p, f, v_set1(0.693146967f));
    p = v_fma(p, f, v_set1(1.0f));
    return v_times_power_of_2(p, shifted);
}

OP_INLINE V OP_(reciprocal)(V a) { /* of a normal number whose reciprocal is normal */
#ifdef v_reciprocal_estimate
    V r = v_reciprocal_estimate(a);
    return v_fma(r, v_sub(v_set1(1.0f), v_mul(a, r)), r);
#else
    return v_set1(1.0f) / a;
#endif
}

/* v_max and v_min give their second argument when one is NaN, so NaN comes through. Below -80, SiLU and Mish are 0 in
   all the digits that matter and their true value is near the denormals; above 80, and for Mish above 20, they are x. */
OP_INLINE V OP_(activate)(V x, const net_activation activation, const V slope) {
    const V low = v_max(v_set1(-80.0f), x);
    if (activation == NET_SILU) {
        V e = OP_(exp)(v_sub(v_set1(0.0f), v_min(v_set1(80.0f), low)));
        return v_mul(low, OP_(reciprocal)(v_add(v_set1(1.0f), e)));
    }
    if (activation == NET_RELU) return v_max(v_set1(0.0f), x);
    if (activation == NET_LEAKYRELU) return v_max(v_mul(slope, x), x);
    if (activation == NET_MISH) { /* x tanh(log(1 + e)) = x n / (n + 2), n = e (e + 2) */
        V e = OP_(exp)(v_min(v_set1(20.0f), low));
        V n = v_mul(e, v_add(e, v_set1(2.0f)));
        return v_mul(low, v_mul(n, OP_(reciprocal)(v_add(n, v_set1(2.0f)))));
    }
    return x;
}

OP_INLINE V OP_(load_some)(const float *p, int count) {
    float whole[OP_VECTOR] = {0};
    memcpy(whole, p, (size_t)count * sizeof *p);
    return v_load(whole);
}

OP_INLINE void OP_(store_some)(float *p, V a, int count) {
    float whole[OP_VECTOR];
    v_store(whole, a);
    memcpy(p, whole, (size_t)count * sizeof *p);
}

OP_INLINE void OP_(finish_as)(const op_rows *to, const float *sums, ptrdiff_t sums_stride, const float *bias,
                              const net_activation activation) {
    const V slope = v_set1(to->slope);
    for (int c = 0; c < to->channels; c += OP_VECTOR) {
        const V b = v_load(bias + c);
        const int count = YOLO_MIN(to->channels - c, OP_VECTOR);
        float *out = to->out + c;
        const float *residual = to->residual ? to->residual + c : NULL;
        for (int i = 0; i < to->rows; i++, out += to->out_stride) {
            V x = OP_(activate)(v_add(v_load(sums + i * sums_stride + c), b), activation, slope);
            if (residual) {
                x = v_add(x, count == OP_VECTOR ? v_load(residual) : OP_(load_some)(residual, count));
                residual += to->residual_stride;
            }
            if (count == OP_VECTOR) v_store(out, x);
            else OP_(store_some)(out, x, count);
        }
    }
}

/* out = residual + activation(sums + bias), a row a pixel; writes `channels` floats of each row and no more. */
static void OP_(finish)(const op_rows *to, const float *sums, ptrdiff_t sums_stride, const float *bias, net_activation activation) {
    switch (activation) {
    case NET_SILU: OP_(finish_as)(to, sums, sums_stride, bias, NET_SILU); break;
    case NET_RELU: OP_(finish_as)(to, sums, sums_stride, bias, NET_RELU); break;
    case NET_LEAKYRELU: OP_(finish_as)(to, sums, sums_stride, bias, NET_LEAKYRELU); break;
    case NET_MISH: OP_(finish_as)(to, sums, sums_stride, bias, NET_MISH); break;
    default: OP_(finish_as)(to, sums, sums_stride, bias, NET_LINEAR);
    }
}

/* B^T d along one axis of a Winograd patch: six vectors `step` floats apart at `in`, to six `out_step` apart. */
OP_INLINE void OP_(winograd_in_1d)(float *out, ptrdiff_t out_step, const float *in, ptrdiff_t step) {
    V d0 = v_load(in), d1 = v_load(in + step), d2 = v_load(in + 2 * step);
    V d3 = v_load(in + 3 * step), d4 = v_load(in + 4 * step), d5 = v_load(in + 5 * step);
    V even = v_fma(v_set1(-4.0f), d2, d4), odd = v_fma(v_set1(-4.0f), d1, d3);
    V d42 = v_sub(d4, d2), d31 = v_sub(d3, d1);
    v_store(out, v_fma(v_set1(4.0f), d0, v_fma(v_set1(-5.0f), d2, d4)));
    v_store(out + out_step, v_add(even, odd));
    v_store(out + 2 * out_step, v_sub(even, odd));
    v_store(out + 3 * out_step, v_fma(v_set1(2.0f), d31, d42));
    v_store(out + 4 * out_step, v_fma(v_set1(-2.0f), d31, d42));
    v_store(out + 5 * out_step, v_fma(v_set1(4.0f), d1, v_fma(v_set1(-5.0f), d3, d5)));
}

/* B^T d B of a 6x6 patch, all channels (at least a vector of them): frequency f goes to v[f * frequency]. A last
   part of a vector is done as the last whole one, overlapping. scratch: 36 aligned vectors. */
static void OP_(winograd_in)(float *v, ptrdiff_t frequency, const float *in, ptrdiff_t pixel, ptrdiff_t pitch, int channels,
                             float *scratch) {
    for (int c = 0; c < channels; c += OP_VECTOR) {
        c = YOLO_MIN(c, channels - OP_VECTOR);
        for (int x = 0; x < 6; x++)
            OP_(winograd_in_1d)(scratch + x * OP_VECTOR, 6 * OP_VECTOR, in + c + x * pixel, pitch);
        for (int y = 0; y < 6; y++)
            OP_(winograd_in_1d)(v + c + y * 6 * frequency, frequency, scratch + y * 6 * OP_VECTOR, OP_VECTOR);
    }
}

/* A^T m along one axis: six vectors in, four out. */
#define OP_WINOGRAD_OUT(y0, y1, y2, y3, m0, m1, m2, m3, m4, m5)                                               \
    do {                                                                                                      \
        const V first = m0, last = m5, plus = v_add(m1, m2), minus = v_sub(m1, m2);                           \
        const V plus2 = v_add(m3, m4), minus2 = v_sub(m3, m4);                                                \
        y0 = v_add(first, v_add(plus, plus2));                                                                \
        y1 = v_fma(v_set1(2.0f), minus2, minus);                                                              \
        y2 = v_fma(v_set1(4.0f), plus2, plus);                                                                \
        y3 = v_fma(v_set1(8.0f), minus2, v_add(minus, last));                                                 \
    } while (0)

/* A^T m A of one vector of one tile: 36 frequencies at m[f * frequency] to 4x4 pixels at out[i * pixel]. All in
   registers where there are 32 of them; a loop here would have the compiler keep 52 addresses across it. */
static void OP_(winograd_out)(float *out, ptrdiff_t pixel, const float *m, ptrdiff_t frequency) {
    const ptrdiff_t row = 6 * frequency;
    const float *below = m + 3 * row;
#define OP_COLUMN(x)                                                                                            \
    V t0##x, t1##x, t2##x, t3##x;                                                                               \
    OP_WINOGRAD_OUT(t0##x, t1##x, t2##x, t3##x, v_load(m), v_load(m + row), v_load(m + 2 * row), v_load(below), \
                    v_load(below + row), v_load(below + 2 * row));                                              \
    m += frequency;                                                                                             \
    below += frequency;
#define OP_ROW(y)                                                                                               \
    {                                                                                                           \
        V y0, y1, y2, y3;                                                                                       \
        OP_WINOGRAD_OUT(y0, y1, y2, y3, t##y##0, t##y##1, t##y##2, t##y##3, t##y##4, t##y##5);                  \
        v_store(out, y0);                                                                                       \
        v_store(out + pixel, y1);                                                                               \
        v_store(out + 2 * pixel, y2);                                                                           \
        v_store(out + 3 * pixel, y3);                                                                           \
        out += 4 * pixel;                                                                                       \
    }
    OP_COLUMN(0) OP_COLUMN(1) OP_COLUMN(2) OP_COLUMN(3) OP_COLUMN(4) OP_COLUMN(5)
    OP_ROW(0) OP_ROW(1) OP_ROW(2) OP_ROW(3)
}

/* G g along one axis: three vectors `step` floats apart, to six `out_step` apart. */
OP_INLINE void OP_(winograd_filter_1d)(float *out, ptrdiff_t out_step, const float *g, ptrdiff_t step) {
    const V g0 = v_load(g), g1 = v_load(g + step), g2 = v_load(g + 2 * step);
    const V sixth = v_set1(-1.0f / 6), twelfth = v_set1(1.0f / 12);
    const V even = v_mul(sixth, v_add(g0, g2)), odd = v_mul(sixth, g1);
    const V even2 = v_fma(v_set1(1.0f / 24), g0, v_mul(v_set1(1.0f / 6), g2)), odd2 = v_mul(twelfth, g1);
    v_store(out, v_mul(v_set1(0.25f), g0));
    v_store(out + out_step, v_add(even, odd));
    v_store(out + 2 * out_step, v_sub(even, odd));
    v_store(out + 3 * out_step, v_add(even2, odd2));
    v_store(out + 4 * out_step, v_sub(even2, odd2));
    v_store(out + 5 * out_step, g2);
}

/* G g G^T: a vector of 3x3 filters, to 36 frequencies. */
static void OP_(winograd_filter)(float *u, ptrdiff_t frequency, const float *g, ptrdiff_t tap) {
    float half[18 * OP_VECTOR];
    for (int s = 0; s < 3; s++) OP_(winograd_filter_1d)(half + s * OP_VECTOR, 3 * OP_VECTOR, g + s * tap, 3 * tap);
    for (int i = 0; i < 6; i++) OP_(winograd_filter_1d)(u + i * 6 * frequency, frequency, half + i * 3 * OP_VECTOR, OP_VECTOR);
}

/* A d along one axis: four vectors `step` floats apart, to six `out_step` apart. */
OP_INLINE void OP_(winograd_d_out_1d)(float *out, ptrdiff_t out_step, const float *in, ptrdiff_t step) {
    const V d0 = v_load(in), d1 = v_load(in + step), d2 = v_load(in + 2 * step), d3 = v_load(in + 3 * step);
    const V even = v_add(d0, d2), odd = v_add(d1, d3);
    const V even2 = v_fma(v_set1(4.0f), d2, d0), odd2 = v_mul(v_set1(2.0f), v_fma(v_set1(4.0f), d3, d1));
    v_store(out, d0);
    v_store(out + out_step, v_add(even, odd));
    v_store(out + 2 * out_step, v_sub(even, odd));
    v_store(out + 3 * out_step, v_add(even2, odd2));
    v_store(out + 4 * out_step, v_sub(even2, odd2));
    v_store(out + 5 * out_step, d3);
}

/* A d A^T of a 4x4 patch, as winograd_in: the transpose of winograd_out. */
static void OP_(winograd_d_out)(float *v, ptrdiff_t frequency, const float *in, ptrdiff_t pixel, ptrdiff_t pitch, int channels,
                                float *scratch) {
    for (int c = 0; c < channels; c += OP_VECTOR) {
        c = YOLO_MIN(c, channels - OP_VECTOR);
        for (int x = 0; x < 4; x++)
            OP_(winograd_d_out_1d)(scratch + x * OP_VECTOR, 4 * OP_VECTOR, in + c + x * pixel, pitch);
        for (int y = 0; y < 6; y++)
            OP_(winograd_d_out_1d)(v + c + y * 6 * frequency, frequency, scratch + y * 4 * OP_VECTOR, OP_VECTOR);
    }
}

/* G^T u along one axis: six vectors `step` floats apart, to three `out_step` apart. */
OP_INLINE void OP_(winograd_d_filter_1d)(float *out, ptrdiff_t out_step, const float *u, ptrdiff_t step) {
    const V u1 = v_load(u + step), u2 = v_load(u + 2 * step), u3 = v_load(u + 3 * step), u4 = v_load(u + 4 * step);
    const V sixth = v_set1(-1.0f / 6), plus = v_mul(sixth, v_add(u1, u2)), plus2 = v_add(u3, u4);
    v_store(out, v_fma(v_set1(0.25f), v_load(u), v_fma(v_set1(1.0f / 24), plus2, plus)));
    v_store(out + out_step, v_fma(v_set1(1.0f / 12), v_sub(u3, u4), v_mul(sixth, v_sub(u1, u2))));
    v_store(out + 2 * out_step, v_add(v_load(u + 5 * step), v_sub(plus, v_mul(sixth, plus2))));
}

/* g += G^T u G, the transpose of winograd_filter, of `channels` filters side by side; u may be read to a whole vector. */
static void OP_(winograd_d_filter)(float *g, ptrdiff_t tap, const float *u, ptrdiff_t frequency, int channels) {
    float half[18 * OP_VECTOR], whole[9 * OP_VECTOR];
    for (int c = 0; c < channels; c += OP_VECTOR) {
        const int count = YOLO_MIN(channels - c, OP_VECTOR);
        for (int x = 0; x < 6; x++) OP_(winograd_d_filter_1d)(half + x * OP_VECTOR, 6 * OP_VECTOR, u + c + x * frequency, 6 * frequency);
        for (int y = 0; y < 3; y++) OP_(winograd_d_filter_1d)(whole + y * 3 * OP_VECTOR, OP_VECTOR, half + y * 6 * OP_VECTOR, OP_VECTOR);
        for (int t = 0; t < 9; t++) {
            float *to = g + t * tap + c;
            const V more = v_load(whole + t * OP_VECTOR);
            if (count == OP_VECTOR) v_store(to, v_add(v_load(to), more));
            else OP_(store_some)(to, v_add(OP_(load_some)(to, count), more), count);
        }
    }
}

/* out(channels) = the largest of `count` pixels `step` floats apart, or the NaN among them, as torch's pooling has it. */
static void OP_(largest)(float *out, const float *in, ptrdiff_t step, int count, int channels) {
    for (int c = 0; c < channels; c += OP_VECTOR) {
        const int some = YOLO_MIN(channels - c, OP_VECTOR);
        V m = v_set1(-INFINITY);
        for (int i = 0; i < count; i++) {
            const float *p = in + i * step + c;
            const V x = some == OP_VECTOR ? v_load(p) : OP_(load_some)(p, some);
            m = v_keep_nan(m, v_max(m, x));
        }
        if (some == OP_VECTOR) v_store(out + c, m);
        else OP_(store_some)(out + c, m, some);
    }
}

/* The derivative of OP_(activate), as torch has it at 0. */
OP_INLINE V OP_(activate_slope)(V x, const net_activation activation, const V slope) {
    const V one = v_set1(1.0f), zero = v_set1(0.0f), low = v_max(v_set1(-80.0f), x);
    if (activation == NET_SILU) { /* s + x s (1 - s), 1 - s = e s */
        const V inside = v_min(v_set1(80.0f), low), e = OP_(exp)(v_sub(zero, inside));
        const V s = OP_(reciprocal)(v_add(one, e));
        return v_fma(v_mul(inside, s), v_mul(e, s), s);
    }
    if (activation == NET_RELU) return v_if_greater(x, zero, one, zero);
    if (activation == NET_LEAKYRELU) return v_if_greater(x, zero, one, slope);
    if (activation == NET_MISH) { /* n r + 4 x e (e + 1) r^2, n = e (e + 2), r = 1 / (n + 2) */
        const V inside = v_min(v_set1(20.0f), low), e = OP_(exp)(inside);
        const V n = v_mul(e, v_add(e, v_set1(2.0f))), r = OP_(reciprocal)(v_add(n, v_set1(2.0f)));
        const V bend = v_mul(v_mul(v_set1(4.0f), inside), v_mul(v_mul(e, r), v_mul(v_add(e, one), r)));
        return v_fma(n, r, bend);
    }
    return one;
}

OP_INLINE V OP_(load)(const float *p, int count) { return count >= OP_VECTOR ? v_load(p) : OP_(load_some)(p, count); }
OP_INLINE void OP_(store)(float *p, V a, int count) {
    if (count >= OP_VECTOR) v_store(p, a);
    else OP_(store_some)(p, a, count);
}

/* Mean and sum of squared deviations of each channel; both arrays are whole vectors. What is summed for the mean is the
   distance from the first pixel, because rounding goes by the size of the sum. */
static void OP_(moments)(float *mean, float *squares, const float *z, ptrdiff_t step, int pixels, int channels) {
    const V share = v_set1(1.0f / (float)pixels), zero = v_set1(0.0f);
    for (int c = 0; c < channels; c += OP_VECTOR) v_store(mean + c, zero), v_store(squares + c, zero);
    const float *p = z;
    for (int i = 0; i < pixels; i++, p += step)
        for (int c = 0; c < channels; c += OP_VECTOR)
            v_store(mean + c, v_add(v_load(mean + c), v_sub(OP_(load)(p + c, channels - c), OP_(load)(z + c, channels - c))));
    for (int c = 0; c < channels; c += OP_VECTOR) v_store(mean + c, v_fma(v_load(mean + c), share, OP_(load)(z + c, channels - c)));
    for (int i = 0; i < pixels; i++, z += step)
        for (int c = 0; c < channels; c += OP_VECTOR) {
            const V d = v_sub(OP_(load)(z + c, channels - c), v_load(mean + c));
            v_store(squares + c, v_fma(d, d, v_load(squares + c)));
        }
}

OP_INLINE void OP_(norm_fwd_as)(const op_norm *norm, const op_norm_rows *rows, const net_activation activation) {
    const V slope = v_set1(norm->slope);
    const int channels = norm->channels;
    const float *z = rows->z, *residual = rows->residual;
    float *out = rows->out;
    for (int i = 0; i < rows->pixels; i++, z += rows->z_step, out += rows->out_step) {
        for (int c = 0; c < channels; c += OP_VECTOR) {
            const V d = v_sub(OP_(load)(z + c, channels - c), v_load(norm->mean + c));
            V x = OP_(activate)(v_fma(v_load(norm->scale + c), d, v_load(norm->shift + c)), activation, slope);
            if (residual) x = v_add(x, OP_(load)(residual + c, channels - c));
            OP_(store)(out + c, x, channels - c);
        }
        if (residual) residual += rows->residual_step;
    }
}

/* Sums of g = d_out * activation' and of g * (z - mean); both arrays are whole vectors. */
OP_INLINE void OP_(norm_sums_as)(const op_norm *norm, const op_norm_rows *rows, const net_activation activation) {
    const V slope = v_set1(norm->slope), zero = v_set1(0.0f);
    float *sums = rows->sums, *products = rows->products;
    const int channels = norm->channels;
    const float *z = rows->z, *d_out = rows->out;
    for (int c = 0; c < channels; c += OP_VECTOR) v_store(sums + c, zero), v_store(products + c, zero);
    for (int i = 0; i < rows->pixels; i++, z += rows->z_step, d_out += rows->out_step)
        for (int c = 0; c < channels; c += OP_VECTOR) {
            const V d = v_sub(OP_(load)(z + c, channels - c), v_load(norm->mean + c));
            const V x = v_fma(v_load(norm->scale + c), d, v_load(norm->shift + c));
            const V g = v_mul(OP_(load)(d_out + c, channels - c), OP_(activate_slope)(x, activation, slope));
            v_store(sums + c, v_add(v_load(sums + c), g));
            v_store(products + c, v_fma(g, d, v_load(products + c)));
        }
}

OP_INLINE void OP_(norm_bwd_as)(const op_norm *norm, const op_norm_rows *rows, const net_activation activation) {
    const V slope = v_set1(norm->slope);
    const int channels = norm->channels;
    const float *z = rows->z;
    float *out = rows->out, *residual = rows->residual;
    for (int i = 0; i < rows->pixels; i++, z += rows->z_step, out += rows->out_step) {
        for (int c = 0; c < channels; c += OP_VECTOR) {
            const V scale = v_load(norm->scale + c), d_out = OP_(load)(out + c, channels - c);
            const V d = v_sub(OP_(load)(z + c, channels - c), v_load(norm->mean + c));
            const V g = v_mul(d_out, OP_(activate_slope)(v_fma(scale, d, v_load(norm->shift + c)), activation, slope));
            const V through = v_fma(v_load(norm->d_mean + c), d, v_load(norm->d_shift + c));
            OP_(store)(out + c, v_sub(v_mul(scale, g), through), channels - c);
            if (!residual) continue;
            if (rows->accumulate) OP_(store)(residual + c, v_add(OP_(load)(residual + c, channels - c), d_out), channels - c);
            else OP_(store)(residual + c, d_out, channels - c);
        }
        if (residual) residual += rows->residual_step;
    }
}

#define OP_BY_ACTIVATION(function)                                                      \
    static void OP_(function)(const op_norm *norm, const op_norm_rows *rows) {          \
        switch (norm->activation) {                                                     \
        case NET_SILU: OP_(function##_as)(norm, rows, NET_SILU); break;                 \
        case NET_RELU: OP_(function##_as)(norm, rows, NET_RELU); break;                 \
        case NET_LEAKYRELU: OP_(function##_as)(norm, rows, NET_LEAKYRELU); break;       \
        case NET_MISH: OP_(function##_as)(norm, rows, NET_MISH); break;                 \
        default: OP_(function##_as)(norm, rows, NET_LINEAR);                            \
        }                                                                               \
    }
OP_BY_ACTIVATION(norm_fwd)
OP_BY_ACTIVATION(norm_sums)
OP_BY_ACTIVATION(norm_bwd)

/* out (= or +=) the sum of `count` pixels. */
static void OP_(sum)(float *out, const float *const *in, int count, int channels, bool accumulate) {
    for (int c = 0; c < channels; c += OP_VECTOR) {
        V x = OP_(load)(in[0] + c, channels - c);
        for (int i = 1; i < count; i++) x = v_add(x, OP_(load)(in[i] + c, channels - c));
        if (accumulate) x = v_add(x, OP_(load)(out + c, channels - c));
        OP_(store)(out + c, x, channels - c);
    }
}

/* d_in += d_out at the first pixel of the window that is the largest. */
static void OP_(largest_bwd)(const op_window *window, const float *largest, const float *d_out) {
    const V zero = v_set1(0.0f);
    for (int c = 0; c < window->channels; c += OP_VECTOR) {
        const int some = window->channels - c;
        const V most = OP_(load)(largest + c, some);
        V rest = OP_(load)(d_out + c, some);
        for (int y = 0; y < window->rows; y++)
            for (int x = 0; x < window->columns; x++) {
                const V in = OP_(load)(window->in + y * window->pitch + x * window->step + c, some);
                float *d_in = window->d_in + y * window->d_pitch + x * window->d_step + c;
                OP_(store)(d_in, v_add(OP_(load)(d_in, some), v_if_equal(in, most, rest, zero)), some);
                rest = v_if_equal(in, most, zero, rest);
            }
    }
}

#define OP_TILE_NAMES_1(i, p, s) OP_(tile_##i##_1),
#define OP_TILE_NAMES_2(i, p, s) OP_(tile_##i##_2),
#define OP_OUTER_NAMES_1(i, p, s) OP_(outer_##i##_1),
#define OP_OUTER_NAMES_2(i, p, s) OP_(outer_##i##_2),
static const op_kernels OP_(kernels) = {
    OP_VECTOR, OP_TILE, {{OP_ROWS(OP_TILE_NAMES_1)}, {OP_ROWS(OP_TILE_NAMES_2)}},
    {{OP_ROWS(OP_OUTER_NAMES_1)}, {OP_ROWS(OP_OUTER_NAMES_2)}},
    OP_(finish), OP_(winograd_in), OP_(winograd_out), OP_(winograd_filter), OP_(winograd_d_out), OP_(winograd_d_filter), OP_(largest),
    OP_(moments), OP_(norm_fwd), OP_(norm_sums), OP_(norm_bwd), OP_(sum), OP_(largest_bwd)};

#undef OP_JOIN
#undef OP_
#undef V
#undef OP_VECTOR
#undef OP_TILE
#undef OP_ROWS
#undef OP_ROWS_6
#undef OP_ZERO
#undef OP_STEP
#undef OP_OUT
#undef OP_WINOGRAD_OUT
#undef OP_COLUMN
#undef OP_ROW
#undef OP_TILES
#undef OP_TILE_NAMES_1
#undef OP_TILE_NAMES_2
#undef OP_OUTER_STEP
#undef OP_OUTER_OUT
#undef OP_OUTERS
#undef OP_OUTER_NAMES_1
#undef OP_OUTER_NAMES_2
#undef v_load
#undef v_store
#undef v_set1
#undef v_add
#undef v_sub
#undef v_mul
#undef v_fma
#undef v_max
#undef v_min
#undef v_times_power_of_2
#undef v_reciprocal_estimate
#undef v_keep_nan
#undef v_if_greater
#undef v_if_equal
#undef OP_BY_ACTIVATION

#endif /* OP_PASS */
#ifndef OP_PASS

#define OP_PASS 0
#include "yolo.c"
#undef OP_PASS
#ifdef YOLO_X86
#define OP_PASS 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "yolo.c"
#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#undef OP_PASS
#define OP_PASS 2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#include "yolo.c"
#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#undef OP_PASS
#endif

#ifdef YOLO_X86
static void op_cpuid(unsigned leaf, unsigned registers[4]) {
#ifdef _MSC_VER
    __cpuidex((int *)registers, (int)leaf, 0);
#else
    __cpuid_count(leaf, 0, registers[0], registers[1], registers[2], registers[3]);
#endif
}

static unsigned op_xgetbv(void) { /* which registers the operating system saves */
#ifdef _MSC_VER
    return (unsigned)_xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}
#endif

/* The widest instruction set that processor and operating system both support. */
static op_isa op_isa_best(void) {
#ifdef YOLO_X86
    enum { EAX, EBX, ECX, EDX };
    unsigned r[4];
    op_cpuid(0, r);
    if (r[EAX] < 7) return OP_PORTABLE;
    op_cpuid(1, r);
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28;
    if ((r[ECX] & (fma | osxsave | avx)) != (fma | osxsave | avx)) return OP_PORTABLE;
    const unsigned saved = op_xgetbv(), ymm = 0x6, zmm = 0xe6;
    op_cpuid(7, r);
    const unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((saved & ymm) != ymm || !(r[EBX] & avx2)) return OP_PORTABLE;
    return (saved & zmm) == zmm && (r[EBX] & avx512) == avx512 ? OP_AVX512 : OP_AVX2;
#else
    return OP_PORTABLE;
#endif
}

static const op_kernels *op_kernels_for(op_isa isa) {
#ifdef YOLO_X86
    if (isa == OP_AVX512) return &op_kernels_avx512;
    if (isa == OP_AVX2) return &op_kernels_avx2;
#endif
    (void)isa;
    return &op_kernels_portable;
}

/* ---- convolution: weights ---- */

typedef struct op_conv {
    const op_kernels *kernels;
    int in_channels, out_channels, kernel, stride, padding;
    net_activation activation;
    float slope;   /* of NET_LEAKYRELU, at most 1; op_conv_create sets 0.01, torch's default */
    bool winograd;
    int panels;
    float *weight; /* panel, then: r, s, c (direct) or frequency, c (Winograd), then the panel's channels */
    float *bias;   /* out_channels, padded with zeros to whole vectors */
} op_conv;

/* Vectors in a panel: two, or one in a last panel that needs no more. */
static int op_panel_vectors(const op_conv *conv, int panel) {
    int left = conv->out_channels - panel * 2 * conv->kernels->vector;
    return left > conv->kernels->vector ? 2 : 1;
}

static const float *op_panel_weight(const op_conv *conv, int panel) {
    int64_t taps = conv->winograd ? OP_FREQUENCIES : conv->kernel * conv->kernel;
    return conv->weight + panel * taps * conv->in_channels * 2 * conv->kernels->vector;
}

/* Weights as packing finds them: output channel o, input channel i, tap t at data[o*out + i*in + order[t]*tap]. */
typedef struct op_source {
    const float *data;
    ptrdiff_t out, in, tap;
    const uint8_t *order; /* NULL = 0, 1, 2, ... */
} op_source;

enum { OP_PACK = 16 }; /* input channels packed at once: a cache line of each filter */

typedef struct op_pack { op_conv *conv; op_source from; int pieces; } op_pack;

/* One vector of output channels of one input channel: `taps` times a vector, `step` floats apart. */
static void op_pack_gather(float *to, ptrdiff_t step, const op_pack *pack, const float *from, int count, int taps) {
    const op_source *source = &pack->from;
    const int vector = pack->conv->kernels->vector;
    for (int t = 0; t < taps; t++, to += step) {
        const float *tap = from + (source->order ? source->order[t] : t) * source->tap;
        if (source->out == 1) memcpy(to, tap, (size_t)count * sizeof *to);
        else
            for (int o = 0; o < count; o++) to[o] = tap[o * source->out];
        for (int o = count; o < vector; o++) to[o] = 0;
    }
}

static void op_pack_body(void *context, int index, int worker) {
    const op_pack *pack = context;
    const op_conv *conv = pack->conv;
    const int vector = conv->kernels->vector, panel = index / pack->pieces, width = op_panel_vectors(conv, panel) * vector;
    const int C = conv->in_channels, first = index % pack->pieces * OP_PACK, end = YOLO_MIN(first + OP_PACK, C);
    const ptrdiff_t step = (ptrdiff_t)C * width;
    float filter[9 * 16];
    (void)worker;
    for (int i = first; i < end; i++)
        for (int v = 0; v < width; v += vector) {
            const int o = panel * 2 * vector + v, count = YOLO_MIN(vector, conv->out_channels - o);
            const float *from = pack->from.data + o * pack->from.out + i * pack->from.in;
            float *to = (float *)op_panel_weight(conv, panel) + (ptrdiff_t)i * width + v;
            if (!conv->winograd) {
                op_pack_gather(to, step, pack, from, count, conv->kernel * conv->kernel);
                continue;
            }
            op_pack_gather(filter, vector, pack, from, count, 9);
            conv->kernels->winograd_filter(to, step, filter, vector);
        }
}

static void op_pack_weight(op_conv *conv, op_source from, thr_pool *pool) {
    op_pack pack = {conv, from, (conv->in_channels + OP_PACK - 1) / OP_PACK};
    thr_parallel_for(pool, conv->panels * pack.pieces, op_pack_body, &pack);
}

/* Other weights (K,R,S,C) into a convolution that is there. */
static void op_conv_repack(op_conv *conv, const float *weight, thr_pool *pool) {
    const ptrdiff_t C = conv->in_channels;
    op_pack_weight(conv, (op_source){weight, conv->kernel * conv->kernel * C, 1, C, NULL}, pool);
}

static void op_conv_destroy(op_conv *conv) {
    mem_free(conv->weight);
    mem_free(conv->bias);
    memset(conv, 0, sizeof *conv);
}

/* A convolution without memory: `weight` and `bias` are to point at op_conv_floats and op_conv_bias_floats floats before it
   is packed. By Winograd where that pays, if it may be. */
static void op_conv_init(op_conv *conv, op_isa isa, int in_channels, int out_channels, int kernel, int stride, int padding,
                         net_activation activation, bool winograd) {
    YOLO_ASSERT(in_channels > 0 && out_channels > 0 && kernel > 0 && stride > 0 && padding >= 0);
    const op_kernels *kernels = op_kernels_for(isa);
    memset(conv, 0, sizeof *conv);
    conv->kernels = kernels;
    conv->in_channels = in_channels;
    conv->out_channels = out_channels;
    conv->kernel = kernel;
    conv->stride = stride;
    conv->padding = padding;
    conv->activation = activation;
    conv->slope = (float)NET_LEAKYRELU_SLOPE;
    conv->winograd = winograd && kernel == 3 && stride == 1 && in_channels >= YOLO_MAX(kernels->vector, 8); /* fewer do not pay for the transforms */
    const int wide = 2 * kernels->vector;
    conv->panels = (out_channels + wide - 1) / wide;
}

static int64_t op_conv_bias_floats(const op_conv *conv) { return (int64_t)conv->panels * 2 * conv->kernels->vector; }
static int64_t op_conv_floats(const op_conv *conv) {
    const int64_t taps = conv->winograd ? OP_FREQUENCIES : conv->kernel * conv->kernel;
    return taps * conv->in_channels * op_conv_bias_floats(conv);
}

/* Gives a convolution zeroed memory of its own, for op_conv_destroy to free. */
static yolo_status op_conv_reserve(op_conv *conv, yolo_error *error) {
    const uint64_t floats = (uint64_t)op_conv_floats(conv);
    conv->weight = mem_array(floats, sizeof(float));
    conv->bias = mem_array((uint64_t)op_conv_bias_floats(conv), sizeof(float));
    if (conv->weight && conv->bias) return YOLO_OK;
    op_conv_destroy(conv);
    return err_memory(error, floats * sizeof(float));
}

/* Packs weight (K,R,S,C) and bias (K, or NULL for none); neither is needed afterwards. */
static yolo_status op_conv_create(op_conv *conv, op_isa isa, int in_channels, int out_channels, int kernel, int stride,
                                  int padding, net_activation activation, const float *weight, const float *bias,
                                  yolo_error *error) {
    op_conv_init(conv, isa, in_channels, out_channels, kernel, stride, padding, activation, true);
    yolo_status status = op_conv_reserve(conv, error);
    if (status != YOLO_OK) return status;
    op_conv_repack(conv, weight, NULL);
    if (bias) memcpy(conv->bias, bias, (size_t)out_channels * sizeof(float));
    return YOLO_OK;
}

/* ---- convolution: blocking ----
   The work is cut into blocks whose inputs stay in a core's second-level cache while all panels of weights pass over
   them. A plan is a function of shapes and thread count alone. */

enum { OP_CACHE = 512 << 10 }; /* bytes of second-level cache a block may take: half of what today's cores have */
enum { OP_SHARED = 32 << 20 }; /* bytes of transformed input that all threads share at a time */

typedef struct op_plan {
    int out_h, out_w;
    int blocks;             /* independent pieces */
    int wave;               /* Winograd, shared: blocks that are transformed, then multiplied, together */
    int64_t block;          /* pixels (1x1), output rows (direct) or tiles (Winograd) in each but the last */
    int bands;              /* direct: blocks an image */
    int band_w;             /* direct: pixels in a padded row */
    int tiles_y, tiles_x;   /* Winograd: an image */
    bool shared;            /* Winograd: few tiles, so all threads work on one transformed input, panel by panel */
    ptrdiff_t depth;        /* Winograd: floats from tile to tile of a transformed input */
    ptrdiff_t v_frequency, m_frequency; /* Winograd: floats from frequency to frequency, before and after the product */
    int64_t v_floats;       /* Winograd: transformed input of a block */
    int64_t worker_floats, shared_floats;
} op_plan;

static int64_t op_align(int64_t floats) { return (floats + 15) & ~(int64_t)15; }

/* The size of pieces of `total` things: at most `most` each, and a number of pieces that keeps the threads evenly busy. */
static int64_t op_even_pieces(int64_t total, int64_t most, int threads) {
    int64_t pieces = (total + most - 1) / YOLO_MAX(most, 1);
    pieces = (pieces + threads - 1) / threads * threads;
    return YOLO_MAX((total + pieces - 1) / pieces, 1);
}

static void op_plan_winograd(op_plan *plan, const op_conv *conv, int n, int threads) {
    const int wide = 2 * conv->kernels->vector;
    plan->tiles_y = (plan->out_h + 3) / 4;
    plan->tiles_x = (plan->out_w + 3) / 4;
    plan->depth = (ptrdiff_t)op_align(conv->in_channels);
    const int64_t tiles = (int64_t)n * plan->tiles_y * plan->tiles_x;
    int64_t most = OP_CACHE / (int64_t)(sizeof(float) * OP_FREQUENCIES * (plan->depth + wide));
    plan->shared = most < conv->kernels->tile_rows || tiles <= most * threads / 2;
    if (plan->shared) { /* as few blocks as keep the threads busy, because each reads the weights of its panel again */
        const int64_t pieces = (2 * threads + conv->panels - 1) / conv->panels;
        most = YOLO_CLAMP((tiles + pieces - 1) / pieces, conv->kernels->tile_rows, 4 * conv->kernels->tile_rows);
    }
    plan->block = plan->shared ? YOLO_MIN(most, tiles) : op_even_pieces(tiles, most, threads);
    plan->blocks = (int)((tiles + plan->block - 1) / plan->block);
    /* An odd number of cache lines from frequency to frequency: 36 streams that do not fall on the same cache sets. */
    plan->v_frequency = (ptrdiff_t)((plan->block * plan->depth) | 16);
    plan->m_frequency = (ptrdiff_t)(op_align(plan->block * wide) | 16);
    plan->v_floats = plan->v_frequency * OP_FREQUENCIES;
    const int64_t scratch = 16 * wide + OP_FREQUENCIES * op_align(YOLO_MAX(conv->in_channels, 16));
    plan->worker_floats = OP_FREQUENCIES * (int64_t)plan->m_frequency + op_align(scratch + OP_FREQUENCIES * 16);
    const int64_t wave = YOLO_MAX(OP_SHARED / (int64_t)sizeof(float) / plan->v_floats, 2 * threads);
    plan->wave = (int)YOLO_MIN(wave, plan->blocks);
    if (plan->shared) plan->shared_floats = plan->wave * plan->v_floats;
    else plan->worker_floats += plan->v_floats;
}

static op_plan op_conv_plan(const op_conv *conv, int n, int h, int w, int threads) {
    op_plan plan = {0};
    plan.out_h = (h + 2 * conv->padding - conv->kernel) / conv->stride + 1;
    plan.out_w = (w + 2 * conv->padding - conv->kernel) / conv->stride + 1;
    const int64_t sums = op_align(OP_MAX_TILE * 2 * conv->kernels->vector);
    if (conv->winograd) {
        op_plan_winograd(&plan, conv, n, threads);
    } else if (conv->kernel == 1 && conv->stride == 1 && conv->padding == 0) {
        const int64_t pixels = (int64_t)n * h * w, cost = (int64_t)sizeof(float) * conv->in_channels;
        plan.block = op_even_pieces(pixels, YOLO_MAX(OP_CACHE / 4 / cost, conv->kernels->tile_rows), threads);
        plan.blocks = (int)((pixels + plan.block - 1) / plan.block);
        plan.worker_floats = sums;
    } else {
        plan.band_w = (plan.out_w - 1) * conv->stride + conv->kernel;
        const int64_t cost = (int64_t)sizeof(float) * conv->in_channels * plan.band_w * conv->stride;
        plan.block = op_even_pieces(plan.out_h, YOLO_MAX(OP_CACHE / 2 / cost, 1), n > 1 ? 1 : threads);
        plan.bands = (int)((plan.out_h + plan.block - 1) / plan.block);
        plan.blocks = n * plan.bands;
        const int64_t rows = (plan.block - 1) * conv->stride + conv->kernel;
        plan.worker_floats = sums + op_align(rows * plan.band_w * conv->in_channels);
    }
    return plan;
}

/* Bytes that op_conv_fwd needs for an input of n,h,w and a pool of up to `threads`. */
static size_t op_conv_workspace(const op_conv *conv, int n, int h, int w, int threads) {
    size_t most = 0;
    for (int t = 1; t <= threads; t++) {
        const op_plan plan = op_conv_plan(conv, n, h, w, t);
        most = YOLO_MAX(most, (size_t)(plan.shared_floats + t * plan.worker_floats) * sizeof(float));
    }
    return most;
}

/* ---- convolution: execution ---- */

typedef struct op_job {
    const op_conv *conv;
    const ten *out, *in, *residual;
    float *shared, *workers;
    op_plan plan;
    int first, blocks; /* Winograd, shared: the wave */
} op_job;

/* The part of `job`'s output that starts at pixel `pixel` (counted over n, y, x) and at the panel's first channel. */
static op_rows op_rows_at(const op_job *job, int64_t pixel, int panel, int rows) {
    const int wide = 2 * job->conv->kernels->vector, channel = panel * wide;
    op_rows to = {.rows = rows, .channels = YOLO_MIN(wide, job->conv->out_channels - channel), .slope = job->conv->slope};
    to.out = job->out->data + pixel * job->out->pixel + channel;
    to.out_stride = (ptrdiff_t)job->out->pixel;
    if (job->residual) {
        to.residual = job->residual->data + pixel * job->residual->pixel + channel;
        to.residual_stride = (ptrdiff_t)job->residual->pixel;
    }
    return to;
}

/* Rows of the largest tile that cuts `rows` into tiles of nearly the same height. */
static int op_tile_height(const op_kernels *kernels, int64_t rows) {
    const int64_t tiles = (rows + kernels->tile_rows - 1) / kernels->tile_rows;
    return (int)((rows + tiles - 1) / tiles);
}

/* The rows of `to`, from inputs a_stride floats apart. */
static void op_conv_rows(const op_conv *conv, int panel, const float *weight, op_rows to, const float *a, ptrdiff_t a_stride,
                         ptrdiff_t a_pitch, int taps, int depth, float *sums) {
    const int vectors = op_panel_vectors(conv, panel), wide = 2 * conv->kernels->vector;
    for (int left = to.rows; left > 0; left -= to.rows) {
        to.rows = op_tile_height(conv->kernels, left);
        conv->kernels->tile[vectors - 1][to.rows - 1](sums, wide, a, a_stride, a_pitch, weight, taps, depth);
        conv->kernels->finish(&to, sums, wide, conv->bias + panel * wide, conv->activation);
        a += to.rows * a_stride;
        to.out += to.rows * to.out_stride;
        if (to.residual) to.residual += to.rows * to.residual_stride;
    }
}

/* One panel of `pixels` output pixels, the first being `pixel`. */
static void op_conv_run(const op_job *job, int panel, int64_t pixel, int pixels, const float *a, ptrdiff_t a_stride,
                        ptrdiff_t a_pitch, int taps, int depth, float *sums) {
    op_conv_rows(job->conv, panel, op_panel_weight(job->conv, panel), op_rows_at(job, pixel, panel, pixels), a, a_stride, a_pitch,
                 taps, depth, sums);
}

static void op_pointwise_body(void *context, int index, int worker) {
    const op_job *job = context;
    const int64_t first = index * job->plan.block, all = (int64_t)job->in->n * job->in->h * job->in->w;
    const int64_t pixels = YOLO_MIN(job->plan.block, all - first);
    float *sums = job->workers + worker * job->plan.worker_floats;
    for (int panel = 0; panel < job->conv->panels; panel++)
        op_conv_run(job, panel, first, (int)pixels, job->in->data + first * job->in->pixel, (ptrdiff_t)job->in->pixel, 0, 1,
                    job->conv->in_channels, sums);
}

/* Copies rows x columns pixels of image n, from (y, x) on, densely to `to`; outside of the image there are zeros. */
static void op_copy_padded(float *to, const ten *in, int n, int y, int x, int rows, int columns) {
    const size_t pixel_bytes = (size_t)in->c * sizeof(float);
    const int left = YOLO_CLAMP(-x, 0, columns), right = YOLO_CLAMP(in->w - x, left, columns);
    for (int row = 0; row < rows; row++, to += (int64_t)columns * in->c) {
        if (y + row < 0 || y + row >= in->h || left == right) {
            memset(to, 0, columns * pixel_bytes);
            continue;
        }
        const float *from = ten_at(in, n, y + row, x + left);
        memset(to, 0, left * pixel_bytes);
        if (in->pixel == in->c) memcpy(to + (int64_t)left * in->c, from, (right - left) * pixel_bytes);
        else
            for (int i = left; i < right; i++, from += in->pixel) memcpy(to + (int64_t)i * in->c, from, pixel_bytes);
        memset(to + (int64_t)right * in->c, 0, (columns - right) * pixel_bytes);
    }
}

static void op_direct_body(void *context, int index, int worker) {
    const op_job *job = context;
    const op_conv *conv = job->conv;
    const op_plan *plan = &job->plan;
    const int n = index / plan->bands, first = (int)(index % plan->bands * plan->block);
    const int rows = (int)YOLO_MIN(plan->block, plan->out_h - first), C = conv->in_channels;
    float *sums = job->workers + worker * plan->worker_floats;
    float *band = sums + op_align(OP_MAX_TILE * 2 * conv->kernels->vector);
    op_copy_padded(band, job->in, n, first * conv->stride - conv->padding, -conv->padding,
                   (rows - 1) * conv->stride + conv->kernel, plan->band_w);
    const ptrdiff_t pitch = (ptrdiff_t)plan->band_w * C;
    for (int panel = 0; panel < conv->panels; panel++)
        for (int y = 0; y < rows; y++)
            op_conv_run(job, panel, ((int64_t)n * plan->out_h + first + y) * plan->out_w, plan->out_w, band + y * conv->stride * pitch,
                        (ptrdiff_t)conv->stride * C, pitch, conv->kernel, conv->kernel * C, sums);
}

/* Tile t of the whole batch: its image, and the first pixel of its output. */
static void op_winograd_place(int64_t t, int tiles_y, int tiles_x, int *n, int *y, int *x) {
    *x = (int)(t % tiles_x) * OP_WINOGRAD_OUT;
    *y = (int)(t / tiles_x % tiles_y) * OP_WINOGRAD_OUT;
    *n = (int)(t / tiles_x / tiles_y);
}

/* size x size pixels of image n from (y, x) on: where they lie, or a copy with zeros for what is outside of the image. */
static const float *op_winograd_patch(const ten *in, int n, int y, int x, int size, float *copy, ptrdiff_t *pixel, ptrdiff_t *pitch) {
    if (y < 0 || x < 0 || y + size > in->h || x + size > in->w) {
        op_copy_padded(copy, in, n, y, x, size, size);
        *pixel = in->c;
        *pitch = (ptrdiff_t)size * in->c;
        return copy;
    }
    *pixel = (ptrdiff_t)in->pixel;
    *pitch = *pixel * in->w;
    return ten_at(in, n, y, x);
}

/* Transforms the inputs of tiles [from, to) of the block that starts at tile `first`. */
static void op_winograd_gather(const op_job *job, int64_t first, int64_t from, int64_t to, float *v, float *scratch) {
    const op_plan *plan = &job->plan;
    const int padding = job->conv->padding;
    for (int64_t t = from; t < to; t++) {
        int n, y, x;
        ptrdiff_t pixel, pitch;
        op_winograd_place(t, plan->tiles_y, plan->tiles_x, &n, &y, &x);
        const float *patch = op_winograd_patch(job->in, n, y - padding, x - padding, OP_WINOGRAD_IN, scratch + OP_FREQUENCIES * 16, &pixel, &pitch);
        job->conv->kernels->winograd_in(v + (t - first) * plan->depth, plan->v_frequency, patch, pixel, pitch, job->in->c, scratch);
    }
}

/* One panel of the output of tiles [first, end), whose transformed inputs are at v. */
static void op_winograd_panel(const op_job *job, int panel, int64_t first, int64_t end, const float *v, float *m, float *scratch) {
    const op_conv *conv = job->conv;
    const op_plan *plan = &job->plan;
    const int vectors = op_panel_vectors(conv, panel), width = vectors * conv->kernels->vector, tiles = (int)(end - first);
    const float *weight = op_panel_weight(conv, panel);
    for (int f = 0; f < OP_FREQUENCIES; f++, weight += (ptrdiff_t)conv->in_channels * width)
        for (int t = 0, rows; t < tiles; t += rows) {
            rows = op_tile_height(conv->kernels, tiles - t);
            conv->kernels->tile[vectors - 1][rows - 1](m + f * plan->m_frequency + (ptrdiff_t)t * width, width,
                v + f * plan->v_frequency + t * plan->depth, plan->depth, 0, weight, 1, conv->in_channels);
        }
    float *pixels = scratch + OP_FREQUENCIES * 16;
    const float *bias = conv->bias + panel * 2 * conv->kernels->vector;
    for (int64_t t = first; t < end; t++) {
        int n, y, x;
        op_winograd_place(t, plan->tiles_y, plan->tiles_x, &n, &y, &x);
        for (int c = 0; c < width; c += conv->kernels->vector)
            conv->kernels->winograd_out(pixels + c, width, m + (t - first) * width + c, plan->m_frequency);
        for (int row = 0; row < OP_WINOGRAD_OUT && y + row < plan->out_h; row++) {
            const op_rows to = op_rows_at(job, ((int64_t)n * plan->out_h + y + row) * plan->out_w + x, panel,
                                          YOLO_MIN(OP_WINOGRAD_OUT, plan->out_w - x));
            conv->kernels->finish(&to, pixels + (ptrdiff_t)row * OP_WINOGRAD_OUT * width, width, bias, conv->activation);
        }
    }
}

static int64_t op_winograd_tiles(const op_job *job) {
    return (int64_t)job->in->n * job->plan.tiles_y * job->plan.tiles_x;
}

/* A block of tiles from input to output. */
static void op_winograd_body(void *context, int index, int worker) {
    const op_job *job = context;
    const op_plan *plan = &job->plan;
    float *v = job->workers + worker * plan->worker_floats, *m = v + plan->v_floats;
    float *scratch = m + OP_FREQUENCIES * plan->m_frequency;
    const int64_t first = index * plan->block, end = YOLO_MIN(first + plan->block, op_winograd_tiles(job));
    op_winograd_gather(job, first, first, end, v, scratch);
    for (int panel = 0; panel < job->conv->panels; panel++) op_winograd_panel(job, panel, first, end, v, m, scratch);
}

enum { OP_GATHER = 4 }; /* tiles transformed at once when the transformed input is shared */

static void op_winograd_gather_body(void *context, int index, int worker) {
    const op_job *job = context;
    const op_plan *plan = &job->plan;
    float *scratch = job->workers + worker * plan->worker_floats + OP_FREQUENCIES * plan->m_frequency;
    const int64_t from = job->first * plan->block + (int64_t)index * OP_GATHER, to = YOLO_MIN(from + OP_GATHER, op_winograd_tiles(job));
    for (int64_t t = from; t < to; t++) {
        const int64_t block = t / plan->block;
        if (block == job->first + job->blocks) return;
        op_winograd_gather(job, block * plan->block, t, t + 1, job->shared + (block - job->first) * plan->v_floats, scratch);
    }
}

static void op_winograd_panel_body(void *context, int index, int worker) {
    const op_job *job = context;
    const op_plan *plan = &job->plan;
    float *m = job->workers + worker * plan->worker_floats;
    const int block = index % job->blocks;
    const int64_t first = (job->first + block) * plan->block, end = YOLO_MIN(first + plan->block, op_winograd_tiles(job));
    op_winograd_panel(job, index / job->blocks, first, end, job->shared + block * plan->v_floats, m, m + OP_FREQUENCIES * plan->m_frequency);
}

static void op_winograd_shared(op_job *job, thr_pool *pool) {
    const op_plan *plan = &job->plan;
    for (job->first = 0; job->first < plan->blocks; job->first += plan->wave) {
        job->blocks = YOLO_MIN(plan->wave, plan->blocks - job->first);
        thr_parallel_for(pool, (int)((job->blocks * plan->block + OP_GATHER - 1) / OP_GATHER), op_winograd_gather_body, job);
        thr_parallel_for(pool, job->blocks * job->conv->panels, op_winograd_panel_body, job);
    }
}

/* out = act(conv(in) + bias), plus residual where it is not NULL; residual may be out itself. out and in are different
   memory. workspace: op_conv_workspace() bytes, 64-byte aligned. */
static void op_conv_fwd(const ten *out, const ten *in, const op_conv *conv, const ten *residual, void *workspace, thr_pool *pool) {
    op_job job = {conv, out, in, residual, workspace, NULL, op_conv_plan(conv, in->n, in->h, in->w, thr_pool_size(pool)), 0, 0};
    const op_plan *plan = &job.plan;
    YOLO_ASSERT(in->c == conv->in_channels && out->c == conv->out_channels && out->n == in->n && out->h == plan->out_h && out->w == plan->out_w);
    job.workers = job.shared + plan->shared_floats;
    if (!conv->winograd) {
        const bool pointwise = conv->kernel == 1 && conv->stride == 1 && conv->padding == 0;
        thr_parallel_for(pool, plan->blocks, pointwise ? op_pointwise_body : op_direct_body, &job);
    } else if (plan->shared) {
        op_winograd_shared(&job, pool);
    } else {
        thr_parallel_for(pool, plan->blocks, op_winograd_body, &job);
    }
}

/* ---- convolution: gradient of the input ----
   With stride 1 it is a convolution of d_out with the turned filters, channels exchanged. With stride s, the input pixels
   whose coordinates leave the same remainder (a phase) see the same taps and no zeros: a convolution for each phase, from
   a band of padded rows of d_out that all phases share. */

enum { OP_GRAD_KERNEL = 15 }; /* the largest kernel with gradients */

typedef struct op_dgrad {
    op_conv conv; /* from d_out's channels to d_in's; with phases, only its panels of weights, phase after phase */
    int kernel, stride, padding;
    bool phases;
    uint8_t order[OP_GRAD_KERNEL * OP_GRAD_KERNEL]; /* the packed taps, as taps of the forward convolution */
} op_dgrad;

/* An axis of a phase: pixel j*stride + phase is the sum over t < taps of d_out[j + first + t] * filter[last - t*stride]. */
typedef struct op_phase { int taps, first, last; } op_phase;

static op_phase op_phase_of(const op_dgrad *dgrad, int phase) {
    const int from = (phase + dgrad->padding) % dgrad->stride;
    const int taps = from < dgrad->kernel ? (dgrad->kernel - from + dgrad->stride - 1) / dgrad->stride : 0;
    return (op_phase){taps, (phase + dgrad->padding) / dgrad->stride - taps + 1, from + (taps - 1) * dgrad->stride};
}

static void op_dgrad_order(op_dgrad *dgrad) {
    int count = 0;
    for (int i = 0; i < dgrad->stride * dgrad->stride; i++) {
        const op_phase v = op_phase_of(dgrad, i / dgrad->stride), h = op_phase_of(dgrad, i % dgrad->stride);
        for (int t = 0; t < v.taps * h.taps; t++) {
            const int r = v.last - t / h.taps * dgrad->stride, s = h.last - t % h.taps * dgrad->stride;
            dgrad->order[count++] = (uint8_t)(r * dgrad->kernel + s);
        }
    }
}

static void op_dgrad_destroy(op_dgrad *dgrad) { op_conv_destroy(&dgrad->conv); }

/* For the convolution in_channels -> out_channels; dgrad->conv is without memory, as op_conv_init leaves it. */
static void op_dgrad_init(op_dgrad *dgrad, op_isa isa, int in_channels, int out_channels, int kernel, int stride, int padding) {
    YOLO_ASSERT(kernel <= OP_GRAD_KERNEL && stride > 0 && padding >= 0);
    *dgrad = (op_dgrad){.kernel = kernel, .stride = stride, .padding = padding, .phases = stride > 1 || padding >= kernel};
    op_dgrad_order(dgrad);
    op_conv_init(&dgrad->conv, isa, out_channels, in_channels, kernel, stride, dgrad->phases ? 0 : kernel - 1 - padding, NET_LINEAR,
                 !dgrad->phases);
}

/* The same with memory of its own; op_dgrad_pack gives it weights. */
static yolo_status op_dgrad_create(op_dgrad *dgrad, op_isa isa, int in_channels, int out_channels, int kernel, int stride,
                                   int padding, yolo_error *error) {
    op_dgrad_init(dgrad, isa, in_channels, out_channels, kernel, stride, padding);
    return op_conv_reserve(&dgrad->conv, error);
}

/* weight: (K,R,S,C) of the forward convolution. */
static void op_dgrad_pack(op_dgrad *dgrad, const float *weight, thr_pool *pool) {
    const ptrdiff_t C = dgrad->conv.out_channels;
    op_pack_weight(&dgrad->conv, (op_source){weight, 1, dgrad->kernel * dgrad->kernel * C, C, dgrad->order}, pool);
}

typedef struct op_phases { /* how the work is cut */
    int low, high;          /* of the rows and columns of d_out that pixel j*stride of any phase needs, from j on */
    int rows, columns;      /* pixels of the largest phase */
    int block, bands;       /* rows in a band, bands an image */
    int band_w;
    int64_t worker_floats;
} op_phases;

static op_phases op_dgrad_plan(const op_dgrad *dgrad, int n, int h, int w, int threads) {
    op_phases plan = {.low = INT_MAX, .high = INT_MIN};
    for (int i = 0; i < dgrad->stride; i++) {
        const op_phase phase = op_phase_of(dgrad, i);
        plan.low = YOLO_MIN(plan.low, phase.first);
        plan.high = YOLO_MAX(plan.high, phase.first + phase.taps - 1);
    }
    plan.rows = (h + dgrad->stride - 1) / dgrad->stride;
    plan.columns = (w + dgrad->stride - 1) / dgrad->stride;
    plan.band_w = plan.columns + plan.high - plan.low;
    const int64_t row = (int64_t)plan.band_w * dgrad->conv.in_channels, cost = (int64_t)sizeof(float) * row;
    plan.block = (int)op_even_pieces(plan.rows, YOLO_MAX(OP_CACHE / 2 / cost, 1), n > 1 ? 1 : threads);
    plan.bands = (plan.rows + plan.block - 1) / plan.block;
    plan.worker_floats = op_align(OP_MAX_TILE * 2 * dgrad->conv.kernels->vector) + op_align((plan.block + plan.high - plan.low) * row);
    return plan;
}

/* Bytes that op_conv_dgrad needs for a forward input of n,h,w and a pool of up to `threads`. */
static size_t op_dgrad_workspace(const op_dgrad *dgrad, int n, int h, int w, int threads) {
    size_t most = 0;
    if (!dgrad->phases) {
        const int grown = 2 * dgrad->padding - dgrad->kernel + 1; /* of d_out against d_in */
        return op_conv_workspace(&dgrad->conv, n, h + grown, w + grown, threads);
    }
    for (int t = 1; t <= threads; t++)
        most = YOLO_MAX(most, (size_t)(t * op_dgrad_plan(dgrad, n, h, w, t).worker_floats) * sizeof(float));
    return most;
}

typedef struct op_dgrad_job {
    const op_dgrad *dgrad;
    const ten *d_in, *d_out;
    bool accumulate;
    float *workers;
    op_phases plan;
} op_dgrad_job;

/* One panel of the pixels of a phase in row y of image n. */
static void op_phase_row(const op_dgrad_job *job, int panel, const float *weight, op_phase v, op_phase h, int n, int y, int x,
                         const float *a, float *sums) {
    const op_conv *conv = &job->dgrad->conv;
    const ten *d_in = job->d_in;
    const int stride = job->dgrad->stride, channel = panel * 2 * conv->kernels->vector;
    op_rows to = {.out = ten_at(d_in, n, y, x) + channel, .out_stride = (ptrdiff_t)d_in->pixel * stride};
    to.rows = (d_in->w - x + stride - 1) / stride;
    to.channels = YOLO_MIN(2 * conv->kernels->vector, conv->out_channels - channel);
    if (job->accumulate) {
        to.residual = to.out;
        to.residual_stride = to.out_stride;
    }
    op_conv_rows(conv, panel, weight, to, a, conv->in_channels, (ptrdiff_t)job->plan.band_w * conv->in_channels, v.taps,
                 h.taps * conv->in_channels, sums);
}

static void op_phase_body(void *context, int index, int worker) {
    const op_dgrad_job *job = context;
    const op_dgrad *dgrad = job->dgrad;
    const op_phases *plan = &job->plan;
    const op_conv *conv = &dgrad->conv;
    const int K = conv->in_channels, n = index / plan->bands, first = index % plan->bands * plan->block;
    const int rows = YOLO_MIN(plan->block, plan->rows - first), spread = plan->high - plan->low;
    float *sums = job->workers + worker * plan->worker_floats, *band = sums + op_align(OP_MAX_TILE * 2 * conv->kernels->vector);
    op_copy_padded(band, job->d_out, n, first + plan->low, plan->low, rows + spread, plan->band_w);
    for (int panel = 0; panel < conv->panels; panel++) {
        const float *weight = op_panel_weight(conv, panel);
        const ptrdiff_t width = (ptrdiff_t)op_panel_vectors(conv, panel) * conv->kernels->vector;
        for (int i = 0; i < dgrad->stride * dgrad->stride; i++) {
            const int a = i / dgrad->stride, b = i % dgrad->stride;
            const op_phase v = op_phase_of(dgrad, a), h = op_phase_of(dgrad, b);
            for (int row = 0; row < rows && b < job->d_in->w; row++) {
                const int y = (first + row) * dgrad->stride + a;
                const float *from = band + ((ptrdiff_t)(row + v.first - plan->low) * plan->band_w + h.first - plan->low) * K;
                if (y < job->d_in->h) op_phase_row(job, panel, weight, v, h, n, y, b, from, sums);
            }
            weight += v.taps * h.taps * K * width;
        }
    }
}

/* d_in = or, with accumulate, += the gradient of the input. workspace: op_dgrad_workspace() bytes, 64-byte aligned. */
static void op_conv_dgrad(const ten *d_in, const ten *d_out, const op_dgrad *dgrad, bool accumulate, void *workspace, thr_pool *pool) {
    YOLO_ASSERT(d_in->c == dgrad->conv.out_channels && d_out->c == dgrad->conv.in_channels && d_in->n == d_out->n);
    YOLO_ASSERT(d_out->h == (d_in->h + 2 * dgrad->padding - dgrad->kernel) / dgrad->stride + 1);
    YOLO_ASSERT(d_out->w == (d_in->w + 2 * dgrad->padding - dgrad->kernel) / dgrad->stride + 1);
    if (!dgrad->phases) {
        op_conv_fwd(d_in, d_out, &dgrad->conv, accumulate ? d_in : NULL, workspace, pool);
        return;
    }
    op_dgrad_job job = {dgrad, d_in, d_out, accumulate, workspace,
                        op_dgrad_plan(dgrad, d_in->n, d_in->h, d_in->w, thr_pool_size(pool))};
    thr_parallel_for(pool, d_in->n * job.plan.bands, op_phase_body, &job);
}

/* ---- convolution: gradient of the weights ----
   A sum over pixels of outer products d_out(k) x in(s,c), cut into pieces that depend on the shapes alone; each piece has
   its own sums, which are added in the order of the pieces. A piece is cut again by output channels when few pieces would
   hold many sums. 3x3, stride 1: the sum over tiles of 36 outer products of transformed d_out and in; either a piece's
   worker transforms some tiles at a time for itself, or, when the sums are many, the transformed tiles are shared and the
   sums are cut by frequency and output channels. */

enum { OP_WGRAD_ITEMS = 32, OP_WGRAD_SUMS = 512 << 10 /* floats of all pieces together */, OP_WGRAD_PIXELS = 256 /* at once */ };
enum { OP_WGRAD_TILES_LEAST = 32, OP_WGRAD_TILES_MOST = 128 }; /* whose products are summed before they join the others */
enum { OP_WGRAD_OWN = 64 << 10 /* most sums of a piece with tiles of its own */, OP_WGRAD_CUT = 56 /* output channels, with shared tiles */ };

typedef struct op_wgrad {
    const op_kernels *kernels;
    const ten *d_out, *in;
    int kernel, stride, padding;
    bool winograd, shared;
    ptrdiff_t span, sum_row; /* floats of a filter row: S*C, and what they take in the sums (Winograd: C) */
    ptrdiff_t sum_frequency; /* Winograd: sums from frequency to frequency */
    int rows, block;        /* rows of d_out (Winograd: tiles) in all images, and those that are worked on at once */
    int pieces, piece_rows, cuts, cut_channels;
    int band_w, tiles_y, tiles_x;
    ptrdiff_t in_depth, out_depth;         /* Winograd: floats from tile to tile, in and d_out */
    ptrdiff_t in_frequency, out_frequency; /* Winograd: floats from frequency to frequency, in and d_out */
    int64_t piece_floats, worker_floats, shared_floats;
    float *sums, *tiles, *workers, *d_weight, *d_bias;
    int first, count, most; /* shared tiles at hand, and at most */
} op_wgrad;

/* Cuts all rows into pieces, and K into cuts when there are few. */
static void op_wgrad_cut(op_wgrad *job, int K, int items) {
    const int most = (int)YOLO_CLAMP(OP_WGRAD_SUMS / job->piece_floats, 1, OP_WGRAD_ITEMS);
    job->piece_rows = job->shared ? job->rows : (job->rows + most - 1) / most;
    job->pieces = (job->rows + job->piece_rows - 1) / job->piece_rows;
    const int height = 2 * job->kernels->tile_rows, tiles = (K + height - 1) / height; /* less is not worth a copy of the input */
    job->cuts = YOLO_MIN((items + job->pieces - 1) / job->pieces, tiles);
    job->cut_channels = (tiles + job->cuts - 1) / job->cuts * height;
    job->cuts = (K + job->cut_channels - 1) / job->cut_channels;
}

static void op_wgrad_plan_winograd(op_wgrad *job, int C, int K, int n, int out_h, int out_w, int threads) {
    const int vector = job->kernels->vector;
    job->tiles_y = (out_h + OP_WINOGRAD_OUT - 1) / OP_WINOGRAD_OUT;
    job->tiles_x = (out_w + OP_WINOGRAD_OUT - 1) / OP_WINOGRAD_OUT;
    job->rows = n * job->tiles_y * job->tiles_x;
    job->sum_row = (C + vector - 1) / vector * vector;
    job->sum_frequency = (ptrdiff_t)(op_align(K * job->sum_row) | 16);
    job->piece_floats = OP_FREQUENCIES * (int64_t)job->sum_frequency;
    job->shared = job->piece_floats > OP_WGRAD_OWN;
    job->in_depth = (ptrdiff_t)op_align(C);
    job->out_depth = (ptrdiff_t)op_align(K);
    const int64_t tile = (int64_t)sizeof(float) * OP_FREQUENCIES * (job->in_depth + job->out_depth);
    const int64_t fitting = (job->shared ? OP_CACHE : OP_CACHE / 2) / tile;
    job->block = (int)YOLO_CLAMP(fitting, OP_WGRAD_TILES_LEAST, OP_WGRAD_TILES_MOST);
    job->most = job->shared ? (threads + 1) / 2 * job->block : job->block; /* each thread a core's cache */
    job->in_frequency = (ptrdiff_t)((job->most * job->in_depth) | 16);
    job->out_frequency = (ptrdiff_t)((job->most * job->out_depth) | 16);
    const int64_t tiles = OP_FREQUENCIES * (int64_t)(job->in_frequency + job->out_frequency);
    *(job->shared ? &job->shared_floats : &job->worker_floats) = tiles;
    job->worker_floats += OP_FREQUENCIES * (16 + op_align(YOLO_MAX(C, K)));
    op_wgrad_cut(job, K, job->shared ? (K + OP_WGRAD_CUT - 1) / OP_WGRAD_CUT : 1);
}

static op_wgrad op_wgrad_plan(op_isa isa, int C, int K, int kernel, int stride, int padding, int n, int h, int w, int threads) {
    const op_kernels *kernels = op_kernels_for(isa);
    const int out_h = (h + 2 * padding - kernel) / stride + 1, out_w = (w + 2 * padding - kernel) / stride + 1;
    op_wgrad job = {.kernels = kernels, .kernel = kernel, .stride = stride, .padding = padding, .rows = n * out_h};
    job.span = (ptrdiff_t)kernel * C;
    job.winograd = kernel == 3 && stride == 1 && YOLO_MIN(C, K) >= YOLO_MAX(kernels->vector, 8);
    if (job.winograd) {
        op_wgrad_plan_winograd(&job, C, K, n, out_h, out_w, threads);
        return job;
    }
    job.sum_row = (job.span + kernels->vector - 1) / kernels->vector * kernels->vector;
    job.block = YOLO_MIN(YOLO_MAX(OP_WGRAD_PIXELS / out_w, 1), out_h);
    job.band_w = (out_w - 1) * stride + kernel;
    const int64_t band = ((int64_t)(job.block - 1) * stride + kernel) * job.band_w * C;
    job.worker_floats = op_align(band + 2 * kernels->vector);
    job.piece_floats = op_align((int64_t)K * kernel * job.sum_row);
    op_wgrad_cut(&job, K, OP_WGRAD_ITEMS);
    return job;
}

/* Bytes that op_conv_wgrad needs for a forward input of n,h,w and a pool of up to `threads`. */
static size_t op_wgrad_workspace(op_isa isa, int C, int K, int kernel, int stride, int padding, int n, int h, int w, int threads) {
    const op_wgrad plan = op_wgrad_plan(isa, C, K, kernel, stride, padding, n, h, w, threads);
    return (size_t)(plan.pieces * plan.piece_floats + plan.shared_floats + threads * plan.worker_floats) * sizeof(float);
}

/* sums(channels, span) += the outer products of all `pairs`, at their first channels. */
static void op_wgrad_products(const op_kernels *kernels, op_pairs pairs, int channels, ptrdiff_t span, float *sums, ptrdiff_t sum_row) {
    const float *a = pairs.a, *b = pairs.b;
    for (ptrdiff_t c = 0; c < span; c += 2 * kernels->vector) {
        const int vectors = span - c > kernels->vector ? 2 : 1;
        pairs.b = b + c;
        for (int k = 0, rows; k < channels; k += rows) {
            rows = op_tile_height(kernels, channels - k);
            pairs.a = a + k;
            kernels->outer[vectors - 1][rows - 1](sums + k * sum_row + c, sum_row, &pairs);
        }
    }
}

/* Some rows of d_out of one image, from output channel k0 on, with the input rows under them. */
static void op_wgrad_rows(const op_wgrad *job, int n, int y, int rows, int k0, int channels, float *sums, float *band) {
    const ten *d_out = job->d_out, *in = job->in;
    const ptrdiff_t input_row = (ptrdiff_t)job->band_w * in->c;
    const int copied = (rows - 1) * job->stride + job->kernel;
    op_copy_padded(band, in, n, y * job->stride - job->padding, -job->padding, copied, job->band_w);
    memset(band + copied * input_row, 0, 2 * (size_t)job->kernels->vector * sizeof(float));
    op_pairs pairs = {.a = ten_at(d_out, n, y, 0) + k0, .a_pixel = (ptrdiff_t)d_out->pixel, .rows = rows, .columns = d_out->w};
    pairs.a_row = pairs.a_pixel * d_out->w;
    pairs.b = band;
    pairs.b_pixel = (ptrdiff_t)job->stride * in->c;
    pairs.b_row = job->stride * input_row;
    for (int r = 0; r < job->kernel; r++, pairs.b += input_row, sums += job->sum_row)
        op_wgrad_products(job->kernels, pairs, channels, job->span, sums, job->kernel * job->sum_row);
}

static void op_wgrad_body(void *context, int index, int worker) {
    const op_wgrad *job = context;
    const ten *d_out = job->d_out;
    const int piece = index / job->cuts, k0 = index % job->cuts * job->cut_channels;
    const int channels = YOLO_MIN(job->cut_channels, d_out->c - k0), end = YOLO_MIN((piece + 1) * job->piece_rows, job->rows);
    float *sums = job->sums + piece * job->piece_floats + (int64_t)k0 * job->kernel * job->sum_row;
    memset(sums, 0, (size_t)(channels * job->kernel * job->sum_row) * sizeof(float));
    for (int row = piece * job->piece_rows, rows; row < end; row += rows) {
        const int n = row / d_out->h, y = row % d_out->h;
        rows = YOLO_MIN(YOLO_MIN(job->block, end - row), d_out->h - y);
        op_wgrad_rows(job, n, y, rows, k0, channels, sums, job->workers + worker * job->worker_floats);
    }
}

/* Transforms the tile t of both tensors to place `at` of the block at `tiles`. */
static void op_wgrad_gather(const op_wgrad *job, int t, int at, float *tiles, float *scratch) {
    int n, y, x;
    ptrdiff_t pixel, pitch;
    float *copy = scratch + OP_FREQUENCIES * 16;
    op_winograd_place(t, job->tiles_y, job->tiles_x, &n, &y, &x);
    const float *patch = op_winograd_patch(job->in, n, y - job->padding, x - job->padding, OP_WINOGRAD_IN, copy, &pixel, &pitch);
    job->kernels->winograd_in(tiles + at * job->in_depth, job->in_frequency, patch, pixel, pitch, job->in->c, scratch);
    tiles += OP_FREQUENCIES * job->in_frequency;
    patch = op_winograd_patch(job->d_out, n, y, x, OP_WINOGRAD_OUT, copy, &pixel, &pitch);
    job->kernels->winograd_d_out(tiles + at * job->out_depth, job->out_frequency, patch, pixel, pitch, job->d_out->c, scratch);
}

/* One frequency of `count` tiles, from output channel k0 on. */
static void op_wgrad_frequency(const op_wgrad *job, int f, const float *tiles, int count, int k0, int channels, float *sums) {
    op_pairs pairs = {.b = tiles + f * job->in_frequency, .b_pixel = job->in_depth, .a_pixel = job->out_depth, .rows = 1};
    pairs.a = tiles + OP_FREQUENCIES * job->in_frequency + f * job->out_frequency + k0;
    sums += f * job->sum_frequency + k0 * job->sum_row;
    for (int t = 0; t < count; t += pairs.columns) {
        pairs.columns = YOLO_MIN(count - t, job->block);
        op_wgrad_products(job->kernels, pairs, channels, job->in->c, sums, job->sum_row);
        pairs.a += pairs.columns * pairs.a_pixel;
        pairs.b += pairs.columns * pairs.b_pixel;
    }
}

/* A piece whose worker transforms its own tiles. */
static void op_wgrad_own_body(void *context, int piece, int worker) {
    const op_wgrad *job = context;
    float *tiles = job->workers + worker * job->worker_floats;
    float *scratch = tiles + OP_FREQUENCIES * (job->in_frequency + job->out_frequency), *sums = job->sums + piece * job->piece_floats;
    const int end = YOLO_MIN((piece + 1) * job->piece_rows, job->rows);
    memset(sums, 0, (size_t)job->piece_floats * sizeof(float));
    for (int first = piece * job->piece_rows; first < end; first += job->block) {
        const int count = YOLO_MIN(job->block, end - first);
        for (int t = 0; t < count; t++) op_wgrad_gather(job, first + t, t, tiles, scratch);
        for (int f = 0; f < OP_FREQUENCIES; f++) op_wgrad_frequency(job, f, tiles, count, 0, job->d_out->c, sums);
    }
}

static void op_wgrad_gather_body(void *context, int index, int worker) {
    const op_wgrad *job = context;
    op_wgrad_gather(job, job->first + index, index, job->tiles, job->workers + worker * job->worker_floats);
}

static void op_wgrad_shared_body(void *context, int index, int worker) {
    const op_wgrad *job = context;
    const int f = index / job->cuts, k0 = index % job->cuts * job->cut_channels, channels = YOLO_MIN(job->cut_channels, job->d_out->c - k0);
    (void)worker;
    if (job->first == 0)
        memset(job->sums + f * job->sum_frequency + k0 * job->sum_row, 0, (size_t)(channels * job->sum_row) * sizeof(float));
    op_wgrad_frequency(job, f, job->tiles, job->count, k0, channels, job->sums);
}

static void op_wgrad_shared(op_wgrad *job, thr_pool *pool) {
    for (job->first = 0; job->first < job->rows; job->first += job->most) {
        job->count = YOLO_MIN(job->most, job->rows - job->first);
        thr_parallel_for(pool, job->count, op_wgrad_gather_body, job);
        thr_parallel_for(pool, OP_FREQUENCIES * job->cuts, op_wgrad_shared_body, job);
    }
}

/* Adds the pieces of one output channel in their order. */
static void op_wgrad_add_body(void *context, int k, int worker) {
    const op_wgrad *job = context;
    const ptrdiff_t each = (job->winograd ? 1 : job->kernel) * job->sum_row;
    float *sums = job->sums + k * each, *to = job->d_weight + k * job->kernel * job->span;
    (void)worker;
    for (int piece = 1; piece < job->pieces; piece++)
        for (int f = 0; f < (job->winograd ? OP_FREQUENCIES : 1); f++) {
            float *sum = sums + f * job->sum_frequency;
            const float *more = sum + piece * job->piece_floats;
            for (ptrdiff_t i = 0; i < each; i++) sum[i] += more[i];
        }
    if (job->winograd) job->kernels->winograd_d_filter(to, job->in->c, sums, job->sum_frequency, job->in->c);
    for (int r = 0; r < job->kernel && !job->winograd; r++, to += job->span, sums += job->sum_row)
        for (ptrdiff_t i = 0; i < job->span; i++) to[i] += sums[i];
}

enum { OP_BIAS = 16 }; /* channels summed at once */

static void op_bias_body(void *context, int index, int worker) {
    const op_wgrad *job = context;
    const ten *d_out = job->d_out;
    const int k = index * OP_BIAS, count = YOLO_MIN(OP_BIAS, d_out->c - k);
    double total[OP_BIAS] = {0};
    (void)worker;
    for (int64_t row = 0; row < (int64_t)d_out->n * d_out->h; row++) {
        const float *from = d_out->data + row * d_out->w * d_out->pixel + k;
        float sums[OP_BIAS] = {0};
        for (int x = 0; x < d_out->w; x++, from += d_out->pixel)
            for (int i = 0; i < count; i++) sums[i] += from[i];
        for (int i = 0; i < count; i++) total[i] += sums[i];
    }
    for (int i = 0; i < count; i++) job->d_bias[k + i] += (float)total[i];
}

/* d_weight (K,R,S,C) += and, where it is not NULL, d_bias (K) +=. workspace: op_wgrad_workspace() bytes, 64-byte aligned. */
static void op_conv_wgrad(float *d_weight, float *d_bias, const ten *d_out, const ten *in, op_isa isa, int kernel, int stride,
                          int padding, void *workspace, thr_pool *pool) {
    op_wgrad job = op_wgrad_plan(isa, in->c, d_out->c, kernel, stride, padding, in->n, in->h, in->w, thr_pool_size(pool));
    YOLO_ASSERT(d_out->n == in->n && d_out->h == (in->h + 2 * padding - kernel) / stride + 1 &&
                d_out->w == (in->w + 2 * padding - kernel) / stride + 1);
    job.d_weight = d_weight;
    job.d_bias = d_bias;
    job.d_out = d_out;
    job.in = in;
    job.sums = workspace;
    job.tiles = job.sums + job.pieces * job.piece_floats;
    job.workers = job.tiles + job.shared_floats;
    if (job.shared) op_wgrad_shared(&job, pool);
    else thr_parallel_for(pool, job.pieces * job.cuts, job.winograd ? op_wgrad_own_body : op_wgrad_body, &job);
    thr_parallel_for(pool, d_out->c, op_wgrad_add_body, &job);
    if (d_bias) thr_parallel_for(pool, (d_out->c + OP_BIAS - 1) / OP_BIAS, op_bias_body, &job);
}

/* ---- pooling, upsampling, copying ---- */

typedef struct op_map { const ten *out, *in; const op_kernels *kernels; int kernel, stride, padding; } op_map;

enum { OP_POOL_CHANNELS = 16, OP_POOL_COLUMNS = 128, OP_POOL_MAX = 64 };

/* A row of output, some columns and channels at a time: first the maxima of the columns under the windows, then of those. */
static void op_maxpool_body(void *context, int index, int worker) {
    const op_map *map = context;
    const ten *out = map->out, *in = map->in;
    const int n = index / out->h, y = index % out->h * map->stride - map->padding;
    const int top = YOLO_MAX(y, 0), rows = YOLO_MIN(y + map->kernel, in->h) - top;
    const int piece = (OP_POOL_COLUMNS - map->kernel) / map->stride + 1; /* outputs whose columns fit */
    float columns[OP_POOL_COLUMNS * OP_POOL_CHANNELS];
    (void)worker;
    for (int c = 0; c < out->c; c += OP_POOL_CHANNELS)
        for (int x = 0; x < out->w; x += piece) {
            const int count = YOLO_MIN(OP_POOL_CHANNELS, out->c - c), end = YOLO_MIN(x + piece, out->w);
            const int first = YOLO_MAX(x * map->stride - map->padding, 0);
            const int last = YOLO_MIN((end - 1) * map->stride - map->padding + map->kernel, in->w);
            for (int i = first; i < last; i++)
                map->kernels->largest(columns + (i - first) * OP_POOL_CHANNELS, ten_at(in, n, top, i) + c,
                                      (ptrdiff_t)(in->w * in->pixel), rows, count);
            for (int i = x; i < end; i++) {
                const int left = YOLO_MAX(i * map->stride - map->padding, 0);
                const int right = YOLO_MIN(i * map->stride - map->padding + map->kernel, in->w);
                map->kernels->largest(ten_at(out, n, index % out->h, i) + c, columns + (left - first) * OP_POOL_CHANNELS,
                                      OP_POOL_CHANNELS, right - left, count);
            }
        }
}

/* Maximum over windows of kernel <= OP_POOL_MAX; padding, at most half the kernel, is minus infinity. out's size decides how
   many windows. */
static void op_maxpool_fwd(const ten *out, const ten *in, op_isa isa, int kernel, int stride, int padding, thr_pool *pool) {
    YOLO_ASSERT(kernel > 0 && kernel <= OP_POOL_MAX && stride > 0 && 2 * padding <= kernel && out->c == in->c && out->n == in->n);
    op_map map = {out, in, op_kernels_for(isa), kernel, stride, padding};
    thr_parallel_for(pool, out->n * out->h, op_maxpool_body, &map);
}

static void op_upsample2_body(void *context, int index, int worker) {
    const op_map *map = context;
    const ten *in = map->in;
    const size_t bytes = (size_t)in->c * sizeof(float);
    (void)worker;
    for (int x = 0; x < map->out->w; x++) {
        const float *from = ten_at(in, index / in->h, index % in->h, x / 2);
        memcpy(ten_at(map->out, index / in->h, index % in->h * 2, x), from, bytes);
        memcpy(ten_at(map->out, index / in->h, index % in->h * 2 + 1, x), from, bytes);
    }
}

/* Nearest neighbour, twice as high and wide. */
static void op_upsample2_fwd(const ten *out, const ten *in, thr_pool *pool) {
    YOLO_ASSERT(out->n == in->n && out->h == 2 * in->h && out->w == 2 * in->w && out->c == in->c);
    op_map map = {.out = out, .in = in};
    thr_parallel_for(pool, in->n * in->h, op_upsample2_body, &map);
}

static void op_copy_body(void *context, int index, int worker) {
    const op_map *map = context;
    float *to = map->out->data + (int64_t)index * map->out->w * map->out->pixel;
    const float *from = map->in->data + (int64_t)index * map->in->w * map->in->pixel;
    (void)worker;
    for (int x = 0; x < map->in->w; x++, to += map->out->pixel, from += map->in->pixel)
        memcpy(to, from, (size_t)map->in->c * sizeof(float));
}

static void op_copy_fwd(const ten *out, const ten *in, thr_pool *pool) {
    YOLO_ASSERT(out->n == in->n && out->h == in->h && out->w == in->w && out->c == in->c);
    op_map map = {.out = out, .in = in};
    thr_parallel_for(pool, in->n * in->h, op_copy_body, &map);
}

/* ---- batch norm with its activation; backward of pooling, upsampling, copying ---- */

enum { OP_NORM_PIECE = 16384, OP_NORM_ARRAYS = 6 }; /* floats of a piece */

typedef struct op_norm_job {
    const op_norm *norm;
    const op_kernels *kernels;
    ten z, out, residual; /* residual.data NULL = none */
    bool accumulate;
    int pieces;           /* an image's */
    int pixels;           /* in each but the last */
    int64_t padded;       /* floats of a channel array */
    float *partial;       /* two channel arrays a piece */
} op_norm_job;

/* `memory`: OP_NORM_ARRAYS * op_align(channels) floats. */
static void op_norm_place(op_norm *norm, int channels, net_activation activation, float slope, float *memory) {
    const int64_t padded = op_align(channels);
    float **const arrays[OP_NORM_ARRAYS] = {&norm->mean, &norm->inverse, &norm->scale, &norm->shift, &norm->d_shift, &norm->d_mean};
    norm->channels = channels;
    norm->activation = activation;
    norm->slope = slope;
    memset(memory, 0, (size_t)(OP_NORM_ARRAYS * padded) * sizeof *memory);
    for (int i = 0; i < OP_NORM_ARRAYS; i++) *arrays[i] = memory + i * padded;
}

/* The pieces into which a tensor is cut are a function of its shape alone: sums over them have the same bits on any
   number of threads. */
static op_norm_job op_norm_cut(const op_norm *norm, const ten *z, op_isa isa, void *workspace) {
    op_norm_job job = {.norm = norm, .kernels = op_kernels_for(isa), .z = *z, .padded = op_align(norm->channels), .partial = workspace};
    const int64_t pixels = (int64_t)z->h * z->w;
    job.pieces = (int)YOLO_MIN((pixels * z->c + OP_NORM_PIECE - 1) / OP_NORM_PIECE, pixels);
    job.pixels = (int)((pixels + job.pieces - 1) / job.pieces);
    job.pieces = (int)((pixels + job.pixels - 1) / job.pixels);
    YOLO_ASSERT(z->c == norm->channels);
    return job;
}

/* Bytes that op_norm_measure and op_norm_sums need for n,h,w. */
static size_t op_norm_workspace(int channels, int n, int h, int w) {
    const op_norm norm = {.channels = channels};
    const ten z = {.n = n, .h = h, .w = w, .c = channels};
    const op_norm_job job = op_norm_cut(&norm, &z, OP_PORTABLE, NULL);
    return (size_t)(2 * job.padded * job.pieces) * (size_t)n * sizeof(float);
}

static op_norm_rows op_norm_rows_at(const op_norm_job *job, int index) {
    const int image = index / job->pieces, first = index % job->pieces * job->pixels;
    const int64_t pixel = (int64_t)image * job->z.h * job->z.w + first;
    op_norm_rows rows = {.pixels = YOLO_MIN(job->pixels, job->z.h * job->z.w - first), .accumulate = job->accumulate};
    rows.z = job->z.data + pixel * job->z.pixel;
    rows.z_step = (ptrdiff_t)job->z.pixel;
    if (job->out.data) rows.out = job->out.data + pixel * job->out.pixel;
    rows.out_step = (ptrdiff_t)job->out.pixel;
    if (job->residual.data) rows.residual = job->residual.data + pixel * job->residual.pixel;
    rows.residual_step = (ptrdiff_t)job->residual.pixel;
    rows.sums = job->partial + 2 * index * job->padded;
    rows.products = rows.sums + job->padded;
    return rows;
}

static void op_norm_moments_body(void *context, int index, int worker) {
    const op_norm_job *job = context;
    const op_norm_rows rows = op_norm_rows_at(job, index);
    (void)worker;
    job->kernels->moments(rows.sums, rows.products, rows.z, rows.z_step, rows.pixels, job->z.c);
}
static void op_norm_sums_body(void *context, int index, int worker) {
    const op_norm_job *job = context;
    const op_norm_rows rows = op_norm_rows_at(job, index);
    (void)worker;
    job->kernels->norm_sums(job->norm, &rows);
}
static void op_norm_fwd_body(void *context, int index, int worker) {
    const op_norm_job *job = context;
    const op_norm_rows rows = op_norm_rows_at(job, index);
    (void)worker;
    job->kernels->norm_fwd(job->norm, &rows);
}
static void op_norm_bwd_body(void *context, int index, int worker) {
    const op_norm_job *job = context;
    const op_norm_rows rows = op_norm_rows_at(job, index);
    (void)worker;
    job->kernels->norm_bwd(job->norm, &rows);
}

/* Mean and (biased) variance of a channel from the pieces' moments. */
static void op_norm_combine(const op_norm_job *job, int channel, double *mean, double *variance) {
    const int64_t pixels = (int64_t)job->z.h * job->z.w, all = pixels * job->z.n;
    const float *partial = job->partial + channel;
    double sum = 0, squares = 0;
    for (int i = 0; i < job->z.n * job->pieces; i++)
        sum += (double)partial[2 * i * job->padded] * YOLO_MIN(job->pixels, pixels - i % job->pieces * job->pixels);
    *mean = sum / (double)all;
    for (int i = 0; i < job->z.n * job->pieces; i++) {
        const double count = YOLO_MIN(job->pixels, pixels - i % job->pieces * job->pixels);
        const double off = partial[2 * i * job->padded] - *mean;
        squares += partial[(2 * i + 1) * job->padded] + count * off * off;
    }
    *variance = squares / (double)all;
}

/* What a channel's mean and variance make of z. */
static void op_norm_set(op_norm *norm, int channel, double mean, double variance, double eps, float gamma, float beta) {
    const double inverse = 1 / sqrt(variance + eps);
    norm->mean[channel] = (float)mean;
    norm->inverse[channel] = (float)inverse;
    norm->scale[channel] = (float)(gamma * inverse);
    norm->shift[channel] = beta;
    norm->d_shift[channel] = norm->d_mean[channel] = 0;
}

/* Statistics of the batch z, put to use, and into the running ones (with `momentum`, variance unbiased). */
static void op_norm_measure(op_norm *norm, const ten *z, const float *gamma, const float *beta, float *running_mean, float *running_variance,
                            double eps, double momentum, op_isa isa, void *workspace, thr_pool *pool) {
    op_norm_job job = op_norm_cut(norm, z, isa, workspace);
    const double count = (double)z->n * z->h * z->w;
    thr_parallel_for(pool, z->n * job.pieces, op_norm_moments_body, &job);
    for (int c = 0; c < z->c; c++) {
        double mean, variance;
        op_norm_combine(&job, c, &mean, &variance);
        op_norm_set(norm, c, mean, variance, eps, gamma[c], beta[c]);
        const double unbiased = variance * count / YOLO_MAX(count - 1, 1);
        running_mean[c] = (float)(running_mean[c] * (1 - momentum) + mean * momentum);
        running_variance[c] = (float)(running_variance[c] * (1 - momentum) + unbiased * momentum);
    }
}

/* out = activation(norm(z)), plus residual where it is not NULL; out may be z or residual itself. */
static void op_norm_fwd(const ten *out, const ten *z, const op_norm *norm, const ten *residual, op_isa isa, thr_pool *pool) {
    op_norm_job job = op_norm_cut(norm, z, isa, NULL);
    job.out = *out;
    if (residual) job.residual = *residual;
    thr_parallel_for(pool, z->n * job.pieces, op_norm_fwd_body, &job);
}

/* d_gamma and d_beta +=, and what of d_z comes through the statistics of the batch; before op_norm_bwd. */
static void op_norm_sums(op_norm *norm, float *d_gamma, float *d_beta, const ten *d_out, const ten *z, op_isa isa, void *workspace, thr_pool *pool) {
    op_norm_job job = op_norm_cut(norm, z, isa, workspace);
    job.out = *d_out;
    const double count = (double)z->n * z->h * z->w;
    thr_parallel_for(pool, z->n * job.pieces, op_norm_sums_body, &job);
    for (int c = 0; c < z->c; c++) {
        double sum = 0, product = 0;
        for (int i = 0; i < z->n * job.pieces; i++) {
            sum += job.partial[2 * i * job.padded + c];
            product += job.partial[(2 * i + 1) * job.padded + c];
        }
        const double inverse = norm->inverse[c];
        d_gamma[c] += (float)(product * inverse);
        d_beta[c] += (float)sum;
        norm->d_shift[c] = (float)(norm->scale[c] * sum / count);
        norm->d_mean[c] = (float)(norm->scale[c] * inverse * inverse * product / count);
    }
}

/* Turns d (the gradient of the output) into that of z; d_residual, where it is not NULL, gets d before, += when `accumulate`. */
static void op_norm_bwd(const ten *d, const ten *d_residual, bool accumulate, const ten *z, const op_norm *norm, op_isa isa, thr_pool *pool) {
    op_norm_job job = op_norm_cut(norm, z, isa, NULL);
    job.out = *d;
    job.accumulate = accumulate;
    if (d_residual) job.residual = *d_residual;
    thr_parallel_for(pool, z->n * job.pieces, op_norm_bwd_body, &job);
}

typedef struct op_back { const ten *d_in, *d_out, *in, *out; const op_kernels *kernels; int kernel, stride, padding; bool accumulate; } op_back;

static void op_copy_bwd_body(void *context, int index, int worker) {
    const op_back *job = context;
    (void)worker;
    for (int x = 0; x < job->d_in->w; x++) {
        const float *from = ten_at(job->d_out, 0, index, x);
        job->kernels->sum(ten_at(job->d_in, 0, index, x), &from, 1, job->d_in->c, job->accumulate);
    }
}

/* d_in (= or +=) d_out. */
static void op_copy_bwd(const ten *d_in, const ten *d_out, bool accumulate, op_isa isa, thr_pool *pool) {
    YOLO_ASSERT(d_out->n == d_in->n && d_out->h == d_in->h && d_out->w == d_in->w && d_out->c == d_in->c);
    op_back job = {.d_in = d_in, .d_out = d_out, .kernels = op_kernels_for(isa), .accumulate = accumulate};
    thr_parallel_for(pool, d_in->n * d_in->h, op_copy_bwd_body, &job);
}

static void op_upsample2_bwd_body(void *context, int index, int worker) {
    const op_back *job = context;
    (void)worker;
    for (int x = 0; x < job->d_in->w; x++) {
        const float *above = ten_at(job->d_out, 0, 2 * index, 2 * x), *below = ten_at(job->d_out, 0, 2 * index + 1, 2 * x);
        const float *four[4] = {above, above + job->d_out->pixel, below, below + job->d_out->pixel};
        job->kernels->sum(ten_at(job->d_in, 0, index, x), four, 4, job->d_in->c, job->accumulate);
    }
}

/* d_in (= or +=) the sum of the four pixels that each became. */
static void op_upsample2_bwd(const ten *d_in, const ten *d_out, bool accumulate, op_isa isa, thr_pool *pool) {
    YOLO_ASSERT(d_out->n == d_in->n && d_out->h == 2 * d_in->h && d_out->w == 2 * d_in->w && d_out->c == d_in->c);
    op_back job = {.d_in = d_in, .d_out = d_out, .kernels = op_kernels_for(isa), .accumulate = accumulate};
    thr_parallel_for(pool, d_in->n * d_in->h, op_upsample2_bwd_body, &job);
}

static void op_zero_body(void *context, int index, int worker) {
    const ten *t = context;
    (void)worker;
    for (int x = 0; x < t->w; x++) memset(ten_at(t, 0, index, x), 0, (size_t)t->c * sizeof(float));
}

static void op_zero(const ten *t, thr_pool *pool) {
    ten copy = *t;
    thr_parallel_for(pool, t->n * t->h, op_zero_body, &copy);
}

/* Some channels of an image. */
static void op_maxpool_bwd_body(void *context, int index, int worker) {
    const op_back *job = context;
    const ten *in = job->in, *out = job->out;
    const int blocks = (in->c + OP_POOL_CHANNELS - 1) / OP_POOL_CHANNELS, n = index / blocks, c = index % blocks * OP_POOL_CHANNELS;
    op_window window = {.step = (ptrdiff_t)in->pixel, .pitch = (ptrdiff_t)(in->pixel * in->w), .d_step = (ptrdiff_t)job->d_in->pixel,
                        .d_pitch = (ptrdiff_t)(job->d_in->pixel * in->w), .channels = YOLO_MIN(OP_POOL_CHANNELS, in->c - c)};
    (void)worker;
    for (int y = 0; y < out->h; y++)
        for (int x = 0; x < out->w; x++) {
            const int top = YOLO_MAX(y * job->stride - job->padding, 0), left = YOLO_MAX(x * job->stride - job->padding, 0);
            window.rows = YOLO_MIN(y * job->stride - job->padding + job->kernel, in->h) - top;
            window.columns = YOLO_MIN(x * job->stride - job->padding + job->kernel, in->w) - left;
            window.in = ten_at(in, n, top, left) + c;
            window.d_in = ten_at(job->d_in, n, top, left) + c;
            job->kernels->largest_bwd(&window, ten_at(out, n, y, x) + c, ten_at(job->d_out, n, y, x) + c);
        }
}

/* d_in += d_out at the first largest pixel of each window, row by row, as torch chooses; in and out as they were in
   op_maxpool_fwd. */
static void op_maxpool_bwd(const ten *d_in, const ten *d_out, const ten *in, const ten *out, op_isa isa, int kernel, int stride,
                           int padding, thr_pool *pool) {
    op_back job = {d_in, d_out, in, out, op_kernels_for(isa), kernel, stride, padding, true};
    YOLO_ASSERT(d_in->c == in->c && d_out->c == in->c && out->c == in->c && d_out->h == out->h && d_out->w == out->w);
    thr_parallel_for(pool, in->n * ((in->c + OP_POOL_CHANNELS - 1) / OP_POOL_CHANNELS), op_maxpool_bwd_body, &job);
}

/* ==== 15 run_: executor =========================================================================================
   run_weights are a graph's convolutions with batch norm folded in, packed for one instruction set; they are shared by
   any number of lanes and read-only but for run_weights_refresh, which runs alone. A lane is the memory of one forward pass at a time: one block of activations laid
   out by the plan of section 12, and one workspace that the operators use in turn. run_lane_shape plans another size
   in the memory that is there when it suffices; run_forward never allocates. */

typedef struct run_weights {
    const net *net;
    op_isa isa;
    op_conv *convolutions; /* an entry an operator; empty for others */
} run_weights;

typedef struct run_lane {
    const run_weights *weights;
    const net *net;
    thr_pool *pool;         /* NULL = the calling thread alone */
    int n, h, w;
    net_buffer *buffers;    /* net->buffers with this lane's sizes and places */
    float *activations; int64_t activation_floats;
    void *workspace; size_t workspace_bytes;
} run_lane;

/* weight (K,R,S,C) and bias (K) of a convolution with its batch norm folded in, computed in double precision. */
static void run_fold(const net *net, const net_op *op, const float *params, float *weight, float *bias) {
    const net_param *w = &net->params[op->weight];
    const float *gamma = params + net->params[op->bn].offset, *beta = params + net->params[op->bn + 1].offset;
    const float *mean = params + net->params[op->bn + 2].offset, *variance = params + net->params[op->bn + 3].offset;
    int64_t outputs = w->dims[0], each = w->count / outputs;
    for (int64_t k = 0; k < outputs; k++) {
        double scale = gamma[k] / sqrt((double)variance[k] + net->bn_eps);
        const float *from = params + w->offset + k * each;
        for (int64_t i = 0; i < each; i++) weight[k * each + i] = (float)(from[i] * scale);
        bias[k] = (float)(beta[k] - mean[k] * scale);
    }
}

/* Makes the operator's convolution, or fills the one that is there with other weights. */
static yolo_status run_pack(const net *net, const net_op *op, op_isa isa, const float *params, float *weight, float *bias,
                            op_conv *conv, thr_pool *pool, yolo_error *error) {
    const float *plain = params + net->params[op->weight].offset, *plain_bias = op->bias < 0 ? NULL : params + net->params[op->bias].offset;
    yolo_status status = YOLO_OK;
    if (op->bn >= 0) {
        run_fold(net, op, params, weight, bias);
        plain = weight;
        plain_bias = bias;
    }
    if (!conv->weight) {
        status = op_conv_create(conv, isa, net->tensors[op->in].channels, net->tensors[op->out].channels, op->kernel,
                                op->stride, op->padding, op->activation, plain, plain_bias, error);
        conv->slope = (float)net->slope;
    } else {
        op_conv_repack(conv, plain, pool);
        if (plain_bias) memcpy(conv->bias, plain_bias, (size_t)conv->out_channels * sizeof(float));
    }
    return status;
}

static void run_weights_destroy(run_weights *weights) {
    if (!weights) return;
    for (int i = 0; weights->convolutions && i < weights->net->op_count; i++)
        if (weights->net->ops[i].kind == NET_CONV) op_conv_destroy(&weights->convolutions[i]);
    mem_free(weights->convolutions);
    mem_free(weights);
}

/* Takes over other parameters (laid out by the net's parameter table), in the memory that is there, while no lane runs;
   `params` is not needed afterwards. On failure nothing has changed. */
static yolo_status run_weights_refresh(run_weights *weights, const float *params, thr_pool *pool, yolo_error *error) {
    const net *net = weights->net;
    int64_t elements = 0, channels = 0;
    for (int i = 0; i < net->op_count; i++) {
        if (net->ops[i].kind != NET_CONV) continue;
        elements = YOLO_MAX(elements, net->params[net->ops[i].weight].count);
        channels = YOLO_MAX(channels, net->params[net->ops[i].weight].dims[0]);
    }
    float *weight = mem_array((uint64_t)elements, sizeof *weight), *bias = mem_array((uint64_t)channels, sizeof *bias);
    yolo_status status = weight && bias ? YOLO_OK : err_memory(error, (uint64_t)elements * sizeof *weight);
    for (int i = 0; i < net->op_count && status == YOLO_OK; i++)
        if (net->ops[i].kind == NET_CONV)
            status = run_pack(net, &net->ops[i], weights->isa, params, weight, bias, &weights->convolutions[i], pool, error);
    mem_free(weight);
    mem_free(bias);
    return status;
}

/* `net` must outlive the result, `params` need not. */
static yolo_status run_weights_create(run_weights **out, const net *net, const float *params, op_isa isa, yolo_error *error) {
    yolo_status status = YOLO_OK;
    *out = mem_array(1, sizeof **out);
    if (*out) **out = (run_weights){net, isa, mem_array((uint64_t)net->op_count, sizeof(op_conv))};
    if (!*out || !(*out)->convolutions) status = err_memory(error, (uint64_t)net->op_count * sizeof(op_conv));
    if (status == YOLO_OK) status = run_weights_refresh(*out, params, NULL, error);
    if (status != YOLO_OK) {
        run_weights_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* Bytes of workspace that the widest operator wants at the lane's size. */
static size_t run_workspace(const run_lane *lane) {
    size_t most = 0;
    for (int i = 0; i < lane->net->op_count; i++) {
        const net_op *op = &lane->net->ops[i];
        const net_buffer *in = &lane->buffers[lane->net->tensors[op->in].buffer];
        if (op->kind != NET_CONV) continue;
        size_t bytes = op_conv_workspace(&lane->weights->convolutions[i], lane->n, in->h, in->w, thr_pool_size(lane->pool));
        most = YOLO_MAX(most, bytes);
    }
    return most;
}

/* Replaces *block when it is smaller than wanted; the old contents are lost. On failure all is as it was. */
static bool run_reserve(void *block, uint64_t have, uint64_t wanted) {
    void *old, *larger;
    if (wanted <= have) return true;
    if (wanted > MEM_CAP || !(larger = mem_alloc((size_t)wanted))) return false;
    memcpy(&old, block, sizeof old);
    mem_free(old);
    memcpy(block, &larger, sizeof larger);
    return true;
}

/* Plans the lane for another input size; allocates only when it is larger than any before. On error the lane keeps
   its size. The contents of input and heads are lost. */
static yolo_status run_lane_shape(run_lane *lane, int n, int h, int w, yolo_error *error) {
    if (lane->n == n && lane->h == h && lane->w == w) return YOLO_OK;
    yolo_status status = net_check_size(lane->net, n, h, w, error);
    if (status != YOLO_OK) return status;
    int old_n = lane->n, old_h = lane->h, old_w = lane->w;
    int64_t floats = net_plan(lane->buffers, lane->net->plan_order, lane->net->plan_count, n, h, w);
    lane->n = n;
    lane->h = h;
    lane->w = w;
    size_t bytes = run_workspace(lane);
    if (run_reserve(&lane->activations, (uint64_t)lane->activation_floats * 4, (uint64_t)floats * 4)) {
        lane->activation_floats = YOLO_MAX(lane->activation_floats, floats);
        if (run_reserve(&lane->workspace, lane->workspace_bytes, bytes)) {
            lane->workspace_bytes = YOLO_MAX(lane->workspace_bytes, bytes);
            return YOLO_OK;
        }
    }
    lane->n = old_n;
    lane->h = old_h;
    lane->w = old_w;
    if (old_n) net_plan(lane->buffers, lane->net->plan_order, lane->net->plan_count, old_n, old_h, old_w);
    return err_memory(error, (uint64_t)floats * 4 + bytes);
}

static void run_lane_destroy(run_lane *lane) {
    if (!lane) return;
    mem_free(lane->buffers);
    mem_free(lane->activations);
    mem_free(lane->workspace);
    mem_free(lane);
}

/* A lane for inputs of up to n,h,w, which is also its first size. weights, net and pool (NULL = no threads) outlive it;
   lanes that run at the same time have different pools. */
static yolo_status run_lane_create(run_lane **out, const run_weights *weights, const net *net, thr_pool *pool, int n, int h,
                                   int w, yolo_error *error) {
    YOLO_ASSERT(weights->net == net);
    yolo_status status = YOLO_OK;
    *out = mem_array(1, sizeof **out);
    if (!*out) return err_memory(error, sizeof **out);
    **out = (run_lane){.weights = weights, .net = net, .pool = pool};
    (*out)->buffers = mem_array((uint64_t)net->buffer_count, sizeof *net->buffers);
    if (!(*out)->buffers) status = err_memory(error, (uint64_t)net->buffer_count * sizeof *net->buffers);
    else {
        memcpy((*out)->buffers, net->buffers, (size_t)net->buffer_count * sizeof *net->buffers);
        status = run_lane_shape(*out, n, h, w, error);
    }
    if (status != YOLO_OK) {
        run_lane_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* Bytes that weights and a lane without threads for n,h,w will take, without taking them. */
static yolo_status run_measure(const net *net, op_isa isa, int n, int h, int w, uint64_t *weights, uint64_t *lane, yolo_error *error) {
    yolo_status status = net_check_size(net, n, h, w, error);
    if (status != YOLO_OK) return status;
    const run_weights plan = {net, isa, mem_array((uint64_t)net->op_count, sizeof(op_conv))};
    run_lane probe = {.weights = &plan, .net = net, .n = n, .h = h, .w = w, .buffers = mem_array((uint64_t)net->buffer_count, sizeof *net->buffers)};
    *weights = *lane = 0;
    if (!plan.convolutions || !probe.buffers) status = err_memory(error, (uint64_t)net->op_count * sizeof(op_conv));
    for (int i = 0; status == YOLO_OK && i < net->op_count; i++) {
        const net_op *op = &net->ops[i];
        op_conv *conv = &plan.convolutions[i];
        if (op->kind != NET_CONV) continue;
        op_conv_init(conv, isa, net->tensors[op->in].channels, net->tensors[op->out].channels, op->kernel, op->stride, op->padding, op->activation, true);
        *weights += (uint64_t)(op_conv_floats(conv) + op_conv_bias_floats(conv)) * sizeof(float);
    }
    if (status == YOLO_OK) {
        memcpy(probe.buffers, net->buffers, (size_t)net->buffer_count * sizeof *net->buffers);
        *lane = (uint64_t)net_plan(probe.buffers, net->plan_order, net->plan_count, n, h, w) * sizeof(float);
        *lane += run_workspace(&probe);
    }
    mem_free(plan.convolutions);
    mem_free(probe.buffers);
    return status;
}

static ten run_view(const run_lane *lane, int tensor) {
    const net_tensor *t = &lane->net->tensors[tensor];
    const net_buffer *buffer = &lane->buffers[t->buffer];
    return (ten){lane->activations + buffer->offset + t->channel, lane->n, buffer->h, buffer->w, t->channels, buffer->channels};
}

/* (n,h,w,3), to be filled before run_forward, which leaves it as it is. */
static float *run_lane_input(run_lane *lane) { return run_view(lane, lane->net->input).data; }

/* (n,h,w,4*16+classes) of a detection level: raw logits of the last run_forward. */
static ten run_lane_head(const run_lane *lane, int level) { return run_view(lane, lane->net->heads[level]); }

static void run_op(const run_lane *lane, int i) {
    const net_op *op = &lane->net->ops[i];
    ten in = run_view(lane, op->in), out = run_view(lane, op->out), residual;
    switch (op->kind) {
    case NET_CONV:
        if (op->residual >= 0) residual = run_view(lane, op->residual);
        op_conv_fwd(&out, &in, &lane->weights->convolutions[i], op->residual >= 0 ? &residual : NULL, lane->workspace, lane->pool);
        break;
    case NET_MAXPOOL: op_maxpool_fwd(&out, &in, lane->weights->isa, op->kernel, op->stride, op->padding, lane->pool); break;
    case NET_UPSAMPLE: op_upsample2_fwd(&out, &in, lane->pool); break;
    case NET_COPY: op_copy_fwd(&out, &in, lane->pool); break;
    }
}

static void run_forward(run_lane *lane) {
    for (int i = 0; i < lane->net->op_count; i++) run_op(lane, i);
}

/* As run_forward, with the milliseconds of each operator. */
static void run_forward_timed(run_lane *lane, double *ms_per_op) {
    for (int i = 0; i < lane->net->op_count; i++) {
        double start = os_clock();
        run_op(lane, i);
        ms_per_op[i] = (os_clock() - start) * 1000;
    }
}

/* An open model: what the public calls of section 28 hand out, and what sections 17 to 27 work with. */
struct yolo_model {
    pt_model checkpoint;
    thr_pool *pool;
    run_weights *weights;
    run_lane *lane;         /* NULL until the first prediction */
    op_isa isa;
    int threads;
};

/* ==== 16 grad_: training pass ======================================================================================
   Forward with batch norm in batch mode, and backward, over the graph of section 12. A pass owns all of its memory;
   grad_shape plans another size in what is there when it suffices; grad_forward and grad_backward never allocate.

   1. Operator i of N runs forward at time i, the loss at N, operator i backward at 2N - i. Every buffer of the graph, its
      gradient, and every convolution's result before batch norm (z) lives for a part of that time, and one plan places them
      all in one block: gradients come to lie where activations are no longer needed. Input, heads and gradients of heads
      are lost in grad_backward.
   2. The gradient of a convolution's output is turned in place into that of z: all readers of the output come later, so
      they have been through the backward before.
   3. The first to hand a gradient to a channel, in the order of the backward, writes it and the others add to it. Who is
      first is decided once; where only some of an operator's channels have a gradient by then, the others are zeroed.
   4. An operator takes part in the backward when it or something before it learns and a gradient reaches it.
   5. A frozen layer uses its running statistics, leaves them as they are, and its rows get no gradient.
   6. Weights are packed just before they are used, one operator's at a time in the same memory. */

typedef enum grad_write { GRAD_NONE, GRAD_SET, GRAD_ADD } grad_write; /* how an operator hands a gradient on */

typedef struct grad_fill { int buffer, channel, channels; } grad_fill; /* channels of a gradient to be zeroed */

typedef struct grad_op {
    bool learns, back;
    grad_write in, residual;
    int first_fill, fill_count; /* before its backward */
    net_tensor z;
    op_conv conv;
    op_dgrad dgrad;
    op_norm norm;
} grad_op;

typedef struct grad_memory { uint64_t activations, gradients, weights, workspace; } grad_memory; /* bytes */

typedef struct grad_pass {
    const net *net;
    op_isa isa;
    thr_pool *pool;      /* NULL = the calling thread alone */
    int threads;
    arena arena;         /* holds the arrays below */
    bool *frozen;        /* per layer */
    grad_op *ops;
    net_buffer *buffers; /* the graph's, as many gradients, then a z per operator */
    int buffer_count;
    int *order, order_count;
    grad_fill *fills;
    int fill_count;
    int64_t fill_capacity;
    int n, h, w;
    const float *params; /* of the last grad_forward */
    float *block; int64_t block_floats;
    float *norms;        /* what the backward needs of each batch norm */
    float *packed;       /* weights and, at packed_bias, biases of the operator that runs */
    int64_t norm_floats, packed_bias, packed_floats;
    void *workspace; size_t workspace_bytes;
    grad_memory memory;
} grad_pass;

/* Planning what takes part and how. `marks` has an entry for every channel of every buffer of the graph. */

typedef struct grad_marks { const net *net; bool *marks; int *first; /* of a buffer */ } grad_marks;

static bool *grad_marks_of(const grad_marks *m, int tensor) {
    const net_tensor *t = &m->net->tensors[tensor];
    return m->marks + m->first[t->buffer] + t->channel;
}

static int grad_count(const grad_marks *m, int tensor) {
    const bool *marks = grad_marks_of(m, tensor);
    int count = 0;
    for (int c = 0; c < m->net->tensors[tensor].channels; c++) count += marks[c];
    return count;
}

static void grad_mark(const grad_marks *m, int tensor) {
    memset(grad_marks_of(m, tensor), true, (size_t)m->net->tensors[tensor].channels * sizeof(bool));
}

/* Which operators learn, or lead to one that does; `in` and `residual` become GRAD_ADD where a gradient is wanted. */
static void grad_find_learners(grad_pass *pass, const grad_marks *wanted) {
    for (int i = 0; i < pass->net->op_count; i++) {
        const net_op *op = &pass->net->ops[i];
        grad_op *g = &pass->ops[i];
        g->learns = op->kind == NET_CONV && !pass->frozen[op->layer];
        g->in = grad_count(wanted, op->in) ? GRAD_ADD : GRAD_NONE;
        g->residual = op->residual >= 0 && grad_count(wanted, op->residual) ? GRAD_ADD : GRAD_NONE;
        g->back = g->learns || g->in || g->residual;
        if (g->back) grad_mark(wanted, op->out);
    }
}

/* Zeroes what of a tensor's gradient is not there when operator `op` runs backward. */
static bool grad_fill_rest(grad_pass *pass, grad_op *g, const grad_marks *there, int tensor) {
    const net_tensor *t = &pass->net->tensors[tensor];
    const bool *marks = grad_marks_of(there, tensor);
    for (int c = 0, end; c < t->channels; c = end) {
        for (end = c + 1; end < t->channels && marks[end] == marks[c];) end++;
        if (marks[c]) continue;
        if (!mem_grow(&pass->fills, &pass->fill_capacity, pass->fill_count + 1, sizeof *pass->fills)) return false;
        pass->fills[pass->fill_count++] = (grad_fill){t->buffer, t->channel + c, end - c};
        g->fill_count++;
    }
    grad_mark(there, tensor);
    return true;
}

/* Decides how the gradient of `tensor` is written; pooling can only add. */
static bool grad_plan_write(grad_pass *pass, grad_op *g, const grad_marks *there, int tensor, bool adds, grad_write *write) {
    if (*write == GRAD_NONE) return true;
    if (grad_count(there, tensor) || adds) return grad_fill_rest(pass, g, there, tensor);
    grad_mark(there, tensor);
    *write = GRAD_SET;
    return true;
}

/* Walks back from the heads, whose gradients are all there. */
static bool grad_plan_writes(grad_pass *pass, const grad_marks *there) {
    for (int j = 0; j < pass->net->level_count; j++) grad_mark(there, pass->net->heads[j]);
    for (int i = pass->net->op_count - 1; i >= 0; i--) {
        const net_op *op = &pass->net->ops[i];
        grad_op *g = &pass->ops[i];
        g->back = g->back && grad_count(there, op->out) > 0;
        g->first_fill = pass->fill_count;
        if (!g->back) {
            g->learns = false;
            g->in = g->residual = GRAD_NONE;
            continue;
        }
        if (!grad_fill_rest(pass, g, there, op->out)) return false;
        if (op->residual >= 0 && !grad_plan_write(pass, g, there, op->residual, false, &g->residual)) return false;
        if (!grad_plan_write(pass, g, there, op->in, op->kind == NET_MAXPOOL, &g->in)) return false;
    }
    return true;
}

static void grad_live(grad_pass *pass, int buffer, int time) {
    net_buffer *b = &pass->buffers[buffer];
    b->first_op = YOLO_MIN(b->first_op, time);
    b->last_op = YOLO_MAX(b->last_op, time);
}

/* The lives of the buffers an operator touches, see 1 above. */
static void grad_plan_lives(grad_pass *pass, int i) {
    const net *net = pass->net;
    const net_op *op = &net->ops[i];
    grad_op *g = &pass->ops[i];
    const int in = net->tensors[op->in].buffer, out = net->tensors[op->out].buffer, back = 2 * net->op_count - i;
    const int residual = op->residual < 0 ? -1 : net->tensors[op->residual].buffer;
    grad_live(pass, in, i);
    grad_live(pass, out, i);
    if (residual >= 0) grad_live(pass, residual, i);
    g->z = net->tensors[op->out];
    if (!g->back) return;
    const bool pool = op->kind == NET_MAXPOOL;
    if (g->learns || pool) grad_live(pass, in, back);
    if (pool) grad_live(pass, out, back);
    grad_live(pass, net->buffer_count + out, back);
    if (g->in) grad_live(pass, net->buffer_count + in, back);
    if (g->residual) grad_live(pass, net->buffer_count + residual, back);
    if (op->bn < 0) return;
    g->z = (net_tensor){2 * net->buffer_count + i, 0, net->tensors[op->out].channels};
    grad_live(pass, g->z.buffer, i);
    grad_live(pass, g->z.buffer, back);
}

static void grad_plan_buffers(grad_pass *pass) {
    const net *net = pass->net;
    for (int i = 0; i < pass->buffer_count; i++) {
        net_buffer *b = &pass->buffers[i];
        if (i < 2 * net->buffer_count) *b = net->buffers[i % net->buffer_count];
        else *b = (net_buffer){.channels = net->tensors[net->ops[i - 2 * net->buffer_count].out].channels,
                               .down = net->buffers[net->tensors[net->ops[i - 2 * net->buffer_count].out].buffer].down};
        b->first_op = INT_MAX;
        b->last_op = -1;
    }
    for (int i = 0; i < net->op_count; i++) grad_plan_lives(pass, i);
    grad_live(pass, net->tensors[net->input].buffer, 0);
    for (int j = 0; j < net->level_count; j++) {
        grad_live(pass, net->tensors[net->heads[j]].buffer, net->op_count);
        grad_live(pass, net->buffer_count + net->tensors[net->heads[j]].buffer, net->op_count);
    }
}

static bool grad_plan_graph(grad_pass *pass) {
    const net *net = pass->net;
    int channels = 0;
    for (int i = 0; i < net->buffer_count; i++) channels += net->buffers[i].channels;
    grad_marks marks = {net, mem_array((uint64_t)channels, sizeof(bool)), mem_array((uint64_t)net->buffer_count, sizeof(int))};
    bool planned = marks.marks && marks.first;
    for (int i = 1; planned && i < net->buffer_count; i++) marks.first[i] = marks.first[i - 1] + net->buffers[i - 1].channels;
    if (planned) {
        grad_find_learners(pass, &marks);
        memset(marks.marks, 0, (size_t)channels * sizeof(bool));
        planned = grad_plan_writes(pass, &marks);
    }
    if (planned) grad_plan_buffers(pass);
    mem_free(marks.marks);
    mem_free(marks.first);
    return planned;
}

/* Memory. */

/* Shapes of the operators, and the floats of weights and statistics. */
static void grad_plan_operators(grad_pass *pass) {
    const net *net = pass->net;
    for (int i = 0; i < net->op_count; i++) {
        const net_op *op = &net->ops[i];
        grad_op *g = &pass->ops[i];
        const int in = net->tensors[op->in].channels, out = net->tensors[op->out].channels;
        if (op->kind != NET_CONV) continue;
        YOLO_ASSERT(op->bn >= 0 || op->activation == NET_LINEAR);
        op_conv_init(&g->conv, pass->isa, in, out, op->kernel, op->stride, op->padding, NET_LINEAR, true);
        pass->packed_bias = YOLO_MAX(pass->packed_bias, op_conv_floats(&g->conv));
        pass->packed_floats = YOLO_MAX(pass->packed_floats, op_conv_bias_floats(&g->conv));
        if (op->bn >= 0) pass->norm_floats += OP_NORM_ARRAYS * op_align(out);
        if (!g->in) continue;
        op_dgrad_init(&g->dgrad, pass->isa, in, out, op->kernel, op->stride, op->padding);
        pass->packed_bias = YOLO_MAX(pass->packed_bias, op_conv_floats(&g->dgrad.conv));
        pass->packed_floats = YOLO_MAX(pass->packed_floats, op_conv_bias_floats(&g->dgrad.conv));
    }
    pass->packed_floats += pass->packed_bias;
}

/* Bytes of workspace that an operator wants. */
static size_t grad_op_workspace(const grad_pass *pass, int i) {
    const net *net = pass->net;
    const net_op *op = &net->ops[i];
    const grad_op *g = &pass->ops[i];
    const net_buffer *in = &pass->buffers[net->tensors[op->in].buffer], *out = &pass->buffers[net->tensors[op->out].buffer];
    const int K = net->tensors[op->out].channels;
    if (op->kind != NET_CONV) return 0;
    size_t most = op_conv_workspace(&g->conv, pass->n, in->h, in->w, pass->threads);
    if (op->bn >= 0) most = YOLO_MAX(most, op_norm_workspace(K, pass->n, out->h, out->w));
    if (g->in) most = YOLO_MAX(most, op_dgrad_workspace(&g->dgrad, pass->n, in->h, in->w, pass->threads));
    if (g->learns)
        most = YOLO_MAX(most, op_wgrad_workspace(pass->isa, net->tensors[op->in].channels, K, op->kernel, op->stride, op->padding,
                                                 pass->n, in->h, in->w, pass->threads));
    return most;
}

/* Places everything for n,h,w and fills pass->memory; the places are what grad_create or grad_shape then have room for. */
static void grad_place(grad_pass *pass, int n, int h, int w) {
    const net *net = pass->net;
    size_t workspace = 0;
    pass->n = n;
    pass->h = h;
    pass->w = w;
    int activations = 0, *order = pass->order + pass->buffer_count;
    for (int i = 0; i < pass->order_count; i++) {
        const int at = pass->order[i];
        if (at < net->buffer_count || at >= 2 * net->buffer_count) order[activations++] = at;
    }
    const uint64_t alone = (uint64_t)net_plan(pass->buffers, order, activations, n, h, w) * sizeof(float);
    const uint64_t all = (uint64_t)net_plan(pass->buffers, pass->order, pass->order_count, n, h, w) * sizeof(float);
    for (int i = 0; i < net->op_count; i++) workspace = YOLO_MAX(workspace, grad_op_workspace(pass, i));
    pass->memory = (grad_memory){alone, YOLO_MAX(all, alone) - alone, (uint64_t)(pass->norm_floats + pass->packed_floats) * sizeof(float), workspace};
}

static void grad_destroy(grad_pass *pass) {
    if (!pass) return;
    mem_free(pass->fills);
    mem_free(pass->block);
    mem_free(pass->norms);
    mem_free(pass->packed);
    mem_free(pass->workspace);
    arena_free(&pass->arena);
    mem_free(pass);
}

/* A pass that is planned for n,h,w but has no memory yet. */
static yolo_status grad_open(grad_pass **out, const net *net, op_isa isa, thr_pool *pool, int threads, const bool *frozen, int n,
                             int h, int w, yolo_error *error) {
    *out = NULL;
    if (net->fused)
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "this model's batch norms are folded into its convolutions (a fused checkpoint), so it "
                       "cannot be trained; train from the checkpoint that it was fused from");
    yolo_status status = net_check_size(net, n, h, w, error);
    if (status != YOLO_OK) return status;
    grad_pass *pass = *out = mem_array(1, sizeof *pass);
    if (!pass) return err_memory(error, sizeof *pass);
    *pass = (grad_pass){.net = net, .isa = isa, .pool = pool, .threads = threads, .buffer_count = 2 * net->buffer_count + net->op_count};
    pass->frozen = arena_array(&pass->arena, (uint64_t)net->layer_count, sizeof *pass->frozen);
    pass->ops = arena_array(&pass->arena, (uint64_t)net->op_count, sizeof *pass->ops);
    pass->buffers = arena_array(&pass->arena, (uint64_t)pass->buffer_count, sizeof *pass->buffers);
    pass->order = arena_array(&pass->arena, 2 * (uint64_t)pass->buffer_count, sizeof *pass->order);
    if (frozen && pass->frozen) memcpy(pass->frozen, frozen, (size_t)net->layer_count * sizeof *frozen);
    if (!pass->frozen || !pass->ops || !pass->buffers || !pass->order || !grad_plan_graph(pass)) {
        grad_destroy(pass);
        *out = NULL;
        return err_memory(error, (uint64_t)pass->buffer_count * sizeof *pass->buffers);
    }
    pass->order_count = net_order(pass->buffers, pass->buffer_count, pass->order);
    grad_plan_operators(pass);
    grad_place(pass, n, h, w);
    return YOLO_OK;
}

/* Bytes that grad_create will take, without taking them. */
static yolo_status grad_measure(const net *net, op_isa isa, int threads, int n, int h, int w, grad_memory *out, yolo_error *error) {
    grad_pass *pass;
    yolo_status status = grad_open(&pass, net, isa, NULL, threads, NULL, n, h, w, error);
    if (status == YOLO_OK) *out = pass->memory;
    grad_destroy(pass);
    return status;
}

/* Makes room for what grad_place has planned. */
static bool grad_reserve(grad_pass *pass) {
    const int64_t floats = (int64_t)((pass->memory.activations + pass->memory.gradients) / sizeof(float));
    if (!run_reserve(&pass->block, (uint64_t)pass->block_floats * sizeof(float), (uint64_t)floats * sizeof(float))) return false;
    pass->block_floats = YOLO_MAX(pass->block_floats, floats);
    if (!run_reserve(&pass->workspace, pass->workspace_bytes, pass->memory.workspace)) return false;
    pass->workspace_bytes = YOLO_MAX(pass->workspace_bytes, (size_t)pass->memory.workspace);
    return true;
}

/* Plans the pass for another input size; allocates only when it needs more than any before. On error it keeps its size. The
   contents of input and heads are lost. */
static yolo_status grad_shape(grad_pass *pass, int n, int h, int w, yolo_error *error) {
    if (pass->n == n && pass->h == h && pass->w == w) return YOLO_OK;
    const int old_n = pass->n, old_h = pass->h, old_w = pass->w;
    yolo_status status = net_check_size(pass->net, n, h, w, error);
    if (status != YOLO_OK) return status;
    grad_place(pass, n, h, w);
    if (grad_reserve(pass)) return YOLO_OK;
    const grad_memory wanted = pass->memory;
    grad_place(pass, old_n, old_h, old_w);
    return err_memory(error, wanted.activations + wanted.gradients + wanted.workspace);
}

/* A pass for inputs of n,h,w at first. `frozen`, NULL = nothing, has an entry a layer and is copied; net and pool (NULL = no
   threads) outlive the pass. */
static yolo_status grad_create(grad_pass **out, const net *net, op_isa isa, thr_pool *pool, const bool *frozen, int n, int h, int w,
                               yolo_error *error) {
    yolo_status status = grad_open(out, net, isa, pool, thr_pool_size(pool), frozen, n, h, w, error);
    if (status != YOLO_OK) return status;
    grad_pass *pass = *out;
    pass->norms = mem_alloc((size_t)pass->norm_floats * sizeof(float));
    pass->packed = mem_alloc((size_t)pass->packed_floats * sizeof(float));
    if (!pass->norms || !pass->packed || !grad_reserve(pass)) {
        const grad_memory wanted = pass->memory;
        grad_destroy(pass);
        *out = NULL;
        return err_memory(error, wanted.activations + wanted.gradients + wanted.weights + wanted.workspace);
    }
    float *norm = pass->norms;
    for (int i = 0; i < net->op_count; i++) {
        const net_op *op = &net->ops[i];
        grad_op *g = &pass->ops[i];
        g->conv.weight = g->dgrad.conv.weight = pass->packed;
        g->conv.bias = g->dgrad.conv.bias = pass->packed + pass->packed_bias;
        if (op->bn < 0) continue;
        op_norm_place(&g->norm, net->tensors[op->out].channels, op->activation, (float)net->slope, norm);
        norm += OP_NORM_ARRAYS * op_align(g->norm.channels);
    }
    return YOLO_OK;
}

static ten grad_view(const grad_pass *pass, net_tensor t) {
    const net_buffer *b = &pass->buffers[t.buffer];
    return (ten){pass->block + b->offset + t.channel, pass->n, b->h, b->w, t.channels, b->channels};
}

static ten grad_activation(const grad_pass *pass, int tensor) { return grad_view(pass, pass->net->tensors[tensor]); }

static ten grad_gradient(const grad_pass *pass, int tensor) {
    net_tensor t = pass->net->tensors[tensor];
    t.buffer += pass->net->buffer_count;
    return grad_view(pass, t);
}

/* (n,h,w,3), to be filled before grad_forward. */
static float *grad_input(grad_pass *pass) { return grad_activation(pass, pass->net->input).data; }

/* (n,h,w,4*16+classes) of a detection level: raw logits, after grad_forward, and where their gradient goes before
   grad_backward, every element of it. */
static ten grad_head(const grad_pass *pass, int level) { return grad_activation(pass, pass->net->heads[level]); }
static ten grad_head_gradient(const grad_pass *pass, int level) { return grad_gradient(pass, pass->net->heads[level]); }

/* The statistics of a batch norm for this batch, or the running ones when its layer is frozen. */
static void grad_forward_norm(grad_pass *pass, int i, const ten *z, float *params) {
    const net *net = pass->net;
    const net_op *op = &net->ops[i];
    float *rows[5];
    for (int j = 0; j < YOLO_COUNT(rows); j++) rows[j] = params + net->params[op->bn + j].offset;
    if (pass->frozen[op->layer]) {
        for (int c = 0; c < z->c; c++) op_norm_set(&pass->ops[i].norm, c, rows[2][c], rows[3][c], net->bn_eps, rows[0][c], rows[1][c]);
        return;
    }
    op_norm_measure(&pass->ops[i].norm, z, rows[0], rows[1], rows[2], rows[3], net->bn_eps, net->bn_momentum, pass->isa, pass->workspace, pass->pool);
    rows[4][0] += 1;
}

static void grad_forward_conv(grad_pass *pass, int i, float *params) {
    const net *net = pass->net;
    const net_op *op = &net->ops[i];
    grad_op *g = &pass->ops[i];
    ten in = grad_activation(pass, op->in), out = grad_activation(pass, op->out), z = grad_view(pass, g->z), residual;
    if (op->residual >= 0) residual = grad_activation(pass, op->residual);
    memset(g->conv.bias, 0, (size_t)op_conv_bias_floats(&g->conv) * sizeof(float));
    if (op->bias >= 0) memcpy(g->conv.bias, params + net->params[op->bias].offset, (size_t)out.c * sizeof(float));
    op_conv_repack(&g->conv, params + net->params[op->weight].offset, pass->pool);
    op_conv_fwd(&z, &in, &g->conv, op->bn < 0 && op->residual >= 0 ? &residual : NULL, pass->workspace, pass->pool);
    if (op->bn < 0) return;
    grad_forward_norm(pass, i, &z, params);
    op_norm_fwd(&out, &z, &g->norm, op->residual >= 0 ? &residual : NULL, pass->isa, pass->pool);
}

static void grad_forward_op(grad_pass *pass, int i, float *params) {
    const net_op *op = &pass->net->ops[i];
    ten in = grad_activation(pass, op->in), out = grad_activation(pass, op->out);
    switch (op->kind) {
    case NET_CONV: grad_forward_conv(pass, i, params); break;
    case NET_MAXPOOL: op_maxpool_fwd(&out, &in, pass->isa, op->kernel, op->stride, op->padding, pass->pool); break;
    case NET_UPSAMPLE: op_upsample2_fwd(&out, &in, pass->pool); break;
    case NET_COPY: op_copy_fwd(&out, &in, pass->pool); break;
    }
}

/* From grad_input to the heads. `params` are read, and the running statistics among them brought up to date; they stay as
   they are until grad_backward. */
static void grad_forward(grad_pass *pass, float *params) {
    pass->params = params;
    for (int i = 0; i < pass->net->op_count; i++) grad_forward_op(pass, i, params);
}

static void grad_backward_conv(grad_pass *pass, int i, float *gradients) {
    const net *net = pass->net;
    const net_op *op = &net->ops[i];
    grad_op *g = &pass->ops[i];
    ten in = grad_activation(pass, op->in), z = grad_view(pass, g->z), d = grad_gradient(pass, op->out), d_residual;
    if (g->residual) d_residual = grad_gradient(pass, op->residual);
    if (op->bn >= 0) {
        if (g->learns)
            op_norm_sums(&g->norm, gradients + net->params[op->bn].offset, gradients + net->params[op->bn + 1].offset, &d, &z, pass->isa,
                         pass->workspace, pass->pool);
        op_norm_bwd(&d, g->residual ? &d_residual : NULL, g->residual == GRAD_ADD, &z, &g->norm, pass->isa, pass->pool);
    } else if (g->residual) op_copy_bwd(&d_residual, &d, g->residual == GRAD_ADD, pass->isa, pass->pool);
    if (g->learns)
        op_conv_wgrad(gradients + net->params[op->weight].offset, op->bias < 0 ? NULL : gradients + net->params[op->bias].offset, &d, &in,
                      pass->isa, op->kernel, op->stride, op->padding, pass->workspace, pass->pool);
    if (!g->in) return;
    ten d_in = grad_gradient(pass, op->in);
    memset(g->dgrad.conv.bias, 0, (size_t)op_conv_bias_floats(&g->dgrad.conv) * sizeof(float));
    op_dgrad_pack(&g->dgrad, pass->params + net->params[op->weight].offset, pass->pool);
    op_conv_dgrad(&d_in, &d, &g->dgrad, g->in == GRAD_ADD, pass->workspace, pass->pool);
}

static void grad_backward_op(grad_pass *pass, int i, float *gradients) {
    const net_op *op = &pass->net->ops[i];
    const grad_op *g = &pass->ops[i];
    for (int j = 0; j < g->fill_count; j++) {
        const grad_fill *fill = &pass->fills[g->first_fill + j];
        ten t = grad_view(pass, (net_tensor){pass->net->buffer_count + fill->buffer, fill->channel, fill->channels});
        op_zero(&t, pass->pool);
    }
    if (op->kind == NET_CONV) {
        grad_backward_conv(pass, i, gradients);
        return;
    }
    ten d_in = grad_gradient(pass, op->in), d_out = grad_gradient(pass, op->out);
    if (op->kind == NET_MAXPOOL) {
        ten in = grad_activation(pass, op->in), out = grad_activation(pass, op->out);
        op_maxpool_bwd(&d_in, &d_out, &in, &out, pass->isa, op->kernel, op->stride, op->padding, pass->pool);
    } else if (op->kind == NET_UPSAMPLE) op_upsample2_bwd(&d_in, &d_out, g->in == GRAD_ADD, pass->isa, pass->pool);
    else op_copy_bwd(&d_in, &d_out, g->in == GRAD_ADD, pass->isa, pass->pool);
}

/* gradients += those of every row that learns, from grad_head_gradient of all levels. */
static void grad_backward(grad_pass *pass, float *gradients) {
    for (int i = pass->net->op_count - 1; i >= 0; i--)
        if (pass->ops[i].back) grad_backward_op(pass, i, gradients);
}

/* ==== 17 det_ nms_ pipe_: head decoding and suppression, pictures in and boxes out ==============================
   From raw head views to boxes with ultralytics' semantics, for one picture of a batch at a time; nothing is kept
   between calls, so any number of threads may do it at once. Anchors are rejected on their class logits, which costs a
   comparison a class; exponentials are for survivors. NaN never survives: every test is written so that it fails. */

typedef struct det_options {
    float conf, iou;     /* kept: score > conf; suppressed: overlap > iou */
    int max_det;
    bool agnostic;       /* boxes of different classes suppress each other */
    bool multi_label;    /* an anchor gives a box for each class above conf, not for its best class only */
    const int *classes;  /* keep these only; NULL = all */
    int class_count;
} det_options;

enum { NMS_MOST = 30000 }; /* REF ultralytics/utils/nms.py max_nms, max_wh */
#define NMS_CLASS_OFFSET 7680.0f

typedef struct nms_candidate { float x1, y1, x2, y2, score; int32_t class_id, order; } nms_candidate;
typedef struct nms_list { nms_candidate *items; int64_t count, capacity; } nms_list;
typedef struct nms_kept { float x1, y1, x2, y2, area; int32_t next; } nms_kept;

/* By falling score; equal ones in the order they came, which makes the order a stable sort's. */
static int nms_compare(const void *left, const void *right) {
    const nms_candidate *a = left, *b = right;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->order > b->order) - (a->order < b->order);
}

/* REF torchvision nms: intersection over union in floats, strictly above the threshold. */
static bool nms_overlaps(const nms_kept *a, const nms_kept *b, float threshold) {
    float w = YOLO_MAX(0.0f, YOLO_MIN(a->x2, b->x2) - YOLO_MAX(a->x1, b->x1));
    float h = YOLO_MAX(0.0f, YOLO_MIN(a->y2, b->y2) - YOLO_MAX(a->y1, b->y1));
    float both = w * h;
    return both / (a->area + b->area - both) > threshold;
}

/* Sorts the candidates in place and moves the best of each cluster into *out, at most max_det. A candidate meets only
   kept boxes of its class (ultralytics shifts classes apart to the same end; the shift stays because its rounding
   decides borderline overlaps), so the cost is n log n + n * kept boxes of a class. */
static yolo_status nms_run(nms_list *list, int class_count, const det_options *options, yolo_boxes *out, yolo_error *error) {
    qsort(list->items, (size_t)list->count, sizeof *list->items, nms_compare);
    int64_t count = YOLO_MIN(list->count, NMS_MOST), most = YOLO_MIN(count, options->max_det);
    int chains = options->agnostic ? 1 : class_count;
    nms_kept *kept = mem_array((uint64_t)most, sizeof *kept);
    int32_t *heads = mem_array((uint64_t)chains, sizeof *heads);
    out->items = mem_array((uint64_t)most, sizeof *out->items);
    out->count = 0;
    yolo_status status = kept && heads && out->items ? YOLO_OK : err_memory(error, (uint64_t)most * (sizeof *kept + sizeof *out->items));
    for (int c = 0; status == YOLO_OK && c < chains; c++) heads[c] = -1;
    for (int64_t i = 0; status == YOLO_OK && i < count && out->count < most; i++) {
        const nms_candidate *item = &list->items[i];
        int chain = options->agnostic ? 0 : item->class_id, other;
        float shift = NMS_CLASS_OFFSET * (float)chain;
        nms_kept box = {item->x1 + shift, item->y1 + shift, item->x2 + shift, item->y2 + shift, 0, heads[chain]};
        box.area = (box.x2 - box.x1) * (box.y2 - box.y1);
        for (other = heads[chain]; other >= 0 && !nms_overlaps(&kept[other], &box, options->iou);) other = kept[other].next;
        if (other >= 0) continue;
        heads[chain] = out->count;
        kept[out->count] = box;
        out->items[out->count++] = (yolo_box){item->x1, item->y1, item->x2, item->y2, item->score, item->class_id};
    }
    mem_free(kept);
    mem_free(heads);
    if (status != YOLO_OK) {
        mem_free(out->items);
        out->items = NULL;
    }
    return status;
}

static float det_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* Expected value of one side's distribution, in cells. REF ultralytics/nn/modules/block.py DFL */
static float det_distance(const float *logits) {
    float most = logits[0], sum = 0, weighted = 0;
    for (int i = 1; i < NET_REG_MAX; i++) most = YOLO_MAX(most, logits[i]);
    for (int i = 0; i < NET_REG_MAX; i++) {
        float e = expf(logits[i] - most);
        sum += e;
        weighted += e * (float)i;
    }
    return weighted / sum;
}

/* Centre and size in network pixels of the anchor in cell (x, y). REF ultralytics/utils/tal.py dist2bbox */
static void det_centre_size(const float *logits, int x, int y, int stride, float *box) {
    float side[4];
    for (int s = 0; s < 4; s++) side[s] = det_distance(logits + s * NET_REG_MAX);
    float ax = (float)x + 0.5f, ay = (float)y + 0.5f;
    float x1 = ax - side[0], y1 = ay - side[1], x2 = ax + side[2], y2 = ay + side[3];
    box[0] = (x1 + x2) / 2 * (float)stride;
    box[1] = (y1 + y2) / 2 * (float)stride;
    box[2] = (x2 - x1) * (float)stride;
    box[3] = (y2 - y1) * (float)stride;
}

static bool det_wanted(const det_options *options, int class_id) {
    if (!options->classes) return true;
    for (int i = 0; i < options->class_count; i++)
        if (options->classes[i] == class_id) return true;
    return false;
}

static bool det_push(nms_list *list, const float *corners, float score, int class_id) {
    if (list->count >= INT32_MAX || !mem_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) return false;
    list->items[list->count] = (nms_candidate){corners[0], corners[1], corners[2], corners[3], score, class_id, (int32_t)list->count};
    list->count++;
    return true;
}

/* The boxes of one anchor of which a class may be above the threshold. False for want of memory. */
static bool det_anchor(nms_list *list, const float *logits, int x, int y, int stride, int class_count, float threshold,
                       const det_options *options) {
    const float *classes = logits + 4 * NET_REG_MAX;
    float box[4], best = 0;
    int best_class = -1;
    det_centre_size(logits, x, y, stride, box);
    float w = box[2] / 2, h = box[3] / 2;
    float corners[4] = {box[0] - w, box[1] - h, box[0] + w, box[1] + h};
    if (!(isfinite(corners[0]) && isfinite(corners[1]) && isfinite(corners[2]) && isfinite(corners[3]))) return true;
    for (int c = 0; c < class_count; c++) {
        if (!(classes[c] > threshold)) continue;
        float score = det_sigmoid(classes[c]);
        if (!(score > options->conf)) continue;
        if (!options->multi_label) {
            if (best_class < 0 || score > best) {
                best = score;
                best_class = c;
            }
        } else if (det_wanted(options, c) && !det_push(list, corners, score, c)) return false;
    }
    return best_class < 0 || !det_wanted(options, best_class) || det_push(list, corners, best, best_class);
}

/* Counts in integers, because compilers vectorise that and not a maximum of floats. */
static int det_above(const float *logits, int count, float threshold) {
    int above = 0;
    for (int i = 0; i < count; i++) above += logits[i] > threshold;
    return above;
}

/* Boxes of picture `image` of the batch, in network pixels, by falling score; free with yolo_boxes_free.
   REF ultralytics/utils/nms.py non_max_suppression (no time limit) */
static yolo_status det_run(const net *net, const ten *heads, int image, const det_options *options, yolo_boxes *out,
                           yolo_error *error) {
    nms_list list = {0};
    yolo_status status = YOLO_OK;
    /* A little low: the exact test is on the score itself. conf 0 and 1 give infinities, which are right. */
    float threshold = logf(options->conf / (1 - options->conf)) - 1e-3f;
    det_options effective = *options;
    effective.multi_label = options->multi_label && net->class_count > 1;
    memset(out, 0, sizeof *out);
    for (int level = 0; level < net->level_count; level++) {
        const ten *head = &heads[level];
        YOLO_ASSERT(head->c == 4 * NET_REG_MAX + net->class_count && image < head->n);
        for (int y = 0; y < head->h && status == YOLO_OK; y++)
            for (int x = 0; x < head->w && status == YOLO_OK; x++) {
                const float *logits = ten_at(head, image, y, x);
                if (det_above(logits + 4 * NET_REG_MAX, net->class_count, threshold) &&
                    !det_anchor(&list, logits, x, y, net->strides[level], net->class_count, threshold, &effective))
                    status = err_memory(error, (uint64_t)list.capacity * 2 * sizeof *list.items);
            }
    }
    if (status == YOLO_OK && list.count) status = nms_run(&list, net->class_count, &effective, out, error);
    mem_free(list.items);
    return status;
}

/* From network pixels to pixels of the picture, clipped to it. Each side has its own scale, because the letterbox
   rounded each to whole pixels. REF ultralytics/utils/ops.py scale_boxes, clip_boxes */
static void det_unletterbox(yolo_boxes *boxes, const img_letterbox *letterbox, int width, int height) {
    float gain_x = (float)((double)letterbox->scaled_width / width), gain_y = (float)((double)letterbox->scaled_height / height);
    for (int i = 0; i < boxes->count; i++) {
        yolo_box *b = &boxes->items[i];
        b->x1 = YOLO_CLAMP((b->x1 - (float)letterbox->pad_left) / gain_x, 0.0f, (float)width);
        b->x2 = YOLO_CLAMP((b->x2 - (float)letterbox->pad_left) / gain_x, 0.0f, (float)width);
        b->y1 = YOLO_CLAMP((b->y1 - (float)letterbox->pad_top) / gain_y, 0.0f, (float)height);
        b->y2 = YOLO_CLAMP((b->y2 - (float)letterbox->pad_top) / gain_y, 0.0f, (float)height);
    }
}

/* Predict's options as decoding takes them: the best class of an anchor only. */
static det_options det_predict_options(const yolo_predict_options *options) {
    return (det_options){.conf = options->conf, .iou = options->iou, .max_det = options->max_det,
                         .agnostic = options->agnostic_nms, .classes = options->classes, .class_count = options->class_count};
}

/* Are these options in range? *imgsz is rounded up to what the network can halve. REF ultralytics/utils/checks.py
   check_imgsz */
static yolo_status det_check(const net *net, int *imgsz, const det_options *options, yolo_error *error) {
    enum { LARGEST = 16384 };
    if (*imgsz < 1 || *imgsz > LARGEST)
        return err_set(error, YOLO_ERROR_USAGE, "imgsz=%d: expected 1 to %d pixels", *imgsz, LARGEST);
    if (!(options->conf >= 0 && options->conf <= 1))
        return err_set(error, YOLO_ERROR_USAGE, "conf=%g: expected 0 to 1", (double)options->conf);
    if (!(options->iou >= 0 && options->iou <= 1))
        return err_set(error, YOLO_ERROR_USAGE, "iou=%g: expected 0 to 1", (double)options->iou);
    if (options->max_det < 1) return err_set(error, YOLO_ERROR_USAGE, "max_det=%d: expected 1 or more", options->max_det);
    for (int i = 0; options->classes && i < options->class_count; i++)
        if (options->classes[i] < 0 || options->classes[i] >= net->class_count)
            return err_set(error, YOLO_ERROR_USAGE, "classes: %d is no class, expected 0 to %d", options->classes[i], net->class_count - 1);
    *imgsz = (*imgsz + net->max_stride - 1) / net->max_stride * net->max_stride;
    return YOLO_OK;
}

/* ---- pictures in, boxes out ----
   Loaders decode ahead, lanes infer, the calling thread takes the results in order. A lane is a thread with its own
   activations over shared weights: pictures in parallel scale better than the loops within one. */

/* One picture on its way through. All of it is valid until `result` returns. */
typedef struct pipe_picture {
    int64_t index;
    const char *path;
    const char *damage;      /* why it could not be read, or NULL; then there are no boxes and width is 0 */
    int width, height;       /* of the original, after orientation */
    yolo_image image;        /* only with keep_images; `work` may draw into it */
    yolo_boxes boxes;        /* pixels of the original, or of the network with network_boxes; by falling score */
    img_letterbox letterbox;
    double decode_ms, preprocess_ms, inference_ms, postprocess_ms; /* of the thread that did it */
    void *work_data;         /* the caller's: set in `work`, used in `result` */
} pipe_picture;

typedef struct pipe_job {
    const net *net;
    const run_weights *weights;
    thr_pool *pool;          /* NULL = single-threaded */
    int threads;             /* lanes at most; 0 = as many as the pool has */
    int64_t count;
    const char *(*path)(void *user, int64_t index); /* any thread; the text outlives the run */
    /* Where the picture goes in the network's input; any thread. NULL = predict's letterbox by imgsz and rect. */
    void (*plan)(void *user, int64_t index, int width, int height, img_letterbox *plan);
    int imgsz;               /* rounded up to a multiple of the stride */
    bool rect;
    det_options detect;
    bool network_boxes, keep_images;
    /* On a lane's thread, several at a time, in no order, before `work`: sees the lane after its forward pass, input
       and raw heads, and the picture's boxes. Not for damaged pictures. NULL = none. */
    yolo_status (*heads)(void *user, pipe_picture *picture, run_lane *lane, yolo_error *error);
    /* On a lane's thread, several at a time, in no order: drawing, encoding, writing files. NULL = none. */
    yolo_status (*work)(void *user, pipe_picture *picture, yolo_error *error);
    /* On the calling thread, in the order of the list, for damaged pictures too. NULL = none. */
    yolo_status (*result)(void *user, pipe_picture *picture, yolo_error *error);
    void *user;
} pipe_job;

typedef struct pipe_line pipe_line;
typedef struct pipe_lane { run_lane *run; pipe_line *line; os_thread thread; } pipe_lane;

typedef enum pipe_stage { PIPE_EMPTY, PIPE_LOADED, PIPE_CLAIMED, PIPE_DONE } pipe_stage;
typedef struct pipe_slot {
    pipe_picture picture;
    pipe_stage stage;
    uint64_t bytes;          /* of the decoded picture while it is held */
    yolo_error damage;
} pipe_slot;

/* Indices consumed <= run <= load <= end; index i lives in slot i % slot_count from load to consumption, so at most
   slot_count pictures are on their way. Everything below is under the mutex but a slot's picture, which belongs to the
   thread that claimed it. Indices are claimed in order, so what is delivered is a prefix of the list. */
struct pipe_line {
    const pipe_job *job;
    os_mutex mutex;
    os_condition changed;
    pipe_slot *slots;
    int slot_count;
    int64_t load, run, consumed, end;
    uint64_t bytes;          /* decoded pictures held */
    yolo_status status;      /* the first failure; everyone leaves on it */
    yolo_error error;
    pipe_lane *lanes;
    int lane_count;
};

enum { PIPE_HELD_BYTES = 256 << 20 }; /* loaders wait while decoded pictures hold more */

/* Lanes a job runs in: one a thread, or for a few pictures a single one that uses the whole pool for each. */
static int pipe_lane_count(const pipe_job *job) {
    int threads = job->threads > 0 ? job->threads : thr_pool_size(job->pool);
    return job->count < 2 * (int64_t)threads ? 1 : threads;
}

/* picture->letterbox, ->width and ->height are set; gives boxes and times. */
static yolo_status pipe_infer(pipe_lane *lane, const net *net, const yolo_image *image, const det_options *detect,
                              bool network_boxes, pipe_picture *picture, yolo_error *error) {
    const img_letterbox *plan = &picture->letterbox;
    double start = os_clock();
    yolo_status status = run_lane_shape(lane->run, 1, plan->height, plan->width, error);
    if (status != YOLO_OK) return status;
    img_letterbox_run(plan, image, run_lane_input(lane->run));
    double prepared = os_clock();
    run_forward(lane->run);
    double inferred = os_clock();
    ten heads[NET_MAX_LEVELS];
    for (int level = 0; level < net->level_count; level++) heads[level] = run_lane_head(lane->run, level);
    status = det_run(net, heads, 0, detect, &picture->boxes, error);
    if (status == YOLO_OK && !network_boxes) det_unletterbox(&picture->boxes, plan, picture->width, picture->height);
    picture->preprocess_ms = (prepared - start) * 1e3;
    picture->inference_ms = (inferred - prepared) * 1e3;
    picture->postprocess_ms = (os_clock() - inferred) * 1e3;
    return status;
}

static void pipe_load(const pipe_job *job, pipe_slot *slot, int64_t index) {
    pipe_picture *picture = &slot->picture;
    memset(picture, 0, sizeof *picture);
    slot->bytes = 0;
    picture->index = index;
    picture->path = job->path(job->user, index);
    double start = os_clock();
    if (codec_read(picture->path, &picture->image, &slot->damage) != YOLO_OK) {
        picture->damage = slot->damage.message;
        return;
    }
    picture->decode_ms = (os_clock() - start) * 1e3;
    picture->width = picture->image.width;
    picture->height = picture->image.height;
    slot->bytes = (uint64_t)picture->width * (uint64_t)picture->height * 3;
}

static void pipe_drop_image(pipe_picture *picture) {
    mem_free(picture->image.pixels);
    memset(&picture->image, 0, sizeof picture->image);
}

static yolo_status pipe_process(const pipe_job *job, pipe_lane *lane, pipe_slot *slot, yolo_error *error) {
    pipe_picture *picture = &slot->picture;
    yolo_status status = YOLO_OK;
    if (!picture->damage) {
        if (job->plan) job->plan(job->user, picture->index, picture->width, picture->height, &picture->letterbox);
        else picture->letterbox = img_letterbox_plan(picture->width, picture->height, job->imgsz, job->rect, job->net->max_stride);
        status = pipe_infer(lane, job->net, &picture->image, &job->detect, job->network_boxes, picture, error);
        if (status == YOLO_OK && job->heads) status = job->heads(job->user, picture, lane->run, error);
        if (!job->keep_images) pipe_drop_image(picture);
    }
    if (status == YOLO_OK && job->work) status = job->work(job->user, picture, error);
    return status;
}

static void pipe_release(pipe_slot *slot) {
    pipe_drop_image(&slot->picture);
    mem_free(slot->picture.boxes.items);
    memset(&slot->picture.boxes, 0, sizeof slot->picture.boxes);
    slot->stage = PIPE_EMPTY;
}

static yolo_status pipe_interrupted(const pipe_job *job, int64_t done, yolo_error *error) {
    return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted after %lld of %lld pictures", (long long)done, (long long)job->count);
}

/* Under the mutex. An interrupt ends the list behind the pictures in hand. */
static bool pipe_leaving(pipe_line *p) {
    if (err_interrupted && p->end > p->run) {
        p->end = p->run;
        os_condition_wake_all(&p->changed);
    }
    return p->status != YOLO_OK;
}

/* Under the mutex. */
static void pipe_fail(pipe_line *p, yolo_status status, const yolo_error *error) {
    if (p->status == YOLO_OK) {
        p->status = status;
        p->error = *error;
    }
    os_condition_wake_all(&p->changed);
}

static OS_THREAD_RESULT OS_THREAD_CALL pipe_loader_main(void *argument) {
    pipe_line *p = argument;
    os_mutex_lock(&p->mutex);
    for (;;) {
        while (!pipe_leaving(p) && p->load < p->end && (p->load - p->consumed >= p->slot_count || p->bytes > PIPE_HELD_BYTES))
            os_condition_wait(&p->changed, &p->mutex);
        if (p->status != YOLO_OK || p->load >= p->end) break;
        int64_t index = p->load++;
        pipe_slot *slot = &p->slots[index % p->slot_count];
        os_mutex_unlock(&p->mutex);
        pipe_load(p->job, slot, index);
        os_mutex_lock(&p->mutex);
        p->bytes += slot->bytes;
        slot->stage = PIPE_LOADED;
        os_condition_wake_all(&p->changed);
    }
    os_mutex_unlock(&p->mutex);
    return 0;
}

static OS_THREAD_RESULT OS_THREAD_CALL pipe_lane_main(void *argument) {
    pipe_lane *lane = argument;
    pipe_line *p = lane->line;
    yolo_error error;
    os_mutex_lock(&p->mutex);
    for (;;) {
        while (!pipe_leaving(p) && p->run < p->end && p->slots[p->run % p->slot_count].stage != PIPE_LOADED)
            os_condition_wait(&p->changed, &p->mutex);
        if (p->status != YOLO_OK || p->run >= p->end) break;
        pipe_slot *slot = &p->slots[p->run++ % p->slot_count];
        slot->stage = PIPE_CLAIMED; /* else the lane that comes round to this slot takes it for the next picture */
        os_mutex_unlock(&p->mutex);
        yolo_status status = pipe_process(p->job, lane, slot, &error);
        os_mutex_lock(&p->mutex);
        if (!slot->picture.image.pixels) {
            p->bytes -= slot->bytes;
            slot->bytes = 0;
        }
        slot->stage = PIPE_DONE;
        os_condition_wake_all(&p->changed);
        if (status != YOLO_OK) pipe_fail(p, status, &error);
    }
    os_mutex_unlock(&p->mutex);
    return 0;
}

/* Hands finished pictures over in order until the list ends or something fails. */
static void pipe_deliver(pipe_line *p) {
    yolo_error error;
    os_mutex_lock(&p->mutex);
    for (;;) {
        pipe_slot *slot = &p->slots[p->consumed % p->slot_count];
        while (!pipe_leaving(p) && p->consumed < p->end && slot->stage != PIPE_DONE) os_condition_wait(&p->changed, &p->mutex);
        if (p->status != YOLO_OK || p->consumed >= p->end) break;
        os_mutex_unlock(&p->mutex);
        yolo_status status = p->job->result ? p->job->result(p->job->user, &slot->picture, &error) : YOLO_OK;
        os_mutex_lock(&p->mutex);
        p->bytes -= slot->bytes;
        pipe_release(slot);
        p->consumed++;
        os_condition_wake_all(&p->changed);
        if (status != YOLO_OK) pipe_fail(p, status, &error);
    }
    os_mutex_unlock(&p->mutex);
}

/* One picture after the other in the calling thread. */
static void pipe_serial(pipe_line *p) {
    const pipe_job *job = p->job;
    for (; p->status == YOLO_OK && p->consumed < p->end && !err_interrupted; p->consumed++) {
        pipe_slot *slot = &p->slots[0];
        pipe_load(job, slot, p->consumed);
        p->status = pipe_process(job, &p->lanes[0], slot, &p->error);
        if (p->status == YOLO_OK && job->result) p->status = job->result(job->user, &slot->picture, &p->error);
        pipe_release(slot);
    }
    p->end = p->consumed;
}

/* Lanes and as many loaders. A thread that the system refuses is done without, as long as one of each kind runs. */
static void pipe_threaded(pipe_line *p) {
    os_thread loaders[THR_MAX];
    int loader_count = 0, started = 0, wanted = YOLO_MIN(p->lane_count, THR_MAX);
    while (started < p->lane_count && os_thread_start(&p->lanes[started].thread, pipe_lane_main, &p->lanes[started])) started++;
    while (started && loader_count < wanted && os_thread_start(&loaders[loader_count], pipe_loader_main, p)) loader_count++;
    if (loader_count) pipe_deliver(p);
    else {
        os_mutex_lock(&p->mutex);
        err_set(&p->error, YOLO_ERROR_MEMORY, "the system gives no more threads");
        p->status = YOLO_ERROR_MEMORY;
        os_condition_wake_all(&p->changed);
        os_mutex_unlock(&p->mutex);
    }
    for (int i = 0; i < started; i++) os_thread_join(p->lanes[i].thread);
    for (int i = 0; i < loader_count; i++) os_thread_join(loaders[i]);
}

/* Runs the whole list. A failure of `work` or `result` ends it and is returned; YOLO_ERROR_INTERRUPTED when
   yolo_interrupt() cut it short, with the pictures in hand delivered. */
static yolo_status pipe_run(const pipe_job *wanted, yolo_error *error) {
    pipe_job checked = *wanted;
    const pipe_job *job = &checked;
    yolo_status status = det_check(job->net, &checked.imgsz, &job->detect, error);
    if (status != YOLO_OK) return status;
    pipe_line p = {.job = job, .end = job->count, .lane_count = pipe_lane_count(job)};
    bool serial = job->count <= 1 || job->threads == 1 || (job->threads <= 0 && thr_pool_size(job->pool) == 1);
    p.slot_count = serial ? 1 : 2 * p.lane_count + 2;
    p.slots = mem_array((uint64_t)p.slot_count, sizeof *p.slots);
    p.lanes = mem_array((uint64_t)p.lane_count, sizeof *p.lanes);
    if (!p.slots || !p.lanes) p.status = err_memory(&p.error, (uint64_t)p.slot_count * sizeof *p.slots);
    for (int i = 0; p.status == YOLO_OK && i < p.lane_count; i++) {
        p.lanes[i].line = &p;
        p.status = run_lane_create(&p.lanes[i].run, job->weights, job->net, p.lane_count == 1 ? job->pool : NULL, 1,
                                   job->net->max_stride, job->net->max_stride, &p.error);
    }
    if (p.status == YOLO_OK && serial) pipe_serial(&p);
    else if (p.status == YOLO_OK) {
        os_mutex_init(&p.mutex);
        os_condition_init(&p.changed);
        pipe_threaded(&p);
        os_condition_destroy(&p.changed);
        os_mutex_destroy(&p.mutex);
    }
    for (int i = 0; p.slots && i < p.slot_count; i++) pipe_release(&p.slots[i]);
    for (int i = 0; p.lanes && i < p.lane_count; i++) run_lane_destroy(p.lanes[i].run);
    mem_free(p.slots);
    mem_free(p.lanes);
    if (p.status == YOLO_OK && p.end < job->count) return pipe_interrupted(job, p.end, error);
    if (p.status != YOLO_OK && error) *error = p.error;
    return p.status;
}

/* ==== 18 loss_: training loss ======================================================================================
   Task-aligned assignment, CIoU, distribution focal loss and BCE with soft targets, and their gradients with respect
   to the raw head outputs.
   1. Pictures are independent but for one number, the sum of the target scores, so the work is one parallel loop over
      pictures, that sum in their order, and a second loop: the same bits for any number of threads.
   2. Boxes of the loss are in units of a level's stride, targets of the assignment in network pixels.
   3. An anchor is a cell of a level, numbered level by level, row by row, as in ultralytics.
   4. What is not a number stays so: a NaN among the logits or an infinite box logit that the loss sees makes a loss NaN.
   REF ultralytics/utils/loss.py v8DetectionLoss, utils/tal.py TaskAlignedAssigner, utils/metrics.py bbox_iou */

enum { LOSS_TOPK = 10, LOSS_SIDES = 4 * NET_REG_MAX };
#define LOSS_EPS 1e-9f     /* of the assigner */
#define LOSS_IOU_EPS 1e-7f /* of CIoU */
#define LOSS_ASPECT 0.40528473456935109f /* 4 / pi^2 */

typedef struct loss_target { int class_id; float box[4]; } loss_target; /* x1 y1 x2 y2, network pixels */
typedef struct loss_gains { float box, cls, dfl; } loss_gains;
typedef struct loss_parts { double box, cls, dfl; } loss_parts; /* scaled by their gains, not by the batch size */
typedef struct loss_sums { double box, cls, dfl, score; } loss_sums; /* gain * sum, to be divided by the sum of scores */

typedef struct loss_pair { int anchor; float metric, overlap; } loss_pair; /* a target and an anchor; -1 = outside it */

typedef struct loss_image { /* what the two loops pass on for one picture; arrays of an entry an anchor */
    float (*box)[4];  /* predicted, network pixels */
    int *target;      /* index of the assigned target, -1 = background */
    int *claims;      /* how many targets claim the anchor */
    float *metric, *overlap; /* of the assigned pair */
    float *score;     /* the soft target of the assigned class */
    loss_sums sums;
} loss_image;

typedef struct loss_run { /* one call, shared by its loops */
    const net *net;
    const ten *heads, *gradients;
    const loss_target *targets;
    const int *first; /* picture i owns targets first[i] .. first[i+1] */
    loss_gains gains;
    loss_image *images;
    int level_first[NET_MAX_LEVELS + 1]; /* anchors before a level */
    double score_sum;
    loss_pair *tops;  /* a target: the best metric and overlap among its anchors */
} loss_run;

/* x[i] = exp(x[i]) for x[i] <= 0, to one unit in the last place; below -87 as there. Written so that compilers make
   vectors of it. */
static void loss_exp(float *x, int count) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits */
    for (int i = 0; i < count; i++) {
        float v = x[i] < -87.0f ? -87.0f : x[i], turns = v * 1.44269504f + shift, whole = turns - shift, power;
        float r = v - whole * 0.693359375f + whole * 2.12194440e-4f, p = 1.9875691500e-4f; /* r in +-ln(2)/2; Cephes' expf */
        uint32_t bits;
        memcpy(&bits, &turns, 4);
        bits = (bits + 127u) << 23;
        memcpy(&power, &bits, 4);
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        x[i] = (p * r * r + r + 1.0f) * power;
    }
}

static float loss_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

typedef struct loss_bins { /* softmax over the bins of each side of a box */
    float share[4][NET_REG_MAX]; /* before division by sum */
    float sum[4], highest[4];    /* share = exp(logit - highest) */
    float distance[4];           /* expected, in strides */
} loss_bins;

static void loss_read_bins(const float *logits, loss_bins *bins) {
    for (int side = 0; side < 4; side++) {
        const float *in = logits + side * NET_REG_MAX;
        float highest = in[0];
        for (int i = 1; i < NET_REG_MAX; i++) highest = YOLO_MAX(highest, in[i]);
        for (int i = 0; i < NET_REG_MAX; i++) bins->share[side][i] = in[i] - highest;
        bins->highest[side] = highest;
    }
    loss_exp(bins->share[0], LOSS_SIDES);
    for (int side = 0; side < 4; side++) {
        float sum = 0, weighted = 0;
        for (int i = 0; i < NET_REG_MAX; i++) {
            sum += bins->share[side][i];
            weighted += bins->share[side][i] * (float)i;
        }
        bins->sum[side] = sum;
        bins->distance[side] = weighted / sum;
    }
}

/* Left, top, right, bottom distances from a centre -> box. */
static void loss_place(const float *centre, const float *distance, float scale, float *box) {
    for (int side = 0; side < 4; side++)
        box[side] = (centre[side & 1] + (side < 2 ? -distance[side] : distance[side])) * scale;
}

typedef struct loss_ciou_terms { float wa, ha, iw, ih, cw, ch, dx, dy, inter, joined, diagonal, distance, angle, alpha; } loss_ciou_terms;

/* Complete IoU (Zheng et al. 2020) of prediction a and target b. */
static float loss_ciou(const float *a, const float *b, loss_ciou_terms *t) {
    float wb = b[2] - b[0], hb = b[3] - b[1] + LOSS_IOU_EPS;
    t->wa = a[2] - a[0];
    t->ha = a[3] - a[1] + LOSS_IOU_EPS;
    t->iw = YOLO_MIN(a[2], b[2]) - YOLO_MAX(a[0], b[0]);
    t->ih = YOLO_MIN(a[3], b[3]) - YOLO_MAX(a[1], b[1]);
    t->inter = t->iw > 0 && t->ih > 0 ? t->iw * t->ih : 0;
    t->joined = t->wa * t->ha + wb * hb - t->inter + LOSS_IOU_EPS;
    t->cw = YOLO_MAX(a[2], b[2]) - YOLO_MIN(a[0], b[0]);
    t->ch = YOLO_MAX(a[3], b[3]) - YOLO_MIN(a[1], b[1]);
    t->diagonal = t->cw * t->cw + t->ch * t->ch + LOSS_IOU_EPS;
    t->dx = b[0] + b[2] - a[0] - a[2];
    t->dy = b[1] + b[3] - a[1] - a[3];
    t->distance = (t->dx * t->dx + t->dy * t->dy) / 4;
    t->angle = atanf(wb / hb) - atanf(t->wa / t->ha);
    float iou = t->inter / t->joined, aspect = LOSS_ASPECT * t->angle * t->angle;
    t->alpha = aspect / (1 - iou + aspect + LOSS_IOU_EPS);
    return iou - (t->distance / t->diagonal + aspect * t->alpha);
}

/* d CIoU / d a, as autograd gives it: alpha is a constant, and an edge that two boxes share counts half for each. */
static void loss_ciou_slope(const float *a, const float *b, const loss_ciou_terms *t, float *slope) {
    float turn = 2 * LOSS_ASPECT * t->angle * t->alpha / (t->wa * t->wa + t->ha * t->ha); /* of the aspect: turn*ha for wa, -turn*wa for ha */
    bool meet = t->iw >= 0 && t->ih >= 0;
    for (int side = 0; side < 4; side++) {
        bool horizontal = !(side & 1), low = side < 2;
        float sign = low ? -1.0f : 1.0f, across = horizontal ? t->ha : t->wa;
        float inside = a[side] == b[side] ? 0.5f : low == (a[side] > b[side]) ? 1.0f : 0.0f;
        float d_inter = meet ? inside * sign * (horizontal ? t->ih : t->iw) : 0;
        float d_joined = sign * across - d_inter;
        float d_diagonal = (1 - inside) * sign * 2 * (horizontal ? t->cw : t->ch);
        float d_distance = -(horizontal ? t->dx : t->dy) / 2;
        slope[side] = (d_inter * t->joined - t->inter * d_joined) / (t->joined * t->joined) -
                      (d_distance * t->diagonal - t->distance * d_diagonal) / (t->diagonal * t->diagonal) +
                      sign * turn * (horizontal ? t->ha : -t->wa);
    }
}

typedef struct loss_cell { int level, x, y; float stride, centre[2]; } loss_cell; /* where an anchor is; centre in strides */

static loss_cell loss_cell_at(const loss_run *run, int level, int x, int y) {
    return (loss_cell){level, x, y, (float)run->net->strides[level], {(float)x + 0.5f, (float)y + 0.5f}};
}

static loss_cell loss_cell_of(const loss_run *run, int anchor) {
    int level = 0;
    while (anchor >= run->level_first[level + 1]) level++;
    int at = anchor - run->level_first[level], w = run->heads[level].w;
    return loss_cell_at(run, level, at % w, at / w);
}

static void loss_decode(const loss_run *run, int image) {
    loss_bins bins;
    for (int l = 0, anchor = 0; l < run->net->level_count; l++)
        for (int y = 0; y < run->heads[l].h; y++)
            for (int x = 0; x < run->heads[l].w; x++, anchor++) {
                loss_cell cell = loss_cell_at(run, l, x, y);
                loss_read_bins(ten_at(&run->heads[l], image, y, x), &bins);
                loss_place(cell.centre, bins.distance, cell.stride, run->images[image].box[anchor]);
            }
}

/* The assignment. */

/* Where a target's anchors have their centres: its box with sides under the second level's stride widened to it, so that
   small things have candidates. False for a box left and above of the picture, which has none. */
static bool loss_reach(const loss_run *run, const loss_target *target, float *reach) {
    const float *box = target->box;
    float least = (float)run->net->strides[run->net->level_count > 1 ? 1 : 0];
    for (int axis = 0; axis < 2; axis++) {
        float side = box[axis + 2] - box[axis], centre = (box[axis] + box[axis + 2]) / 2;
        if (side < least) side = least;
        reach[axis] = centre - side / 2;
        reach[axis + 2] = centre + side / 2;
    }
    return box[0] + box[1] + box[2] + box[3] > 0;
}

/* The pair of a target and an anchor; outside the target both numbers are 0. */
static loss_pair loss_align(const loss_run *run, int image, const loss_target *target, const float *reach, int anchor, loss_cell cell) {
    loss_ciou_terms terms;
    float x = cell.centre[0] * cell.stride, y = cell.centre[1] * cell.stride;
    if (!(x - reach[0] > LOSS_EPS && y - reach[1] > LOSS_EPS && reach[2] - x > LOSS_EPS && reach[3] - y > LOSS_EPS))
        return (loss_pair){-1, 0, 0};
    float overlap = loss_ciou(target->box, run->images[image].box[anchor], &terms), cubed;
    if (overlap < 0) overlap = 0;
    cubed = overlap * overlap * overlap;
    float logit = ten_at(&run->heads[cell.level], image, cell.y, cell.x)[LOSS_SIDES + target->class_id];
    return (loss_pair){anchor, sqrtf(loss_sigmoid(logit)) * cubed * cubed, overlap};
}

/* A NaN is above all numbers. */
static bool loss_above(float a, float b) { return a > b || (a != a && b == b); }

/* Puts `pair` into the hole at `at` of a heap whose root is lowest: down to a leaf, then up again. */
static void loss_sift(loss_pair *heap, int count, int at, loss_pair pair) {
    int hole = at;
    for (int child; (child = 2 * hole + 1) < count; hole = child) {
        if (child + 1 < count && !loss_above(heap[child + 1].metric, heap[child].metric)) child++;
        heap[hole] = heap[child];
    }
    for (; hole > at && loss_above(heap[(hole - 1) / 2].metric, pair.metric); hole = (hole - 1) / 2) heap[hole] = heap[(hole - 1) / 2];
    heap[hole] = pair;
}

/* The order of equals. torch's topk keeps the best of a heap of the first anchors when there are many anchors, else it
   partitions all (libstdc++'s partial_sort and nth_element). That decides which of several anchors that align by nothing
   are claimed, and a claim by nothing can still turn an anchor over to a third target. */

/* Makes the first `count` of all pairs the best, by a heap whose root is the lowest of them. */
static void loss_select_by_heap(loss_pair *pairs, int size, int count) {
    for (int i = count / 2 - 1; i >= 0; i--) loss_sift(pairs, count, i, pairs[i]);
    for (int i = count; i < size; i++)
        if (loss_above(pairs[i].metric, pairs[0].metric)) loss_sift(pairs, count, 0, pairs[i]);
}

static void loss_swap(loss_pair *a, loss_pair *b) {
    loss_pair kept = *a;
    *a = *b;
    *b = kept;
}

/* Splits pairs [0, size) by the median of the second, middle and last, which goes to the front. Returns where the lower
   part begins. */
static int loss_split(loss_pair *pairs, int size) {
    loss_pair *a = pairs + 1, *b = pairs + size / 2, *c = pairs + size - 1;
    bool ab = loss_above(a->metric, b->metric), bc = loss_above(b->metric, c->metric), ac = loss_above(a->metric, c->metric);
    loss_swap(pairs, ab ? bc ? b : ac ? c : a : ac ? a : bc ? c : b);
    float pivot = pairs->metric;
    for (int low = 1, high = size;; low++) {
        while (loss_above(pairs[low].metric, pivot)) low++;
        do high--; while (loss_above(pivot, pairs[high].metric));
        if (low >= high) return low;
        loss_swap(&pairs[low], &pairs[high]);
    }
}

/* The same as loss_select_by_heap by partitions. */
static void loss_select(loss_pair *pairs, int size, int count) {
    int first = 0, last = size, depth = 0;
    for (int rest = size; rest > 1; rest /= 2) depth += 2;
    while (last - first > 3 && depth--) {
        int cut = first + loss_split(pairs + first, last - first);
        if (cut < count) first = cut;
        else last = cut;
    }
    if (last - first > 3) loss_select_by_heap(pairs + first, last - first, count - first);
    for (int i = first + 1; i < last && last - first <= 3; i++)
        for (int j = i; j > first && loss_above(pairs[j].metric, pairs[j - 1].metric); j--) loss_swap(&pairs[j], &pairs[j - 1]);
}

/* The LOSS_TOPK best aligned of all anchors, where those outside the target (-1) align by nothing. */
static int loss_candidates(const loss_run *run, int image, const loss_target *target, loss_pair *best) {
    enum { FEW = 64 * LOSS_TOPK };
    float reach[4];
    int anchors = run->level_first[run->net->level_count], count = YOLO_MIN(LOSS_TOPK, anchors), some = anchors < FEW ? anchors : count;
    loss_pair pairs[FEW];
    if (!loss_reach(run, target, reach)) return 0;
    for (int i = 0; i < some; i++) pairs[i] = loss_align(run, image, target, reach, i, loss_cell_of(run, i));
    if (some > count) loss_select(pairs, some, count);
    else loss_select_by_heap(pairs, some, count);
    for (int l = 0; l < run->net->level_count && some < anchors; l++) {
        const ten *head = &run->heads[l];
        float stride = (float)run->net->strides[l], w = (float)head->w, h = (float)head->h;
        int x0 = (int)YOLO_CLAMP(floorf(reach[0] / stride - 0.5f), 0, w), x1 = (int)YOLO_CLAMP(ceilf(reach[2] / stride + 0.5f), 0, w);
        int y0 = (int)YOLO_CLAMP(floorf(reach[1] / stride - 0.5f), 0, h), y1 = (int)YOLO_CLAMP(ceilf(reach[3] / stride + 0.5f), 0, h);
        for (int y = y0; y < y1; y++)
            for (int x = x0; x < x1; x++) {
                int anchor = run->level_first[l] + y * head->w + x;
                if (anchor < some) continue;
                loss_pair pair = loss_align(run, image, target, reach, anchor, loss_cell_at(run, l, x, y));
                if (loss_above(pair.metric, pairs[0].metric)) loss_sift(pairs, count, 0, pair);
            }
    }
    memcpy(best, pairs, (size_t)count * sizeof *best);
    return count;
}

/* An anchor claimed twice goes to the target it overlaps most, claimed by that one or not; the first of equals. */
static void loss_settle(const loss_run *run, int image, int anchor) {
    loss_image *out = &run->images[image];
    loss_pair best = {-1, 0, 0};
    loss_cell cell = loss_cell_of(run, anchor);
    int first = run->first[image];
    out->target[anchor] = first;
    for (int g = first; g < run->first[image + 1]; g++) {
        float reach[4];
        if (!loss_reach(run, &run->targets[g], reach)) continue;
        loss_pair pair = loss_align(run, image, &run->targets[g], reach, anchor, cell);
        if (!loss_above(pair.overlap, best.overlap)) continue;
        out->target[anchor] = g;
        best = pair;
    }
    out->metric[anchor] = best.metric;
    out->overlap[anchor] = best.overlap;
}

static void loss_claim(const loss_run *run, int image) {
    loss_image *out = &run->images[image];
    int anchors = run->level_first[run->net->level_count];
    for (int a = 0; a < anchors; a++) out->target[a] = -1, out->claims[a] = 0, out->score[a] = 0;
    for (int g = run->first[image]; g < run->first[image + 1]; g++) {
        loss_pair best[LOSS_TOPK];
        int count = loss_candidates(run, image, &run->targets[g], best);
        for (int i = 0; i < count; i++) {
            int anchor = best[i].anchor;
            if (anchor < 0) continue;
            out->claims[anchor]++;
            out->target[anchor] = g;
            out->metric[anchor] = best[i].metric;
            out->overlap[anchor] = best[i].overlap;
        }
    }
    for (int a = 0; a < anchors; a++)
        if (out->claims[a] > 1) loss_settle(run, image, a);
}

/* The soft target of each assigned anchor: its metric, scaled so that a target's best one is the target's best overlap. */
static void loss_score(const loss_run *run, int image) {
    loss_image *out = &run->images[image];
    int anchors = run->level_first[run->net->level_count];
    for (int g = run->first[image]; g < run->first[image + 1]; g++) run->tops[g] = (loss_pair){0, 0, 0};
    for (int a = 0; a < anchors; a++) {
        if (out->target[a] < 0) continue;
        loss_pair *top = &run->tops[out->target[a]];
        if (loss_above(out->metric[a], top->metric)) top->metric = out->metric[a];
        if (loss_above(out->overlap[a], top->overlap)) top->overlap = out->overlap[a];
    }
    for (int a = 0; a < anchors; a++) {
        if (out->target[a] < 0) continue;
        const loss_pair *top = &run->tops[out->target[a]];
        out->score[a] = out->metric[a] * top->overlap / (top->metric + LOSS_EPS);
        out->sums.score += (double)out->score[a];
    }
}

static void loss_assign(void *context, int image, int worker) {
    loss_run *run = context;
    (void)worker;
    run->images[image].sums = (loss_sums){0, 0, 0, 0};
    if (run->first[image] < run->first[image + 1]) loss_decode(run, image);
    loss_claim(run, image);
    loss_score(run, image);
}

/* The losses of what was assigned. */

/* Box and DFL terms of one assigned anchor, and the gradient of its box logits (NULL = not wanted). */
static void loss_box(const loss_run *run, loss_image *out, int anchor, const loss_cell *cell, const float *logits, float *gradient) {
    const float *pixels = run->targets[out->target[anchor]].box;
    float score = out->score[anchor], box[4], target[4], slope[4];
    float scale = score / (float)run->score_sum * (float)run->heads[0].n, focal = scale * run->gains.dfl / 4;
    loss_bins bins;
    loss_ciou_terms terms;
    loss_read_bins(logits, &bins);
    loss_place(cell->centre, bins.distance, 1, box);
    for (int side = 0; side < 4; side++) target[side] = pixels[side] / cell->stride;
    out->sums.box += (double)((1 - loss_ciou(box, target, &terms)) * score);
    loss_ciou_slope(box, target, &terms, slope);
    for (int side = 0; side < 4; side++) {
        float centre = cell->centre[side & 1], wanted = side < 2 ? centre - target[side] : target[side] - centre;
        wanted = YOLO_CLAMP(wanted, 0, NET_REG_MAX - 1 - 0.01f);
        int left = (int)wanted;
        const float *in = logits + side * NET_REG_MAX;
        float right_share = wanted - (float)left, left_share = 1 - right_share;
        float log_sum = bins.highest[side] + logf(bins.sum[side]);
        out->sums.dfl += (double)(((log_sum - in[left]) * left_share + (log_sum - in[left + 1]) * right_share) / 4 * score);
        if (!gradient) continue;
        float pull = (side < 2 ? slope[side] : -slope[side]) * scale * run->gains.box, *d = gradient + side * NET_REG_MAX;
        for (int i = 0; i < NET_REG_MAX; i++)
            d[i] = bins.share[side][i] / bins.sum[side] * (pull * ((float)i - bins.distance[side]) + focal);
        d[left] -= focal * left_share;
        d[left + 1] -= focal * right_share;
    }
}

/* BCE of class logits against all zeros, and its gradient times `scale` (NULL = not wanted). Rounded where torch rounds:
   a background that is sure costs 0. */
static double loss_absent(const float *logits, int count, float scale, float *gradient) {
    enum { CHUNK = 64, LANES = 8 };
    float e[CHUNK], losses[CHUNK], sums[LANES] = {0};
    double total = 0;
    for (int at = 0; at < count; at += CHUNK) {
        const float *in = logits + at;
        int some = YOLO_MIN(CHUNK, count - at);
        for (int i = 0; i < some; i++) e[i] = -fabsf(in[i]);
        loss_exp(e, some);
        for (int i = 0; i < some; i++) { /* x - (min(x, 0) - log(1 + e)), the logarithm as 2 artanh(e / (2 + e)) */
            float s = e[i] / (2 + e[i]), q = s * s, p = 1.0f / 15;
            p = p * q + 1.0f / 13;
            p = p * q + 1.0f / 11;
            p = p * q + 1.0f / 9;
            p = p * q + 1.0f / 7;
            p = p * q + 1.0f / 5;
            p = p * q + 1.0f / 3;
            losses[i] = in[i] - (0.5f * (in[i] - fabsf(in[i])) - 2 * s * (p * q + 1.0f));
        }
        for (int i = 0; i < some && gradient; i++) gradient[at + i] = (0.5f + copysignf(0.5f - e[i] / (1 + e[i]), in[i])) * scale;
        for (int i = some; i % LANES; i++) losses[i] = 0;
        for (int i = 0; i < some; i += LANES)
            for (int j = 0; j < LANES; j++) sums[j] += losses[i + j];
    }
    for (int j = 0; j < LANES; j++) total += (double)sums[j];
    return total;
}

static void loss_picture(void *context, int image, int worker) {
    loss_run *run = context;
    loss_image *out = &run->images[image];
    float scale = run->gains.cls / (float)run->score_sum * (float)run->heads[0].n;
    int anchors = run->level_first[run->net->level_count];
    (void)worker;
    for (int anchor = 0; anchor < anchors; anchor++) {
        loss_cell cell = loss_cell_of(run, anchor);
        const float *logits = ten_at(&run->heads[cell.level], image, cell.y, cell.x);
        float *gradient = run->gradients ? ten_at(&run->gradients[cell.level], image, cell.y, cell.x) : NULL;
        out->sums.cls += loss_absent(logits + LOSS_SIDES, run->net->class_count, scale, gradient ? gradient + LOSS_SIDES : NULL);
        if (out->target[anchor] >= 0) {
            int class_id = run->targets[out->target[anchor]].class_id;
            out->sums.cls -= (double)(logits[LOSS_SIDES + class_id] * out->score[anchor]);
            if (gradient) gradient[LOSS_SIDES + class_id] -= out->score[anchor] * scale;
            loss_box(run, out, anchor, &cell, logits, gradient);
        } else if (gradient) memset(gradient, 0, LOSS_SIDES * sizeof *gradient);
    }
}

static size_t loss_workspace(const net *net, const ten *heads, int target_count) {
    size_t anchors = 0, images = (size_t)heads[0].n;
    for (int l = 0; l < net->level_count; l++) anchors += (size_t)heads[l].h * (size_t)heads[l].w;
    return images * sizeof(loss_image) + images * anchors * 9 * sizeof(float) + (size_t)target_count * sizeof(loss_pair) + 64;
}

/* Divides the workspace; a picture's 9 floats an anchor, then the targets' tops. */
static void loss_lay_out(loss_run *run, void *workspace) {
    size_t anchors = (size_t)run->level_first[run->net->level_count];
    int images = run->heads[0].n;
    run->images = workspace;
    float *rest = (float *)(run->images + images);
    for (int i = 0; i < images; i++, rest += anchors * 9) {
        loss_image *image = &run->images[i];
        image->box = (float(*)[4])rest;
        image->target = (int *)(rest + anchors * 4);
        image->claims = image->target + anchors;
        image->metric = (float *)(image->claims + anchors);
        image->overlap = image->metric + anchors;
        image->score = image->overlap + anchors;
    }
    run->tops = (loss_pair *)rest;
}

/* Sums over the pictures, and the gradients as loss_detect has them. */
static loss_sums loss_sum(const net *net, const ten *heads, const ten *gradients, const loss_target *targets, const int *first,
                          loss_gains gains, void *workspace, thr_pool *pool) {
    loss_run run = {.net = net, .heads = heads, .gradients = gradients, .targets = targets, .first = first, .gains = gains};
    loss_sums total = {0, 0, 0, 0};
    for (int l = 0; l < net->level_count; l++) run.level_first[l + 1] = run.level_first[l] + heads[l].h * heads[l].w;
    loss_lay_out(&run, workspace);
    thr_parallel_for(pool, heads[0].n, loss_assign, &run);
    for (int i = 0; i < heads[0].n; i++) total.score += run.images[i].sums.score;
    run.score_sum = total.score < 1 ? 1 : total.score;
    thr_parallel_for(pool, heads[0].n, loss_picture, &run);
    for (int i = 0; i < heads[0].n; i++) {
        total.box += run.images[i].sums.box * (double)gains.box;
        total.cls += run.images[i].sums.cls * (double)gains.cls;
        total.dfl += run.images[i].sums.dfl * (double)gains.dfl;
    }
    return total;
}

/* Losses of a batch and, unless `gradients` is NULL, their gradients (overwritten) with respect to the raw heads, scaled as
   ultralytics scales what it calls backward on: gain * loss * batch. Targets lie picture by picture (see loss_run.first),
   their classes in [0, class_count); `workspace` holds loss_workspace bytes. */
static loss_parts loss_detect(const net *net, const ten *heads, const ten *gradients, const loss_target *targets, const int *first,
                              loss_gains gains, void *workspace, thr_pool *pool) {
    loss_sums sums = loss_sum(net, heads, gradients, targets, first, gains, workspace, pool);
    double score = sums.score < 1 ? 1 : sums.score;
    return (loss_parts){sums.box / score, sums.cls / score, sums.dfl / score};
}

/* The same before it is divided by max(sum of scores, 1), so that a batch may be measured picture by picture. */
static loss_sums loss_measure(const net *net, const ten *heads, const loss_target *targets, const int *first, loss_gains gains,
                              void *workspace, thr_pool *pool) {
    return loss_sum(net, heads, NULL, targets, first, gains, workspace, pool);
}

/* ==== 19 opt_: optimizers, schedules, moving average of the weights ================================================
   Everything is one pass over the parameter table: clip, update, zero the gradients, average.
   1. The block of parameters is cut into pieces of one row and at most OPT_PIECE elements, whatever the number of
      threads. One worker does a piece; the norm adds the pieces' sums in their order. So: the same bits always.
   2. Groups stand in ultralytics' order: weights, norms, biases; for MuSGD each of those and then the convolutions'
      weights, twice: first the rows of the class branch, which learn thrice as fast.
   3. A row of a frozen layer, a NET_FROZEN row and a statistic have no group: no update, no part in the norm.
   4. opt_block and opt_number give all that a resumed run needs beside parameters, batch number and settings.
   REF torch/optim (the single tensor functions), ultralytics/engine/trainer.py build_optimizer, _do_train,
   optimizer_step; ultralytics/optim/muon.py; ultralytics/utils/torch_utils.py ModelEMA, one_cycle */

typedef enum opt_kind {
    OPT_AUTO, OPT_SGD, OPT_MUSGD, OPT_ADAM, OPT_ADAMAX, OPT_ADAMW, OPT_NADAM, OPT_RADAM, OPT_RMSPROP
} opt_kind;

enum { OPT_PIECE = 16384, OPT_MAX_GROUPS = 8, OPT_MAX_BLOCKS = 3, OPT_NUMBERS = 6, OPT_MUON_STEPS = 5 };
#define OPT_CLIP 10.0        /* the norm above which gradients are scaled down */
#define OPT_EPS 1e-8f
#define OPT_BETA2 0.999
#define OPT_RMS_ALPHA 0.99
#define OPT_NADAM_DECAY 4e-3
#define OPT_MUON_SHARE 0.2   /* of the rate, for the orthogonal part of MuSGD's update */
#define OPT_MUON_BOOST 3.0
#define OPT_EMA_DECAY 0.9999
#define OPT_EMA_RAMP 2000.0  /* updates */

typedef struct opt_settings { /* names and meanings of yolo_train_options */
    opt_kind kind;
    double lr0, lrf, momentum, weight_decay;
    double warmup_epochs, warmup_momentum, warmup_bias_lr;
    bool cos_lr;
    bool timed;       /* `epochs` is an estimate: opt_set_epochs follows */
    int epochs, batch, nbs;
    int64_t batches;  /* of an epoch */
    int64_t pictures; /* of an epoch */
    int class_count;
    op_isa isa;       /* for MuSGD's products */
} opt_settings;

typedef struct opt_group { bool bias, muon; double weight_decay, initial_lr, lr; int rows; } opt_group;

typedef struct opt_piece {
    int64_t offset;
    int count, row, group; /* group -1 = is not trained */
    bool averaged;    /* all but the counters num_batches_tracked, which the average keeps as they were */
    double squares;
} opt_piece;

typedef struct opt_rates { /* of one step and group, as the loops want them */
    float clip;          /* multiplies the gradient */
    float lr, decay, keep; /* gradient += decay * parameter; parameter *= keep */
    float momentum, beta1, beta2;
    float root, grow, step; /* by kind: see opt_rates_of */
} opt_rates;

typedef void opt_update(const opt_rates *r, float *p, const float *g, float *a, float *b, int count);

typedef struct opt_state {
    const net *net;
    opt_settings settings; /* OPT_AUTO resolved */
    opt_group groups[OPT_MAX_GROUPS]; int group_count;
    opt_piece *pieces; int piece_count;
    float *ema;
    float *blocks[OPT_MAX_BLOCKS]; int block_count; /* the average, then the moments */
    float *muon;           /* scratch for one matrix of MuSGD */
    int64_t warmup;        /* batches */
    int nominal;           /* batches that make a step, after the warm-up */
    double momentum;       /* now, of the kinds that have one */
    int accumulate;        /* now */
    double batch;          /* number of the batch, since epoch 0 */
    double steps, updates, beta1, product /* NAdam's */, last /* batch of the last step */, start_momentum; /* opt_number */
} opt_state;

/* The loops. a and b are the kind's moments at p. */

static void opt_update_sgd(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    (void)b;
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i];
        a[i] = a[i] * r->momentum + d;
        p[i] -= r->lr * (d + r->momentum * a[i]); /* Nesterov */
    }
}

static void opt_update_adam(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i];
        a[i] += r->beta1 * (d - a[i]);
        b[i] = b[i] * r->beta2 + r->grow * d * d;
        p[i] = p[i] * r->keep - r->step * (a[i] / (sqrtf(b[i]) / r->root + OPT_EPS));
    }
}

static void opt_update_adamax(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i], size = fabsf(d) + OPT_EPS, least = b[i] * r->beta2;
        a[i] += r->beta1 * (d - a[i]);
        b[i] = least > size ? least : size;
        p[i] -= r->step * (a[i] / b[i]);
    }
}

static void opt_update_nadam(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i];
        a[i] += r->beta1 * (d - a[i]);
        b[i] = b[i] * r->beta2 + r->grow * d * d;
        float size = sqrtf(b[i] / r->root) + OPT_EPS;
        p[i] = p[i] - r->lr * (d / size) - r->step * (a[i] / size);
    }
}

static void opt_update_radam(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i];
        a[i] += r->beta1 * (d - a[i]);
        b[i] = b[i] * r->beta2 + r->grow * d * d;
        p[i] -= a[i] * r->step * (r->root > 0 ? r->root / (sqrtf(b[i]) + OPT_EPS) : 1.0f);
    }
}

static void opt_update_rmsprop(const opt_rates *r, float *p, const float *g, float *a, float *b, int count) {
    for (int i = 0; i < count; i++) {
        float d = g[i] * r->clip + r->decay * p[i];
        b[i] = b[i] * r->beta2 + r->grow * d * d;
        a[i] = a[i] * r->momentum + d / (sqrtf(b[i]) + OPT_EPS);
        p[i] -= r->lr * a[i];
    }
}

typedef struct opt_row { const char *name; opt_update *update; const char *moments[2]; /* b only where there is a second */ } opt_row;
static const opt_row opt_rows[] = { /* by opt_kind */
    {"auto", NULL, {NULL, NULL}},
    {"SGD", opt_update_sgd, {"momentum", NULL}},
    {"MuSGD", opt_update_sgd, {"momentum", "muon momentum"}},
    {"Adam", opt_update_adam, {"mean", "square"}},
    {"Adamax", opt_update_adamax, {"mean", "largest"}},
    {"AdamW", opt_update_adam, {"mean", "square"}},
    {"NAdam", opt_update_nadam, {"mean", "square"}},
    {"RAdam", opt_update_radam, {"mean", "square"}},
    {"RMSProp", opt_update_rmsprop, {"momentum", "square"}}};

static const char *opt_kind_name(opt_kind kind) { return opt_rows[kind].name; }

static bool opt_kind_of(const char *name, opt_kind *kind) {
    for (int i = 0; i < YOLO_COUNT(opt_rows); i++)
        if (str_equal_fold(name, opt_rows[i].name)) {
            *kind = (opt_kind)i;
            return true;
        }
    return false;
}

/* What the loops multiply by, computed in double and rounded once as torch does. */
static opt_rates opt_rates_of(const opt_state *s, const opt_group *group, float clip) {
    double beta1 = s->beta1, t = s->steps, first = 1 - pow(beta1, t), second = 1 - pow(OPT_BETA2, t);
    opt_rates r = {.clip = clip, .lr = (float)group->lr, .decay = (float)group->weight_decay, .keep = 1, .momentum = (float)s->momentum,
                   .beta1 = (float)(1 - beta1), .beta2 = (float)OPT_BETA2, .grow = (float)(1 - OPT_BETA2),
                   .root = (float)sqrt(second), .step = (float)(group->lr / first)};
    switch (s->settings.kind) {
    case OPT_ADAMW:
        r.decay = 0;
        r.keep = (float)(1 - group->lr * group->weight_decay);
        break;
    case OPT_NADAM: { /* root: of the second moment before its square root; lr, step: of gradient and mean */
        double now = beta1 * (1 - 0.5 * pow(0.96, t * OPT_NADAM_DECAY)), next = beta1 * (1 - 0.5 * pow(0.96, (t + 1) * OPT_NADAM_DECAY));
        r.root = (float)second;
        r.lr = (float)(group->lr * (1 - now) / (1 - s->product));
        r.step = (float)(group->lr * next / (1 - s->product * next));
        break;
    }
    case OPT_RADAM: { /* root: 0 while the variance is unknown */
        double most = 2 / (1 - OPT_BETA2) - 1, length = most - 2 * t * pow(OPT_BETA2, t) / second;
        double rectified = length > 5 ? sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)) : 0;
        r.root = (float)(sqrt(second) * rectified);
        break;
    }
    case OPT_RMSPROP:
        r.beta2 = (float)OPT_RMS_ALPHA;
        r.grow = (float)(1 - OPT_RMS_ALPHA);
        break;
    default: break;
    }
    return r;
}

/* MuSGD: the momentum of a convolution's weight, as a matrix of its rows O, is made nearly orthogonal by five Newton-Schulz
   iterations with products rounded to bfloat16, as the reference computes them. */

static float opt_bf16(float x) { return f16_from_bfloat(f16_to_bfloat(x)); }

typedef struct opt_product { /* out(m,n) = bf16(add * plus(m,n) + scale * a(m,k) b(k,n)), plus NULL = nothing */
    float *out;
    const float *a, *plus;
    op_source b; /* packed as the weight of a convolution: its `in` runs over k, its `out` over n */
    int m, k, n;
    float add, scale;
    op_conv packed;
} opt_product;

enum { OPT_ROWS = 28 }; /* of a product done at a time: whole tiles of every instruction set but the smallest */

static void opt_multiply_rows(void *context, int block, int worker) {
    const opt_product *job = context;
    const op_kernels *kernels = job->packed.kernels;
    const int wide = 2 * kernels->vector, end = YOLO_MIN((block + 1) * OPT_ROWS, job->m);
    float sums[OP_MAX_TILE * 32];
    (void)worker;
    for (int panel = 0; panel < job->packed.panels; panel++)
        for (int row = block * OPT_ROWS, rows; row < end; row += rows) {
            const int columns = YOLO_MIN(wide, job->n - panel * wide);
            rows = op_tile_height(kernels, end - row);
            kernels->tile[op_panel_vectors(&job->packed, panel) - 1][rows - 1](sums, wide, job->a + (size_t)row * (size_t)job->k, job->k, 0,
                                                                               op_panel_weight(&job->packed, panel), 1, job->k);
            for (int i = 0; i < rows; i++) {
                const size_t at = (size_t)(row + i) * (size_t)job->n + (size_t)(panel * wide);
                for (int j = 0; j < columns; j++)
                    job->out[at + (size_t)j] = opt_bf16((job->plus ? job->add * job->plus[at + (size_t)j] : 0) + job->scale * sums[i * wide + j]);
            }
        }
}

static void opt_multiply(thr_pool *pool, op_isa isa, float *packed, opt_product job) {
    op_conv_init(&job.packed, isa, job.k, job.n, 1, 1, 0, NET_LINEAR, false);
    job.packed.weight = packed;
    op_pack_weight(&job.packed, job.b, pool);
    thr_parallel_for(pool, (job.m + OPT_ROWS - 1) / OPT_ROWS, opt_multiply_rows, &job);
}

static void opt_transpose(float *out, const float *in, int rows, int columns) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) out[(size_t)j * (size_t)rows + (size_t)i] = in[(size_t)i * (size_t)columns + (size_t)j];
}

/* Floats of scratch for a matrix: itself, its next value (or itself turned), two of its shorter side squared, and a packed
   factor, whose width is rounded up to at most 32 columns. */
static int64_t opt_muon_floats(const net_param *row) {
    int64_t rows = row->dims[0], columns = row->count / rows, side = YOLO_MIN(rows, columns), other = YOLO_MAX(rows, columns);
    return 2 * row->count + 2 * side * side + YOLO_MAX(side * (other + 32), other * (side + 32));
}

/* x (rows, columns; rows <= columns) becomes nearly orthogonal. */
static void opt_orthogonal(thr_pool *pool, op_isa isa, float *x, int rows, int columns, float *scratch) {
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    size_t count = (size_t)rows * (size_t)columns, square = (size_t)rows * (size_t)rows;
    float *next = scratch, *outer = next + count, *mixed = outer + square, *packed = mixed + square;
    for (int i = 0; i < OPT_MUON_STEPS; i++) {
        op_source turned = {x, columns, 1, 0, NULL}, same = {x, 1, columns, 0, NULL}, symmetric = {outer, 1, rows, 0, NULL};
        opt_multiply(pool, isa, packed, (opt_product){.out = outer, .a = x, .b = turned, .m = rows, .k = columns, .n = rows, .scale = 1});
        opt_multiply(pool, isa, packed, (opt_product){.out = mixed, .a = outer, .b = symmetric, .plus = outer, .m = rows, .k = rows,
                                                      .n = rows, .add = b, .scale = c});
        opt_multiply(pool, isa, packed, (opt_product){.out = next, .a = mixed, .b = same, .plus = x, .m = rows, .k = rows,
                                                      .n = columns, .add = a, .scale = 1});
        memcpy(x, next, count * sizeof *x);
    }
}

static void opt_muon_row(opt_state *s, const net_param *row, const opt_group *group, float clip, float *params, const float *gradients, thr_pool *pool) {
    float *p = params + row->offset, *momentum = s->blocks[2] + row->offset, *x = s->muon, *turned = x + row->count;
    const float *g = gradients + row->offset;
    float beta = (float)s->momentum, rest = (float)(1 - s->momentum), lr = (float)(group->lr * OPT_MUON_SHARE);
    int rows = row->dims[0], columns = (int)(row->count / rows);
    bool tall = rows > columns;
    double squares = 0;
    for (int64_t i = 0; i < row->count; i++) {
        float d = g[i] * clip;
        momentum[i] = momentum[i] * beta + rest * d;
        x[i] = opt_bf16(momentum[i] * beta + rest * d);
        squares += (double)x[i] * (double)x[i];
    }
    float norm = opt_bf16(opt_bf16((float)sqrt(squares)) + 1e-7f);
    for (int64_t i = 0; i < row->count; i++) x[i] = opt_bf16(x[i] / norm);
    if (tall) {
        opt_transpose(turned, x, rows, columns);
        memcpy(x, turned, (size_t)row->count * sizeof *x);
    }
    opt_orthogonal(pool, s->settings.isa, x, tall ? columns : rows, tall ? rows : columns, turned);
    if (tall) opt_transpose(turned, x, columns, rows);
    for (int64_t i = 0; i < row->count; i++) p[i] -= lr * (tall ? turned : x)[i];
}

/* Steps. */

typedef struct opt_pass { opt_state *state; float *params, *gradients; opt_rates rates[OPT_MAX_GROUPS]; float average; } opt_pass;

static void opt_measure_piece(void *context, int index, int worker) {
    opt_pass *pass = context;
    opt_piece *piece = &pass->state->pieces[index];
    const float *g = pass->gradients + piece->offset;
    double squares = 0;
    (void)worker;
    for (int i = 0; i < piece->count && piece->group >= 0; i++) squares += (double)g[i] * (double)g[i];
    piece->squares = squares;
}

static void opt_average(float *ema, const float *p, float weight, int count) {
    if (weight < 0.5f)
        for (int i = 0; i < count; i++) ema[i] += weight * (p[i] - ema[i]);
    else
        for (int i = 0; i < count; i++) ema[i] = p[i] - (p[i] - ema[i]) * (1 - weight);
}

static void opt_update_piece(void *context, int index, int worker) {
    opt_pass *pass = context;
    opt_state *s = pass->state;
    const opt_piece *piece = &s->pieces[index];
    float *p = pass->params + piece->offset, *g = pass->gradients + piece->offset;
    (void)worker;
    if (piece->group >= 0)
        opt_rows[s->settings.kind].update(&pass->rates[piece->group], p, g, s->blocks[1] + piece->offset,
                                          s->block_count > 2 ? s->blocks[2] + piece->offset : NULL, piece->count);
    memset(g, 0, (size_t)piece->count * sizeof *g);
    if (piece->averaged) opt_average(s->ema + piece->offset, p, pass->average, piece->count);
}

/* One step: gradients are clipped, used and zeroed, then the average follows. Returns their norm before the clip. A norm
   that is not a number makes every parameter that learns NaN, an infinite one those whose gradient is, as in torch. */
static double opt_step(opt_state *s, float *params, float *gradients, thr_pool *pool) {
    opt_pass pass = {.state = s, .params = params, .gradients = gradients};
    double squares = 0;
    thr_parallel_for(pool, s->piece_count, opt_measure_piece, &pass);
    for (int i = 0; i < s->piece_count; i++) squares += s->pieces[i].squares;
    float norm = (float)sqrt(squares), clip = (float)OPT_CLIP / (norm + 1e-6f);
    if (clip > 1) clip = 1;
    s->steps++;
    s->updates++;
    s->last = s->batch;
    s->product = (float)(s->product * (float)(s->beta1 * (1 - 0.5 * pow(0.96, s->steps * OPT_NADAM_DECAY))));
    for (int i = 0; i < s->group_count; i++) pass.rates[i] = opt_rates_of(s, &s->groups[i], clip);
    pass.average = (float)(1 - OPT_EMA_DECAY * (1 - exp(-s->updates / OPT_EMA_RAMP)));
    for (int i = 0; i < s->piece_count && s->muon; i++) { /* the first piece of a row stands for it */
        const opt_piece *piece = &s->pieces[i];
        const net_param *row = &s->net->params[piece->row];
        if (piece->group >= 0 && piece->offset == row->offset && s->groups[piece->group].muon)
            opt_muon_row(s, row, &s->groups[piece->group], clip, params, gradients, pool);
    }
    thr_parallel_for(pool, s->piece_count, opt_update_piece, &pass);
    return norm;
}

/* The schedule. */

/* The share of the initial rate in an epoch. */
static double opt_factor(const opt_settings *set, int epoch) {
    double pi = 3.14159265358979323846, done = (double)epoch / set->epochs;
    if (set->cos_lr) return YOLO_MAX((1 - cos(epoch * pi / set->epochs)) / 2, 0) * (set->lrf - 1) + 1;
    return YOLO_MAX(1 - done, 0) * (1 - set->lrf) + set->lrf;
}

static double opt_ramp(double at, double end, double from, double to) { return at >= end ? to : (to - from) / end * at + from; }

/* Sets rates, momentum and `accumulate` for batch number `batch` since epoch 0. */
static void opt_schedule(opt_state *s, int64_t batch, int epoch) {
    const opt_settings *set = &s->settings;
    double factor = opt_factor(set, epoch), at = (double)batch, end = (double)s->warmup;
    s->batch = at;
    for (int i = 0; i < s->group_count; i++) {
        opt_group *group = &s->groups[i];
        group->lr = group->initial_lr * factor;
        if (batch <= s->warmup && s->warmup) group->lr = opt_ramp(at, end, group->bias ? set->warmup_bias_lr : 0, group->lr);
    }
    s->momentum = s->warmup ? opt_ramp(at, end, set->warmup_momentum, set->momentum) : s->start_momentum;
    s->accumulate = s->warmup ? YOLO_MAX(1, (int)rint(opt_ramp(at, end, 1, s->nominal))) : s->nominal;
}

/* Is it time for opt_step after the backward pass of the batch that opt_schedule was called for? */
static bool opt_due(const opt_state *s) { return s->batch - s->last >= s->accumulate; }

/* Counts the warm-up anew: it leaves at least one epoch to regular training. */
static void opt_set_epochs(opt_state *s, int epochs) {
    s->settings.epochs = YOLO_MAX(epochs, 1);
    double warmup = YOLO_MIN(s->settings.warmup_epochs, (double)(s->settings.epochs - 1));
    s->warmup = warmup > 0 ? (int64_t)rint(warmup * (double)s->settings.batches) : 0;
}

/* Making one. */

/* ultralytics' choice for `auto`: by the number of steps and of classes, whatever lr0 and momentum say. */
static void opt_resolve(opt_state *s) {
    opt_settings *set = &s->settings;
    s->start_momentum = set->momentum;
    if (set->kind != OPT_AUTO) return;
    int64_t step = YOLO_MAX(set->batch, set->nbs), steps = (set->pictures + step - 1) / step * set->epochs;
    s->start_momentum = 0.9; /* the warm-up still ends at set->momentum */
    set->kind = steps > 10000 ? OPT_MUSGD : OPT_ADAMW;
    set->lr0 = steps > 10000 ? 0.01 : rint(0.002 * 5 / (4 + set->class_count) * 1e6) / 1e6;
    set->warmup_bias_lr = 0;
}

static void opt_make_groups(opt_state *s, double decay) {
    bool muon = s->settings.kind == OPT_MUSGD;
    s->group_count = muon ? 8 : 3;
    for (int i = 0; i < s->group_count; i++) {
        int role = muon ? i / 2 : i;
        opt_group *group = &s->groups[i];
        *group = (opt_group){.bias = role == 2, .muon = role == 3, .weight_decay = role == 0 || role == 3 ? decay : 0};
        group->lr = group->initial_lr = s->settings.lr0 * (muon && i % 2 == 0 ? OPT_MUON_BOOST : 1);
    }
}

/* The group of row `index` of the parameter table, -1 = none. */
static int opt_group_of(const opt_state *s, int index, const bool *frozen) {
    const net *net = s->net;
    const net_param *row = &net->params[index];
    int layer = 0;
    while (layer + 1 < net->layer_count && index >= net->layers[layer].first_param + net->layers[layer].param_count) layer++;
    if (row->group == NET_FROZEN || row->group == NET_BN_STAT || (frozen && frozen[layer])) return -1;
    int role = row->group == NET_DECAY ? 0 : row->group == NET_NO_DECAY ? 1 : 2;
    if (s->settings.kind != OPT_MUSGD) return role;
    if (row->rank == 4 || row->rank == 2) role = 3;
    bool classes = net->layers[layer].module == NET_MODULE_DETECT && strstr(row->name, ".cv3.");
    return 2 * role + !classes;
}

static yolo_status opt_make_pieces(opt_state *s, const bool *frozen, yolo_error *error) {
    const net *net = s->net;
    int64_t count = 0, learning = 0, muon = 0;
    for (int i = 0; i < net->param_count; i++) count += (net->params[i].count + OPT_PIECE - 1) / OPT_PIECE;
    s->pieces = mem_array((uint64_t)count, sizeof *s->pieces);
    if (!s->pieces) return err_memory(error, (uint64_t)count * sizeof *s->pieces);
    for (int i = 0; i < net->param_count; i++) {
        const net_param *row = &net->params[i];
        int group = opt_group_of(s, i, frozen);
        if (group >= 0) {
            learning++;
            s->groups[group].rows++;
            if (s->groups[group].muon) muon = YOLO_MAX(muon, opt_muon_floats(row));
        }
        for (int64_t at = 0; at < row->count; at += OPT_PIECE)
            s->pieces[s->piece_count++] = (opt_piece){.offset = row->offset + at, .count = (int)YOLO_MIN(row->count - at, OPT_PIECE), .row = i,
                .group = group, .averaged = !str_ends_with(row->name, "num_batches_tracked")};
    }
    if (!learning) return err_set(error, YOLO_ERROR_USAGE, "every layer is frozen: no parameter is left to train; freeze fewer layers");
    if (muon) s->muon = mem_array((uint64_t)muon, sizeof *s->muon);
    return muon && !s->muon ? err_memory(error, (uint64_t)muon * sizeof *s->muon) : YOLO_OK;
}

/* Bytes that opt_create takes for a kind other than OPT_AUTO, but for small change. */
static uint64_t opt_memory(const net *net, opt_kind kind) {
    uint64_t blocks = 2 + (opt_rows[kind].moments[1] != NULL), floats = blocks * (uint64_t)net->param_elements;
    int64_t muon = 0;
    for (int i = 0; i < net->param_count && kind == OPT_MUSGD; i++)
        if (net->params[i].rank == 4) muon = YOLO_MAX(muon, opt_muon_floats(&net->params[i]));
    return (floats + (uint64_t)muon) * sizeof(float);
}

static void opt_destroy(opt_state *s) {
    if (!s) return;
    for (int i = 0; i < s->block_count; i++) mem_free(s->blocks[i]);
    mem_free(s->pieces);
    mem_free(s->muon);
    mem_free(s);
}

static yolo_status opt_check(const opt_settings *set, yolo_error *error) {
    if (set->epochs < 1 || set->batch < 1 || set->nbs < 1 || set->batches < 1 || set->pictures < 1)
        return err_set(error, YOLO_ERROR_USAGE, "epochs %d, batch %d, nbs %d, %lld batches of %lld pictures: expected 1 or more of each",
                       set->epochs, set->batch, set->nbs, (long long)set->batches, (long long)set->pictures);
    if (!(set->lr0 >= 0 && set->lr0 < 1e6) || !(set->lrf >= 0 && set->lrf < 1e6) || !(set->momentum >= 0 && set->momentum < 1) ||
        !(set->weight_decay >= 0 && set->weight_decay < 1e6) || !(set->warmup_epochs < 1e6) ||
        !(set->warmup_momentum >= 0 && set->warmup_momentum < 1) || !(set->warmup_bias_lr >= 0 && set->warmup_bias_lr < 1e6))
        return err_set(error, YOLO_ERROR_USAGE, "lr0 %g, lrf %g, momentum %g, weight_decay %g, warmup_epochs %g, warmup_momentum %g, "
                       "warmup_bias_lr %g: expected 0 or more, and momentum below 1", set->lr0, set->lrf, set->momentum,
                       set->weight_decay, set->warmup_epochs, set->warmup_momentum, set->warmup_bias_lr);
    return YOLO_OK;
}

/* Resolves OPT_AUTO, scales the weight decay to the batches a step really takes, and makes groups and moments; net outlives
   *out. What was chosen stands in (*out)->settings and ->groups. opt_destroy frees it. */
static yolo_status opt_create(opt_state **out, const net *net, const opt_settings *settings, const bool *frozen, yolo_error *error) {
    *out = NULL;
    yolo_status status = opt_check(settings, error);
    if (status != YOLO_OK) return status;
    opt_state *s = mem_array(1, sizeof *s);
    if (!s) return err_memory(error, sizeof *s);
    s->net = net;
    s->settings = *settings;
    opt_resolve(s);
    s->beta1 = s->momentum = s->start_momentum;
    s->product = 1;
    s->last = -1;
    double accumulate = YOLO_MAX(rint((double)settings->nbs / settings->batch), 1);
    opt_make_groups(s, settings->weight_decay * settings->batch * accumulate / settings->nbs);
    if (!settings->timed) accumulate = YOLO_MIN(accumulate, (double)settings->batches * settings->epochs);
    s->nominal = s->accumulate = (int)accumulate;
    opt_set_epochs(s, settings->epochs);
    status = opt_make_pieces(s, frozen, error);
    int blocks = 2 + (opt_rows[s->settings.kind].moments[1] != NULL);
    for (int i = 0; i < blocks && status == YOLO_OK; i++) {
        s->blocks[i] = mem_array((uint64_t)net->param_elements, sizeof(float));
        if (s->blocks[i]) s->block_count++;
        else status = err_memory(error, (uint64_t)net->param_elements * sizeof(float));
    }
    s->ema = s->blocks[0];
    if (status != YOLO_OK) opt_destroy(s);
    else *out = s;
    return status;
}

/* The average starts as a copy of the parameters. */
static void opt_begin(opt_state *s, const float *params) { memcpy(s->ema, params, (size_t)s->net->param_elements * sizeof *params); }

/* What a checkpoint keeps: blocks of net->param_elements floats and numbers, each by name. */
static int opt_block_count(const opt_state *s) { return s->block_count; }

static float *opt_block(opt_state *s, int index, const char **name) {
    *name = index ? opt_rows[s->settings.kind].moments[index - 1] : "ema";
    return s->blocks[index];
}

static double *opt_number(opt_state *s, int index, const char **name) {
    static const char *const names[OPT_NUMBERS] = {"steps", "updates", "beta1", "mu_product", "last_batch", "start_momentum"};
    double *numbers[OPT_NUMBERS] = {&s->steps, &s->updates, &s->beta1, &s->product, &s->last, &s->start_momentum};
    *name = names[index];
    return numbers[index];
}

/* ==== 20 aug_ dl_: augmentation and training batches ===============================================================
   A batch is a function of (seed, epoch, position): each picture's random numbers come from a generator of that key, drawn
   all at once (aug_draw_sample) before a pixel is touched, and the order of an epoch from one of (seed, epoch). So neither
   the number of threads nor the cache decides anything but the time it takes.
     aug_draw    what chance decided, as ultralytics' transforms draw it, in their order and with their distributions
     aug_view    a picture or a mosaic of four, and the matrix that places it in the output. The canvas of twice the size
                 is never made: a row of the output is sampled straight from the pictures, bit for bit as if it were.
     aug_scene   up to three views (own, mixup's, cutmix's), colours and flips: aug_render makes the picture row by row
   Boxes go the same way in floats, as numpy has them. Nothing of aug_ allocates but lists of boxes.
   The mosaic takes its other three pictures from the window of the last 8 batches (at most 1000 pictures) in the order of
   the epoch, which is ultralytics' buffer for one worker, but runs round the end of the epoch instead of starting empty.
   A dl_loader's fields below its mutex are guarded by it, except a slot's pictures, each of which belongs to the worker that
   claimed it, and the pixels of a held picture, which nobody changes.
   REF ultralytics/data/augment.py v8_transforms, data/base.py BaseDataset, data/dataset.py YOLODataset, data/build.py */

enum { AUG_VIEWS = 3, AUG_TILES = 4, AUG_AREAS = 3, AUG_BORDER = 114, AUG_ONE = 2048, AUG_MAX_SIZE = 8192 };

typedef struct aug_settings { /* names and meanings of ultralytics' training arguments */
    double hsv_h, hsv_s, hsv_v, degrees, translate, scale, shear, perspective, flipud, fliplr, bgr, mosaic, mixup, cutmix;
    double scale_min, scale_max; /* with scale_max > 0 these factors instead of 1 - scale .. 1 + scale */
} aug_settings;

/* ---- chance */

typedef struct aug_view_draw {
    bool mosaic;
    int center_x, center_y;      /* of the mosaic, pixels of its canvas */
    double partners[AUG_TILES - 1]; /* shares of the window */
    double perspective[2], degrees, factor, shear[2], translate[2];
} aug_view_draw;

typedef struct aug_draw {
    aug_view_draw views[AUG_VIEWS]; /* own, mixup's, cutmix's */
    bool mixed[AUG_VIEWS];       /* [0] is always so */
    double others[AUG_VIEWS];    /* which picture, as a share of the set; [0] unused */
    double ratio;                /* mixup: of the own picture */
    double areas[AUG_AREAS][3];  /* cutmix: lambda, centre x, centre y, all 0..1 */
    double area;                 /* which of the free areas, 0..1 */
    double gains[3];             /* of hue, saturation, value */
    bool flip_y, flip_x, bgr;
} aug_draw;

static double aug_between(rng *r, double low, double high) { return low + (high - low) * rng_uniform(r); }

/* Beta(32, 32) is the median of 63 uniform numbers. */
static double aug_beta32(rng *r) {
    double sorted[63];
    for (int i = 0; i < YOLO_COUNT(sorted); i++) {
        double number = rng_uniform(r);
        int at = i;
        for (; at > 0 && sorted[at - 1] > number; at--) sorted[at] = sorted[at - 1];
        sorted[at] = number;
    }
    return sorted[YOLO_COUNT(sorted) / 2];
}

static void aug_draw_view(aug_view_draw *d, rng *r, const aug_settings *s, int imgsz, bool mosaic) {
    d->mosaic = mosaic && !(rng_uniform(r) > s->mosaic);
    d->center_y = (int)aug_between(r, imgsz / 2, 2 * imgsz - imgsz / 2);
    d->center_x = (int)aug_between(r, imgsz / 2, 2 * imgsz - imgsz / 2);
    for (int i = 0; i < AUG_TILES - 1; i++) d->partners[i] = rng_uniform(r);
    for (int i = 0; i < 2; i++) d->perspective[i] = aug_between(r, -s->perspective, s->perspective);
    d->degrees = aug_between(r, -s->degrees, s->degrees);
    d->factor = s->scale_max > 0 ? aug_between(r, s->scale_min, s->scale_max) : aug_between(r, 1 - s->scale, 1 + s->scale);
    for (int i = 0; i < 2; i++) d->shear[i] = aug_between(r, -s->shear, s->shear);
    for (int i = 0; i < 2; i++) d->translate[i] = aug_between(r, 0.5 - s->translate, 0.5 + s->translate);
}

/* Everything that chance decides about one picture. `mosaic` false leaves mosaic, mixup and cutmix out. */
static void aug_draw_sample(aug_draw *d, rng *r, const aug_settings *s, int imgsz, bool mosaic) {
    const double share[AUG_VIEWS] = {1, s->mixup, s->cutmix};
    for (int i = 0; i < AUG_VIEWS; i++) {
        d->mixed[i] = !i || (mosaic && !(rng_uniform(r) > share[i]));
        d->others[i] = rng_uniform(r);
        aug_draw_view(&d->views[i], r, s, imgsz, mosaic);
    }
    d->ratio = d->mixed[1] ? aug_beta32(r) : 1;
    for (int i = 0; i < AUG_AREAS; i++)
        for (int k = 0; k < 3; k++) d->areas[i][k] = rng_uniform(r);
    d->area = rng_uniform(r);
    const double gains[3] = {s->hsv_h, s->hsv_s, s->hsv_v};
    for (int i = 0; i < 3; i++) d->gains[i] = aug_between(r, -1, 1) * gains[i];
    d->flip_y = rng_uniform(r) < s->flipud;
    d->flip_x = rng_uniform(r) < s->fliplr;
    d->bgr = !(rng_uniform(r) > s->bgr);
}

/* ---- boxes */

typedef struct aug_label { int32_t class_id; float x, y, w, h; } aug_label; /* centre and size, normalised */
typedef struct aug_boxes { loss_target *items; int64_t count, capacity; } aug_boxes;

/* Appends a picture's labels in pixels of a canvas on which it lies, width x height, at (shift_x, shift_y). */
static bool aug_boxes_add(aug_boxes *boxes, const aug_label *labels, int64_t count, float width, float height, float shift_x, float shift_y) {
    if (!mem_grow(&boxes->items, &boxes->capacity, boxes->count + count, sizeof *boxes->items)) return false;
    for (int64_t i = 0; i < count; i++) {
        const aug_label *l = &labels[i];
        float half_w = l->w / 2, half_h = l->h / 2;
        boxes->items[boxes->count++] = (loss_target){l->class_id, {(l->x - half_w) * width + shift_x, (l->y - half_h) * height + shift_y,
                                                                   (l->x + half_w) * width + shift_x, (l->y + half_h) * height + shift_y}};
    }
    return true;
}

static bool aug_boxes_append(aug_boxes *to, const loss_target *items, int64_t count) {
    if (!mem_grow(&to->items, &to->capacity, to->count + count, sizeof *to->items)) return false;
    if (count) memcpy(to->items + to->count, items, (size_t)count * sizeof *items);
    to->count += count;
    return true;
}

static void aug_clip(float *box, float width, float height) {
    for (int i = 0; i < 4; i++) box[i] = YOLO_CLAMP(box[i], 0.0f, i & 1 ? height : width);
}

static float aug_area(const float *box) { return (box[2] - box[0]) * (box[3] - box[1]); }

/* What leaves the mosaic's canvas is cut off; boxes without area go. */
static void aug_boxes_crop(aug_boxes *boxes, int width, int height) {
    int64_t kept = 0;
    for (int64_t i = 0; i < boxes->count; i++) {
        aug_clip(boxes->items[i].box, (float)width, (float)height);
        if (aug_area(boxes->items[i].box) > 0) boxes->items[kept++] = boxes->items[i];
    }
    boxes->count = kept;
}

/* The box around the four corners as the matrix moves them. */
static void aug_box_move(const float *box, const float *m, bool perspective, float *out) {
    for (int corner = 0; corner < 4; corner++) {
        float x = box[corner & 1 ? 2 : 0], y = box[corner & 2 ? 3 : 1];
        float u = m[0] * x + m[1] * y + m[2], v = m[3] * x + m[4] * y + m[5], w = m[6] * x + m[7] * y + m[8];
        if (perspective) {
            u /= w;
            v /= w;
        }
        out[0] = corner ? YOLO_MIN(out[0], u) : u;
        out[1] = corner ? YOLO_MIN(out[1], v) : v;
        out[2] = corner ? YOLO_MAX(out[2], u) : u;
        out[3] = corner ? YOLO_MAX(out[3], v) : v;
    }
}

/* Is enough left of a box: two pixels a side, a tenth of its (scaled) area, no splinter? NaN is not enough. */
static bool aug_box_stays(const float *before, const float *after, float factor) {
    float w1 = before[2] * factor - before[0] * factor, h1 = before[3] * factor - before[1] * factor;
    float w2 = after[2] - after[0], h2 = after[3] - after[1];
    float ratio = YOLO_MAX(w2 / (h2 + 1e-16f), h2 / (w2 + 1e-16f));
    return w2 > 2 && h2 > 2 && w2 * h2 / (w1 * h1 + 1e-16f) > 0.1f && ratio < 100;
}

static void aug_boxes_move(aug_boxes *boxes, const float *matrix, bool perspective, double factor, int width, int height) {
    int64_t kept = 0;
    for (int64_t i = 0; i < boxes->count; i++) {
        loss_target moved = boxes->items[i];
        aug_box_move(boxes->items[i].box, matrix, perspective, moved.box);
        aug_clip(moved.box, (float)width, (float)height);
        if (aug_box_stays(boxes->items[i].box, moved.box, (float)factor)) boxes->items[kept++] = moved;
    }
    boxes->count = kept;
}

static float aug_shared(const float *a, const float *b) {
    float w = YOLO_MIN(a[2], b[2]) - YOLO_MAX(a[0], b[0]), h = YOLO_MIN(a[3], b[3]) - YOLO_MAX(a[1], b[1]);
    return YOLO_MAX(w, 0.0f) * YOLO_MAX(h, 0.0f);
}

/* The rectangle of draw `area`: its centre anywhere, its share of the picture 1 - lambda. */
static void aug_cut_area(const double *area, int width, int height, float *box) {
    double ratio = sqrt(1.0 - area[0]);
    int w = (int)(width * ratio), h = (int)(height * ratio);
    int x = (int)(area[1] * width), y = (int)(area[2] * height);
    box[0] = (float)YOLO_CLAMP(x - w / 2, 0, width);
    box[1] = (float)YOLO_CLAMP(y - h / 2, 0, height);
    box[2] = (float)YOLO_CLAMP(x + w / 2, 0, width);
    box[3] = (float)YOLO_CLAMP(y + h / 2, 0, height);
}

/* Cutmix: of the drawn areas one that meets no box of `boxes`, and that has a tenth of a box of `others`; those are
   appended, cut to it. Without such an area nothing happens: `cut` is empty. False for want of memory. */
static bool aug_cut(const aug_draw *d, aug_boxes *boxes, const aug_boxes *others, int width, int height, int *cut) {
    float areas[AUG_AREAS][4];
    int count = 0;
    memset(cut, 0, 4 * sizeof *cut);
    for (int i = 0; i < AUG_AREAS; i++) {
        bool clear = true;
        aug_cut_area(d->areas[i], width, height, areas[count]);
        for (int64_t k = 0; clear && k < boxes->count; k++) clear = !(aug_shared(areas[count], boxes->items[k].box) > 0);
        count += clear;
    }
    if (!count) return true;
    const float *area = areas[(int)(d->area * count)];
    int64_t before = boxes->count;
    for (int64_t k = 0; k < others->count; k++) {
        loss_target t = others->items[k];
        if (!(aug_shared(area, t.box) / (aug_area(t.box) + 1e-7f) >= 0.1f)) continue;
        for (int i = 0; i < 4; i++) t.box[i] = YOLO_CLAMP(t.box[i], area[i & 1], area[2 + (i & 1)]);
        if (!aug_boxes_append(boxes, &t, 1)) return false;
    }
    for (int i = 0; boxes->count > before && i < 4; i++) cut[i] = (int)area[i];
    return true;
}

static void aug_boxes_flip(aug_boxes *boxes, bool flip_x, bool flip_y, float width, float height) {
    for (int64_t i = 0; i < boxes->count; i++) {
        float *b = boxes->items[i].box, left = width - b[2], top = height - b[3];
        if (flip_x) {
            b[2] = width - b[0];
            b[0] = left;
        }
        if (flip_y) {
            b[3] = height - b[1];
            b[1] = top;
        }
    }
}

/* ---- sampling */

typedef struct aug_tile {      /* where a picture lies on the canvas */
    const uint8_t *pixels;     /* AUG_SLACK bytes behind the last row may be read */
    int stride;                /* bytes a row */
    int x1, y1, x2, y2;        /* what it covers */
    int shift_x, shift_y;      /* canvas position of its first pixel */
} aug_tile;
enum { AUG_SLACK = 16 };

typedef struct aug_view {
    aug_tile tiles[AUG_TILES];
    int tile_count, canvas_width, canvas_height;
    float matrix[9];           /* canvas to output */
    double inverse[9];
    bool perspective;
} aug_view;

/* Four pictures around the centre. REF ultralytics/data/augment.py Mosaic.get_params */
static void aug_tile_place(aug_tile *t, int which, int width, int height, int center_x, int center_y, int canvas) {
    bool right = which & 1, low = which & 2;
    t->shift_x = right ? center_x : center_x - width;
    t->shift_y = low ? center_y : center_y - height;
    t->x1 = YOLO_MAX(t->shift_x, 0);
    t->y1 = YOLO_MAX(t->shift_y, 0);
    t->x2 = YOLO_MIN(t->shift_x + width, canvas);
    t->y2 = YOLO_MIN(t->shift_y + height, canvas);
}

static void aug_multiply(double *out, const double *a, const double *b) {
    for (int i = 0; i < 9; i++) {
        const double *row = a + i / 3 * 3, *column = b + i % 3;
        out[i] = row[0] * column[0] + row[1] * column[3] + row[2] * column[6];
    }
}

/* Zeros, as cv2 has it, where there is no inverse. */
static void aug_invert(double *out, const float *m) {
    double a[9], determinant = 0;
    for (int i = 0; i < 9; i++) a[i] = m[i];
    for (int i = 0; i < 9; i++) {
        int r = i % 3, c = i / 3; /* transposed */
        int r1 = (r + 1) % 3, r2 = (r + 2) % 3, c1 = (c + 1) % 3, c2 = (c + 2) % 3;
        out[i] = a[r1 * 3 + c1] * a[r2 * 3 + c2] - a[r1 * 3 + c2] * a[r2 * 3 + c1];
    }
    for (int i = 0; i < 3; i++) determinant += a[i] * out[i * 3];
    bool good = fabs(determinant) > 1e-9;
    for (int i = 0; i < 9; i++) out[i] = good ? out[i] / determinant : 0;
}

/* Centre to the origin, perspective, rotation and scale, shear, translation into the output. */
static void aug_view_aim(aug_view *v, const aug_view_draw *d, bool perspective, int width, int height) {
    const double pi = 3.14159265358979323846, turn = d->degrees * pi / 180;
    const double center[9] = {1, 0, -v->canvas_width / 2.0, 0, 1, -v->canvas_height / 2.0, 0, 0, 1};
    const double tilt[9] = {1, 0, 0, 0, 1, 0, d->perspective[0], d->perspective[1], 1};
    const double c = cos(turn) * d->factor, s = sin(turn) * d->factor, rotate[9] = {c, s, 0, -s, c, 0, 0, 0, 1};
    const double shear[9] = {1, tan(d->shear[0] * pi / 180), 0, tan(d->shear[1] * pi / 180), 1, 0, 0, 0, 1};
    const double move[9] = {1, 0, d->translate[0] * width, 0, 1, d->translate[1] * height, 0, 0, 1};
    double a[9], b[9];
    aug_multiply(a, tilt, center);
    aug_multiply(b, rotate, a);
    aug_multiply(a, shear, b);
    aug_multiply(b, move, a);
    for (int i = 0; i < 9; i++) v->matrix[i] = (float)b[i];
    v->perspective = perspective;
    aug_invert(v->inverse, v->matrix);
}

/* Canvas coordinates along a row of the output: x of pixel i is i * step_x + start_x. */
typedef struct aug_line { float step_x, start_x, step_y, start_y; } aug_line;

/* Bilinear, as cv2 has it, with weights of 11 bits: within 0.1 of the exact value, then rounded. */
static void aug_mix(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, int right, int low, uint8_t *out) {
    for (int i = 0; i < 3; i++) {
        int above = (a[i] * (AUG_ONE - right) + b[i] * right) >> 4, below = (c[i] * (AUG_ONE - right) + d[i] * right) >> 4;
        out[i] = (uint8_t)((above * (AUG_ONE - low) + below * low + (1 << 17)) >> 18);
    }
}

static int aug_weight(float at) { return (int)lrintf((at - floorf(at)) * AUG_ONE); }

static const uint8_t *aug_canvas(const aug_view *v, int x, int y) {
    static const uint8_t border[3] = {AUG_BORDER, AUG_BORDER, AUG_BORDER};
    for (int i = 0; i < v->tile_count; i++) {
        const aug_tile *t = &v->tiles[i];
        if (x >= t->x1 && x < t->x2 && y >= t->y1 && y < t->y2)
            return t->pixels + (ptrdiff_t)(y - t->shift_y) * t->stride + (x - t->shift_x) * 3;
    }
    return border;
}

/* One pixel, wherever it is. */
static void aug_sample(const aug_view *v, float x, float y, uint8_t *out) {
    if (!(x >= -1 && x < (float)v->canvas_width && y >= -1 && y < (float)v->canvas_height)) {
        memset(out, AUG_BORDER, 3);
        return;
    }
    int left = (int)floorf(x), top = (int)floorf(y);
    aug_mix(aug_canvas(v, left, top), aug_canvas(v, left + 1, top), aug_canvas(v, left, top + 1), aug_canvas(v, left + 1, top + 1),
            aug_weight(x), aug_weight(y), out);
}

static void aug_row_perspective(const aug_view *v, int y, int first, int end, uint8_t *row) {
    const double *m = v->inverse;
    float start_x = (float)(m[1] * y + m[2]), start_y = (float)(m[4] * y + m[5]), start_w = (float)(m[7] * y + m[8]);
    for (int x = first; x < end; x++) {
        float w = (float)m[6] * (float)x + start_w;
        aug_sample(v, ((float)m[0] * (float)x + start_x) / w, ((float)m[3] * (float)x + start_y) / w, row + 4 * x);
    }
}

/* Keeps of [*from, *to] the positions where low <= position * step + start < high, give or take rounding. */
static void aug_narrow(double step, double start, double low, double high, double *from, double *to) {
    if (step == 0) {
        if (!(start >= low && start < high)) *to = *from - 1;
        return;
    }
    double a = (low - start) / step, b = (high - start) / step;
    *from = YOLO_MAX(*from, YOLO_MIN(a, b));
    *to = YOLO_MIN(*to, YOLO_MAX(a, b));
}

/* Of the pixels [*first, *end): those whose coordinates lie in [x1, x2) x [y1, y2), give or take one. */
static void aug_span(const aug_line *l, int x1, int y1, int x2, int y2, int *first, int *end) {
    double from = *first, to = *end - 1;
    aug_narrow(l->step_x, l->start_x, x1, x2, &from, &to);
    aug_narrow(l->step_y, l->start_y, y1, y2, &from, &to);
    if (from > to) {
        *end = *first;
        return;
    }
    *first = YOLO_MAX(*first, (int)floor(from));
    *end = YOLO_MIN(*end, (int)ceil(to) + 1);
}

static bool aug_inside(const aug_line *l, const aug_tile *t, int i) {
    float x = (float)i * l->step_x + l->start_x, y = (float)i * l->step_y + l->start_y;
    return x >= (float)t->x1 && x < (float)(t->x2 - 1) && y >= (float)t->y1 && y < (float)(t->y2 - 1);
}

#ifdef YOLO_X86
/* right, low: AUG_ONE - weight and weight, in every 32 bits. Gives red, green, blue and nonsense. */
static inline __m128i aug_mix_x86(const uint8_t *p, int stride, __m128i right, __m128i low) {
    const __m128i zero = _mm_setzero_si128(), half = _mm_set1_epi32(1 << 17);
    __m128i above = _mm_loadl_epi64((const __m128i *)(const void *)p), below = _mm_loadl_epi64((const __m128i *)(const void *)(p + stride));
    above = _mm_unpacklo_epi8(_mm_unpacklo_epi8(above, _mm_srli_si128(above, 3)), zero); /* r r' g g' b b' */
    below = _mm_unpacklo_epi8(_mm_unpacklo_epi8(below, _mm_srli_si128(below, 3)), zero);
    above = _mm_srli_epi32(_mm_madd_epi16(above, right), 4);
    below = _mm_srli_epi32(_mm_madd_epi16(below, right), 4);
    return _mm_srli_epi32(_mm_add_epi32(_mm_madd_epi16(_mm_or_si128(above, _mm_slli_epi32(below, 16)), low), half), 18);
}

/* Pixels [x, end) of a run, four at a time; returns where it stopped. */
static int aug_run_x86(const aug_tile *t, const aug_line *l, int x, int end, uint8_t *row) {
    const __m128 step_x = _mm_set1_ps(l->step_x), start_x = _mm_set1_ps(l->start_x), step_y = _mm_set1_ps(l->step_y),
                 start_y = _mm_set1_ps(l->start_y), unit = _mm_set1_ps(AUG_ONE);
    const __m128i one = _mm_set1_epi32(AUG_ONE), pitch = _mm_set1_epi32(t->stride | 3 << 16);
    const __m128i base = _mm_set1_epi32(t->shift_y * t->stride + t->shift_x * 3), lanes = _mm_set_epi32(3, 2, 1, 0);
    for (; x + 4 <= end; x += 4) {
        __m128 i = _mm_cvtepi32_ps(_mm_add_epi32(_mm_set1_epi32(x), lanes));
        __m128 at_x = _mm_add_ps(_mm_mul_ps(i, step_x), start_x), at_y = _mm_add_ps(_mm_mul_ps(i, step_y), start_y);
        __m128i left = _mm_cvttps_epi32(at_x), top = _mm_cvttps_epi32(at_y);
        __m128i right = _mm_cvtps_epi32(_mm_mul_ps(_mm_sub_ps(at_x, _mm_cvtepi32_ps(left)), unit));
        __m128i low = _mm_cvtps_epi32(_mm_mul_ps(_mm_sub_ps(at_y, _mm_cvtepi32_ps(top)), unit));
        __m128i offset = _mm_sub_epi32(_mm_madd_epi16(_mm_or_si128(top, _mm_slli_epi32(left, 16)), pitch), base);
        int32_t at[4];
        _mm_storeu_si128((__m128i *)(void *)at, offset);
        right = _mm_sub_epi32(_mm_add_epi32(one, _mm_slli_epi32(right, 16)), right);
        low = _mm_sub_epi32(_mm_add_epi32(one, _mm_slli_epi32(low, 16)), low);
        __m128i a = aug_mix_x86(t->pixels + at[0], t->stride, _mm_shuffle_epi32(right, 0x00), _mm_shuffle_epi32(low, 0x00));
        __m128i b = aug_mix_x86(t->pixels + at[1], t->stride, _mm_shuffle_epi32(right, 0x55), _mm_shuffle_epi32(low, 0x55));
        __m128i c = aug_mix_x86(t->pixels + at[2], t->stride, _mm_shuffle_epi32(right, 0xaa), _mm_shuffle_epi32(low, 0xaa));
        __m128i d = aug_mix_x86(t->pixels + at[3], t->stride, _mm_shuffle_epi32(right, 0xff), _mm_shuffle_epi32(low, 0xff));
        _mm_storeu_si128((__m128i *)(void *)(row + 4 * x), _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d)));
    }
    return x;
}
#endif

/* Pixels whose four neighbours all lie in one tile. */
static void aug_run(const aug_tile *t, const aug_line *l, int x, int end, uint8_t *row) {
#ifdef YOLO_X86
    x = aug_run_x86(t, l, x, end, row);
#endif
    for (; x < end; x++) {
        float at_x = (float)x * l->step_x + l->start_x, at_y = (float)x * l->step_y + l->start_y;
        const uint8_t *p = t->pixels + (ptrdiff_t)((int)at_y - t->shift_y) * t->stride + ((int)at_x - t->shift_x) * 3, *q = p + t->stride;
        aug_mix(p, p + 3, q, q + 3, aug_weight(at_x), aug_weight(at_y), row + 4 * x);
    }
}

/* Pixels [first, end) of row y of the output, four bytes each, of which the last means nothing. A line crosses a tile
   in one run; only at its ends, where pixels of a tile meet others or the border, each neighbour is looked up. */
static void aug_row(const aug_view *v, int y, int first, int end, uint8_t *row) {
    if (v->perspective) {
        aug_row_perspective(v, y, first, end, row);
        return;
    }
    const double *m = v->inverse;
    const aug_line line = {(float)m[0], (float)(m[1] * y + m[2]), (float)m[3], (float)(m[4] * y + m[5])};
    memset(row + 4 * first, AUG_BORDER, (size_t)(end - first) * 4);
    for (int i = 0; i < v->tile_count; i++) {
        const aug_tile *t = &v->tiles[i];
        int from = first, to = end;
        aug_span(&line, t->x1 - 1, t->y1 - 1, t->x2, t->y2, &from, &to);
        int run = from, stop = to;
        aug_span(&line, t->x1, t->y1, t->x2 - 1, t->y2 - 1, &run, &stop);
        while (run < stop && !aug_inside(&line, t, run)) run++;
        while (run < stop && !aug_inside(&line, t, stop - 1)) stop--;
        aug_run(t, &line, run, stop, row);
        for (int x = from; x < to; x++) {
            if (x == run && run < stop) x = stop;
            if (x < to) aug_sample(v, (float)x * line.step_x + line.start_x, (float)x * line.step_y + line.start_y, row + 4 * x);
        }
    }
}

/* ---- colours */

/* cv2's 8-bit RGB -> HSV (12-bit reciprocals), the three look-up tables of the gains, and HSV -> RGB: each channel is
   value * (1 - saturation * weight of the hue), truncated as cv2's vector code does. */
typedef struct aug_hsv {
    int32_t by_value[256], by_range[256];
    float saturation[256], value[256]; /* after the gain, 0..1 */
    float weight[256][4];              /* of a hue before the gain, for each byte of the output */
} aug_hsv;

static void aug_hue_weights(float *weight, double hue, bool bgr) {
    static const uint8_t sectors[6][3] = {{0, 3, 1}, {2, 0, 1}, {1, 0, 3}, {1, 2, 0}, {3, 1, 0}, {0, 1, 2}}; /* for red, green, blue */
    float at = (float)(int)hue * (6.0f / 180.0f);
    int sector = (int)at;
    float part = at - (float)sector, kinds[4] = {0, 1, part, 1.0f - part};
    for (int i = 0; i < 3; i++) weight[bgr ? 2 - i : i] = kinds[sectors[sector % 6][i]];
    weight[3] = 0;
}

static void aug_hsv_make(aug_hsv *t, const double *gains, bool bgr) {
    memset(t, 0, sizeof *t);
    for (int i = 0; i < 256; i++) {
        if (i) t->by_value[i] = (int32_t)lrint((255 << 12) / (double)i);
        if (i) t->by_range[i] = (int32_t)lrint((180 << 12) / (6.0 * i));
        double hue = fmod(i + gains[0] * 180, 180.0);
        aug_hue_weights(t->weight[i], hue < 0 ? hue + 180 : hue, bgr);
        t->saturation[i] = (float)(int)YOLO_CLAMP(i * (gains[1] + 1), 0.0, 255.0) * (1.0f / 255.0f);
        t->value[i] = (float)(int)YOLO_CLAMP(i * (gains[2] + 1), 0.0, 255.0) * (1.0f / 255.0f);
    }
    t->saturation[0] = 0; /* white and gray stay so */
}

/* count pixels of four bytes into three bytes each, `step` (3 or -3) apart. */
static void aug_hsv_row(const aug_hsv *t, const uint8_t *row, int count, uint8_t *out, ptrdiff_t step) {
    for (int i = 0; i < count; i++, row += 4, out += step) {
        int r = row[0], g = row[1], b = row[2];
        int high = YOLO_MAX(r, YOLO_MAX(g, b)), range = high - YOLO_MIN(r, YOLO_MIN(g, b));
        int around = high == r ? g - b : high == g ? b - r + 2 * range : r - g + 4 * range;
        int hue = (around * t->by_range[range] + 2048) >> 12, saturation = (range * t->by_value[high] + 2048) >> 12;
        const float *weight = t->weight[hue < 0 ? hue + 180 : hue], s = t->saturation[saturation], v = t->value[high];
#ifdef YOLO_X86
        __m128 rest = _mm_sub_ps(_mm_set1_ps(1.0f), _mm_mul_ps(_mm_set1_ps(s), _mm_loadu_ps(weight)));
        __m128i all = _mm_cvttps_epi32(_mm_mul_ps(_mm_mul_ps(_mm_set1_ps(v), rest), _mm_set1_ps(255.0f)));
        all = _mm_packs_epi32(all, all);
        uint32_t pixel = (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(all, all));
        out[0] = (uint8_t)pixel;
        out[1] = (uint8_t)(pixel >> 8);
        out[2] = (uint8_t)(pixel >> 16);
#else
        for (int c = 0; c < 3; c++) out[c] = (uint8_t)(int)(v * (1.0f - s * weight[c]) * 255.0f);
#endif
    }
}

/* ---- the picture */

typedef struct aug_scene {
    aug_view views[AUG_VIEWS];
    bool mixup;
    double ratio;
    int cut[4];           /* cutmix: x1 y1 x2 y2; empty = none */
    bool coloured, flip_x, flip_y, bgr;
    aug_hsv colours;
    int width, height;
    uint8_t *rows[2];     /* width * 4 bytes each */
} aug_scene;

static void aug_blend(uint8_t *row, const uint8_t *other, int count, double ratio) {
    for (int i = 0; i < count * 4; i++) row[i] = (uint8_t)(row[i] * ratio + other[i] * (1 - ratio));
}

/* Three bytes of each pixel, in the order asked for. */
static void aug_plain_row(const uint8_t *row, int count, uint8_t *out, ptrdiff_t step, bool bgr) {
    int red = bgr ? 2 : 0;
    for (int i = 0; i < count; i++, row += 4, out += step) {
        out[red] = row[0];
        out[1] = row[1];
        out[2 - red] = row[2];
    }
}

/* Makes the picture: width * height * 3 bytes. */
static void aug_render(const aug_scene *s, uint8_t *out) {
    size_t size = (size_t)s->width * 3;
    for (int line = 0; line < s->height; line++) {
        int y = s->flip_y ? s->height - 1 - line : line;
        uint8_t *row = s->rows[0], *to = out + size * (size_t)line + (s->flip_x ? size - 3 : 0);
        ptrdiff_t step = s->flip_x ? -3 : 3;
        aug_row(&s->views[0], y, 0, s->width, row);
        if (s->mixup) {
            aug_row(&s->views[1], y, 0, s->width, s->rows[1]);
            aug_blend(row, s->rows[1], s->width, s->ratio);
        }
        if (y >= s->cut[1] && y < s->cut[3]) aug_row(&s->views[2], y, s->cut[0], s->cut[2], row);
        if (s->coloured) aug_hsv_row(&s->colours, row, s->width, to, step);
        else aug_plain_row(row, s->width, to, step, s->bgr);
    }
}

/* ---- the loader: what there is */

enum { DL_SLOTS = 3, DL_WINDOW = 1000, DL_HELD = AUG_VIEWS * AUG_TILES };

typedef struct dl_options {
    int imgsz, batch, stride; /* pixels, multiple of the stride; pictures; 32 */
    int workers;              /* threads of its own; 0 = dl_next does the work itself, on `pool` */
    thr_pool *pool;           /* for workers == 0; NULL = the calling thread alone */
    bool rect;                /* batches of like shapes: no mosaic, mixup or cutmix */
    bool shuffle, augment, single_cls;
    uint64_t seed;
    uint64_t cache_bytes;     /* for decoded pictures between uses; 0 = what the mosaic's window takes */
    double fraction;          /* of the pictures, 0..1; above 1: so many of them */
    const int *classes;       /* keep labels of these only; NULL = all */
    int class_count;
    aug_settings augmentation;
    yolo_log log;
} dl_options;

typedef enum dl_state { DL_ABSENT, DL_LOADING, DL_READY, DL_DAMAGED } dl_state;

typedef struct dl_item {
    const char *path;
    int width, height;        /* as loaded: longer side imgsz */
    int file_width, file_height;
    int64_t first_label, label_count;
    dl_state state;           /* from here on under the mutex */
    int holders;
    uint64_t used;            /* when last, for what does not stay */
    uint8_t *pixels;          /* not to be changed while held */
} dl_item;

typedef struct dl_batch { /* owned by the loader, valid until the next dl_next or dl_start */
    uint8_t *pixels;          /* n,h,w,3 RGB */
    int n, h, w;
    loss_target *targets;     /* network pixels */
    int *first;               /* n + 1: picture i owns targets first[i] .. first[i + 1] */
    const int64_t *pictures;  /* index in loader->items of the picture each one was made of first */
} dl_batch;

typedef struct dl_slot {      /* a batch in the making */
    uint8_t *pixels;
    aug_boxes *boxes;         /* of each picture */
    int64_t *pictures;
    int done;
} dl_slot;

typedef struct dl_loader dl_loader;
typedef struct dl_worker {
    dl_loader *loader;
    os_thread thread;
    aug_scene scene;
    aug_boxes boxes[AUG_VIEWS];
    int64_t held[DL_HELD];    /* items whose pixels the scene points to */
    int held_count;
} dl_worker;

struct dl_loader {
    dl_options options;
    dl_item *items;
    aug_label *labels;
    int *rect_height, *rect_width; /* of each batch with rect */
    int64_t pictures;         /* of the set, damaged headers left out */
    int64_t label_count, background, damaged, unlabelled, bad_lines, duplicates;
    int64_t *instances;       /* labels of each class */
    int class_count, window;
    bool shuffles;
    uint64_t cache_limit, keep_limit; /* bytes in all, and of what stays */
    dl_worker *workers;
    int worker_count, thread_count;

    os_mutex mutex;
    os_condition changed;
    uint64_t cached_bytes, kept_bytes, clock;
    int64_t cached;           /* pictures */
    int64_t *passing;         /* those of them that do not stay */
    int64_t passing_count;
    str news;                 /* damaged pictures to be told by the calling thread, a NUL behind each */
    int64_t *order;           /* items in the order of the epoch */
    int epoch;
    bool mosaic, closing;
    int64_t claimed, end;     /* positions of the epoch */
    int64_t delivered, released; /* batches: handed out, and their slots free again */
    int busy;                 /* workers with a claim */
    dl_slot slots[DL_SLOTS];
    yolo_status status;       /* the first failure; everyone stops on it */
    yolo_error error;
    dl_batch batch;
    int64_t target_capacity;
};

static int64_t dl_batch_count(const dl_loader *dl) { return (dl->pictures + dl->options.batch - 1) / dl->options.batch; }

static yolo_status dl_check(const data_list *train, int class_count, const dl_options *o, yolo_error *error) {
    const aug_settings *a = &o->augmentation;
    const struct { const char *name; double value, low, high; } ranges[] = {
        {"batch", o->batch, 1, 65536}, {"stride", o->stride, 1, 1024}, {"imgsz", o->imgsz, o->stride, AUG_MAX_SIZE},
        {"hsv_h", a->hsv_h, 0, 1}, {"hsv_s", a->hsv_s, 0, 1}, {"hsv_v", a->hsv_v, 0, 1}, {"degrees", a->degrees, 0, 180},
        {"translate", a->translate, 0, 1}, {"scale", a->scale, 0, 1}, {"shear", a->shear, 0, 89}, {"perspective", a->perspective, 0, 0.1},
        {"flipud", a->flipud, 0, 1}, {"fliplr", a->fliplr, 0, 1}, {"bgr", a->bgr, 0, 1}, {"mosaic", a->mosaic, 0, 1},
        {"mixup", a->mixup, 0, 1}, {"cutmix", a->cutmix, 0, 1}, {"scale", a->scale_min, 0, a->scale_max}, {"scale", a->scale_max, 0, 100}};
    for (int i = 0; i < YOLO_COUNT(ranges); i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return err_set(error, YOLO_ERROR_USAGE, "%s=%g: expected %g to %g", ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
    if (o->imgsz % o->stride)
        return err_set(error, YOLO_ERROR_USAGE, "imgsz=%d: expected a multiple of the stride %d", o->imgsz, o->stride);
    if (!(o->fraction > 0 && o->fraction < 1e9))
        return err_set(error, YOLO_ERROR_USAGE, "fraction=%g: expected a share above 0, at most 1", o->fraction);
    for (int i = 0; i < o->class_count; i++)
        if (o->classes[i] < 0 || o->classes[i] >= class_count)
            return err_set(error, YOLO_ERROR_USAGE, "classes: %d is no class, expected 0 to %d", o->classes[i], class_count - 1);
    if (!train->count)
        return err_set(error, YOLO_ERROR_IO, "%s", train->complaint[0] ? train->complaint : "no pictures to train on");
    return YOLO_OK;
}

static bool dl_class_wanted(const dl_options *o, int class_id) {
    bool wanted = !o->classes;
    for (int i = 0; i < o->class_count; i++) wanted |= o->classes[i] == class_id;
    return wanted;
}

static yolo_status dl_read_labels(dl_loader *dl, dl_item *item, int64_t *capacity, yolo_error *error) {
    const dl_options *o = &dl->options;
    lbl_list list = {0};
    char *path = data_label_path(item->path);
    yolo_status status = path ? lbl_read(path, o->single_cls ? 0 : dl->class_count, &list, &o->log, error) : err_memory(error, DATA_PATH_SIZE);
    mem_free(path);
    if (status == YOLO_OK && !mem_grow(&dl->labels, capacity, dl->label_count + list.count, sizeof *dl->labels))
        status = err_memory(error, (uint64_t)(dl->label_count + list.count) * sizeof *dl->labels);
    item->first_label = dl->label_count;
    for (int64_t i = 0; status == YOLO_OK && i < list.count; i++) {
        const lbl_box *b = &list.items[i];
        if (!dl_class_wanted(o, b->class_id)) continue;
        aug_label label = {o->single_cls ? 0 : b->class_id, (float)b->x, (float)b->y, (float)b->w, (float)b->h};
        dl->labels[dl->label_count++] = label;
        dl->instances[label.class_id]++;
    }
    item->label_count = dl->label_count - item->first_label;
    dl->unlabelled += list.missing;
    dl->bad_lines += list.bad_lines;
    dl->duplicates += list.duplicates;
    dl->background += !item->label_count;
    lbl_list_free(&list);
    return status;
}

/* Sizes from the headers, and the labels. What has no readable header is told and left out. */
static yolo_status dl_gather(dl_loader *dl, const data_list *train, yolo_error *error) {
    const dl_options *o = &dl->options;
    int64_t count = o->fraction > 1 ? (int64_t)o->fraction : (int64_t)rint((double)train->count * o->fraction), capacity = 0;
    count = YOLO_CLAMP(count, 1, train->count);
    dl->items = mem_array((uint64_t)count, sizeof *dl->items);
    dl->instances = mem_array((uint64_t)YOLO_MAX(dl->class_count, 1), sizeof *dl->instances);
    if (!dl->items || !dl->instances) return err_memory(error, (uint64_t)count * sizeof *dl->items);
    yolo_error damage;
    for (int64_t i = 0; i < count; i++) {
        if (err_interrupted) return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted while labels were read");
        dl_item *item = &dl->items[dl->pictures];
        memset(item, 0, sizeof *item);
        item->path = train->paths[i];
        yolo_status status = codec_size(item->path, &item->file_width, &item->file_height, &damage);
        if (status == YOLO_ERROR_MEMORY && !item->file_width) return err_set(error, status, "%s", damage.message); /* not the picture's fault */
        if (status != YOLO_OK) {
            log_write(&o->log, YOLO_LOG_WARNING, "%s", damage.message);
            dl->damaged++;
            continue;
        }
        img_load_size(item->file_width, item->file_height, o->imgsz, &item->width, &item->height);
        if ((status = dl_read_labels(dl, item, &capacity, error)) != YOLO_OK) return status;
        dl->pictures++;
    }
    if (!dl->pictures)
        return err_set(error, YOLO_ERROR_FORMAT, "none of the %lld pictures to train on can be read: %s", (long long)count, damage.message);
    if (dl->unlabelled < dl->pictures) return YOLO_OK;
    char *path = data_label_path(dl->items[0].path);
    err_set(error, YOLO_ERROR_IO, "no label file for any of the %lld pictures to train on: expected %s and so on", (long long)dl->pictures,
            path ? path : "one beside each");
    mem_free(path);
    return YOLO_ERROR_IO;
}

static int dl_ratio_order(const void *a, const void *b) {
    const dl_item *x = a, *y = b;
    double p = (double)x->file_height / x->file_width, q = (double)y->file_height / y->file_width;
    return p != q ? (p < q ? -1 : 1) : strcmp(x->path, y->path);
}

/* Sorts the pictures by shape; each batch gets the smallest rectangle. Where shapes differ it is never shuffled. */
static yolo_status dl_rectangles(dl_loader *dl, yolo_error *error) {
    const dl_options *o = &dl->options;
    int64_t batches = dl_batch_count(dl);
    dl->rect_width = mem_array((uint64_t)batches, sizeof *dl->rect_width);
    dl->rect_height = mem_array((uint64_t)batches, sizeof *dl->rect_height);
    if (!dl->rect_width || !dl->rect_height) return err_memory(error, (uint64_t)batches * 8);
    qsort(dl->items, (size_t)dl->pictures, sizeof *dl->items, dl_ratio_order);
    for (int64_t i = 0; i < batches; i++) {
        const dl_item *low = &dl->items[i * o->batch], *high = &dl->items[YOLO_MIN((i + 1) * o->batch, dl->pictures) - 1];
        double least = (double)low->file_height / low->file_width, most = (double)high->file_height / high->file_width;
        double tall = most < 1 ? most : 1, wide = least > 1 ? 1 / least : 1;
        dl->rect_height[i] = (int)ceil(tall * o->imgsz / o->stride) * o->stride;
        dl->rect_width[i] = (int)ceil(wide * o->imgsz / o->stride) * o->stride;
        if (dl->rect_height[i] != dl->rect_height[0] || dl->rect_width[i] != dl->rect_width[0]) dl->shuffles = false;
    }
    return YOLO_OK;
}

static uint64_t dl_item_bytes(const dl_item *item) { return (uint64_t)item->width * (uint64_t)item->height * 3 + AUG_SLACK; }

/* All of it stays when it fits; else what comes first stays, and the rest of the budget, half of it at least where the
   window takes that much, is for the pictures used last. */
static void dl_plan_cache(dl_loader *dl) {
    uint64_t total = 0, largest = 0;
    for (int64_t i = 0; i < dl->pictures; i++) {
        total += dl_item_bytes(&dl->items[i]);
        largest = YOLO_MAX(largest, dl_item_bytes(&dl->items[i]));
    }
    uint64_t window = YOLO_MIN(total, (uint64_t)dl->window * largest);
    dl->cache_limit = dl->options.cache_bytes ? dl->options.cache_bytes : window;
    dl->keep_limit = total <= dl->cache_limit ? dl->cache_limit : dl->cache_limit - YOLO_MIN(window, dl->cache_limit / 2);
    if (!dl->options.cache_bytes) dl->keep_limit = 0;
}

static yolo_status dl_make_room(dl_loader *dl, yolo_error *error) {
    const dl_options *o = &dl->options;
    uint64_t size = (uint64_t)o->imgsz * (uint64_t)o->imgsz * 3;
    int slots = o->workers > 0 ? DL_SLOTS : 1, batch = (int)YOLO_MIN(o->batch, dl->pictures);
    bool good = (dl->order = mem_array((uint64_t)dl->pictures, sizeof *dl->order)) != NULL;
    good = (dl->passing = mem_array((uint64_t)dl->pictures, sizeof *dl->passing)) && good;
    good = (dl->batch.first = mem_array((uint64_t)batch + 1, sizeof *dl->batch.first)) && good;
    good = (dl->workers = mem_array((uint64_t)dl->worker_count, sizeof *dl->workers)) && good;
    for (int i = 0; good && i < slots; i++) {
        dl_slot *slot = &dl->slots[i];
        good = (slot->pixels = mem_alloc((size_t)(size * (uint64_t)batch))) && (slot->boxes = mem_array((uint64_t)batch, sizeof *slot->boxes)) &&
               (slot->pictures = mem_array((uint64_t)batch, sizeof *slot->pictures));
    }
    for (int i = 0; good && i < dl->worker_count; i++) {
        dl->workers[i].loader = dl;
        for (int k = 0; k < 2; k++) good = (dl->workers[i].scene.rows[k] = mem_array((uint64_t)o->imgsz * 4, 1)) && good;
    }
    return good ? YOLO_OK : err_memory(error, size * (uint64_t)batch * (uint64_t)slots);
}

/* ---- the loader: decoded pictures */

/* Decodes and resizes as ultralytics loads. The block has AUG_SLACK bytes behind the pixels. */
static yolo_status dl_decode(const dl_loader *dl, const dl_item *item, uint8_t **pixels, yolo_error *error) {
    yolo_image image;
    (void)dl;
    *pixels = NULL;
    yolo_status status = codec_read(item->path, &image, error);
    if (status != YOLO_OK) return status;
    size_t row = (size_t)item->width * 3, size = row * (size_t)item->height;
    if (image.width != item->file_width || image.height != item->file_height)
        status = err_set(error, YOLO_ERROR_FORMAT, "%s: now %d x %d pixels, was %d x %d when the run began", item->path, image.width,
                         image.height, item->file_width, item->file_height);
    else if (!(*pixels = mem_alloc(size + AUG_SLACK))) status = err_memory(error, size);
    else {
        img_tile tile;
        memset(*pixels + size, 0, AUG_SLACK);
        for (int first = 0; first < item->width; first += IMG_TILE) {
            img_tile_start(&tile, &image, item->width, item->height, first);
            for (int y = 0; y < item->height; y++) img_tile_row(&tile, y, *pixels + row * (size_t)y + (size_t)first * 3);
        }
    }
    mem_free(image.pixels);
    return status;
}

/* Under the mutex. Takes a picture that nobody holds out of the cache. */
static void dl_drop(dl_loader *dl, int64_t at) {
    dl_item *item = &dl->items[dl->passing[at]];
    dl->cached_bytes -= dl_item_bytes(item);
    dl->cached--;
    mem_free(item->pixels);
    item->pixels = NULL;
    item->state = DL_ABSENT;
    dl->passing[at] = dl->passing[--dl->passing_count];
}

/* Under the mutex. Frees what was used longest ago until `bytes` fit; what is held or stays is not touched. */
static void dl_evict(dl_loader *dl, uint64_t bytes) {
    while (dl->cached_bytes + bytes > dl->cache_limit) {
        int64_t oldest = -1;
        for (int64_t i = 0; i < dl->passing_count; i++) {
            const dl_item *item = &dl->items[dl->passing[i]];
            if (!item->holders && (oldest < 0 || item->used < dl->items[dl->passing[oldest]].used)) oldest = i;
        }
        if (oldest < 0) return;
        dl_drop(dl, oldest);
    }
}

/* Under the mutex. */
static void dl_fail(dl_loader *dl, yolo_status status, const yolo_error *error) {
    if (dl->status == YOLO_OK) {
        dl->status = status;
        dl->error = *error;
        dl->error.status = status;
    }
    os_condition_wake_all(&dl->changed);
}

/* Loads an absent picture; the mutex is let go meanwhile. A damaged one is told once. */
static yolo_status dl_load(dl_loader *dl, dl_item *item, yolo_error *error) {
    uint8_t *pixels;
    item->state = DL_LOADING;
    os_mutex_unlock(&dl->mutex);
    yolo_status status = dl_decode(dl, item, &pixels, error);
    os_mutex_lock(&dl->mutex);
    bool memory = status == YOLO_ERROR_MEMORY;
    item->state = status == YOLO_OK ? DL_READY : memory ? DL_ABSENT : DL_DAMAGED;
    if (status == YOLO_OK) {
        uint64_t bytes = dl_item_bytes(item);
        dl_evict(dl, bytes);
        item->pixels = pixels;
        if (dl->kept_bytes + bytes <= dl->keep_limit) dl->kept_bytes += bytes;
        else dl->passing[dl->passing_count++] = item - dl->items;
        dl->cached_bytes += bytes;
        dl->cached++;
    } else if (!memory) {
        dl->damaged++;
        str_append(&dl->news, error->message, strlen(error->message) + 1);
    }
    os_condition_wake_all(&dl->changed);
    return memory ? status : YOLO_OK;
}

/* Keeps picture `index` decoded until dl_release: or, where it is damaged, the next one that is not. Sets *index. */
static yolo_status dl_hold(dl_worker *w, int64_t *index, yolo_error *error) {
    dl_loader *dl = w->loader;
    yolo_status status = YOLO_OK;
    os_mutex_lock(&dl->mutex);
    for (int64_t tried = 0; status == YOLO_OK; ) {
        dl_item *item = &dl->items[*index];
        if (item->state == DL_READY) {
            item->holders++;
            item->used = ++dl->clock;
            w->held[w->held_count++] = *index;
            break;
        }
        if (item->state == DL_LOADING) os_condition_wait(&dl->changed, &dl->mutex);
        else if (item->state == DL_ABSENT) status = dl_load(dl, item, error);
        else if (++tried == dl->pictures)
            status = err_set(error, YOLO_ERROR_FORMAT, "none of the %lld pictures to train on can be read", (long long)dl->pictures);
        else *index = (*index + 1) % dl->pictures;
    }
    os_mutex_unlock(&dl->mutex);
    return status;
}

static void dl_release(dl_worker *w) {
    dl_loader *dl = w->loader;
    os_mutex_lock(&dl->mutex);
    while (w->held_count) dl->items[w->held[--w->held_count]].holders--;
    dl_evict(dl, 0);
    os_mutex_unlock(&dl->mutex);
}

/* ---- the loader: one picture of a batch */

static rng dl_rng(const dl_loader *dl, int64_t position) {
    uint64_t key[3] = {dl->options.seed, (uint64_t)dl->epoch, (uint64_t)position};
    return (rng){hash_bytes(key, sizeof key, 20), 0};
}

/* Adds a held picture to a view, and its boxes. */
static yolo_status dl_add_tile(dl_worker *w, aug_view *v, aug_boxes *boxes, int64_t index, const aug_view_draw *d, yolo_error *error) {
    const dl_item *item = &w->loader->items[index];
    aug_tile *t = &v->tiles[v->tile_count];
    *t = (aug_tile){.pixels = item->pixels, .stride = item->width * 3, .x2 = item->width, .y2 = item->height};
    if (d->mosaic) aug_tile_place(t, v->tile_count, item->width, item->height, d->center_x, d->center_y, v->canvas_width);
    else {
        v->canvas_width = item->width;
        v->canvas_height = item->height;
    }
    v->tile_count++;
    return aug_boxes_add(boxes, w->loader->labels + item->first_label, item->label_count, (float)item->width, (float)item->height,
                         (float)t->shift_x, (float)t->shift_y) ? YOLO_OK : err_memory(error, (uint64_t)item->label_count * sizeof *boxes->items);
}

/* View `which` of the scene: picture `index`, alone or in a mosaic with three of the window that ends at `position`. */
static yolo_status dl_view(dl_worker *w, int which, int64_t *index, int64_t position, const aug_view_draw *d, yolo_error *error) {
    const dl_loader *dl = w->loader;
    aug_scene *s = &w->scene;
    aug_view *v = &s->views[which];
    aug_boxes *boxes = &w->boxes[which];
    v->tile_count = 0;
    boxes->count = 0;
    v->canvas_width = v->canvas_height = 2 * dl->options.imgsz;
    yolo_status status = dl_hold(w, index, error);
    if (status == YOLO_OK) status = dl_add_tile(w, v, boxes, *index, d, error);
    for (int i = 0; d->mosaic && status == YOLO_OK && i < AUG_TILES - 1; i++) {
        int64_t back = (int64_t)(d->partners[i] * dl->window), other = dl->order[(position - back + dl->pictures) % dl->pictures];
        status = dl_hold(w, &other, error);
        if (status == YOLO_OK) status = dl_add_tile(w, v, boxes, other, d, error);
    }
    if (status != YOLO_OK) return status;
    aug_view_aim(v, d, dl->options.augmentation.perspective > 0, s->width, s->height);
    if (d->mosaic) aug_boxes_crop(boxes, v->canvas_width, v->canvas_height);
    aug_boxes_move(boxes, v->matrix, v->perspective, d->factor, s->width, s->height);
    return YOLO_OK;
}

/* Draws, places and renders; w->boxes[0] gets the boxes. */
static yolo_status dl_make_augmented(dl_worker *w, int64_t position, int64_t *index, uint8_t *out, yolo_error *error) {
    const dl_loader *dl = w->loader;
    const aug_settings *a = &dl->options.augmentation;
    aug_scene *s = &w->scene;
    aug_draw d;
    rng r = dl_rng(dl, position);
    aug_draw_sample(&d, &r, a, dl->options.imgsz, dl->mosaic && !dl->options.rect);
    yolo_status status = dl_view(w, 0, index, position, &d.views[0], error);
    for (int i = 1; status == YOLO_OK && i < AUG_VIEWS; i++) {
        int64_t other = (int64_t)(d.others[i] * (double)dl->pictures);
        if (d.mixed[i]) status = dl_view(w, i, &other, position, &d.views[i], error);
    }
    if (status != YOLO_OK) return status;
    s->mixup = d.mixed[1];
    s->ratio = d.ratio;
    memset(s->cut, 0, sizeof s->cut);
    bool good = !d.mixed[1] || aug_boxes_append(&w->boxes[0], w->boxes[1].items, w->boxes[1].count);
    good = good && (!d.mixed[2] || aug_cut(&d, &w->boxes[0], &w->boxes[2], s->width, s->height, s->cut));
    if (!good) return err_memory(error, (uint64_t)w->boxes[0].count * sizeof(loss_target));
    s->coloured = a->hsv_h > 0 || a->hsv_s > 0 || a->hsv_v > 0;
    if (s->coloured) aug_hsv_make(&s->colours, d.gains, d.bgr);
    s->bgr = d.bgr;
    s->flip_x = d.flip_x;
    s->flip_y = d.flip_y;
    aug_boxes_flip(&w->boxes[0], d.flip_x, d.flip_y, (float)s->width, (float)s->height);
    aug_render(s, out);
    return YOLO_OK;
}

/* Without augmentation: the picture as loaded, centred in gray, never enlarged. */
static yolo_status dl_make_plain(dl_worker *w, int64_t *index, uint8_t *out, yolo_error *error) {
    const aug_scene *s = &w->scene;
    yolo_status status = dl_hold(w, index, error);
    if (status != YOLO_OK) return status;
    const dl_item *item = &w->loader->items[*index];
    img_letterbox plan = img_letterbox_plan_fixed(item->width, item->height, s->width, s->height, false);
    yolo_image image = {item->pixels, item->width, item->height};
    size_t row = (size_t)s->width * 3;
    img_tile tile;
    memset(out, AUG_BORDER, row * (size_t)s->height);
    for (int first = 0; first < plan.scaled_width; first += IMG_TILE) {
        img_tile_start(&tile, &image, plan.scaled_width, plan.scaled_height, first);
        for (int y = 0; y < plan.scaled_height; y++)
            img_tile_row(&tile, y, out + row * (size_t)(plan.pad_top + y) + (size_t)(plan.pad_left + first) * 3);
    }
    w->boxes[0].count = 0;
    float scale = (float)plan.scale;
    bool good = aug_boxes_add(&w->boxes[0], w->loader->labels + item->first_label, item->label_count, (float)item->width * scale,
                              (float)item->height * scale, (float)plan.pad_left, (float)plan.pad_top);
    return good ? YOLO_OK : err_memory(error, (uint64_t)item->label_count * sizeof(loss_target));
}

/* Makes the picture at a position of the epoch in its slot. */
static yolo_status dl_make(dl_worker *w, int64_t position, yolo_error *error) {
    dl_loader *dl = w->loader;
    const dl_options *o = &dl->options;
    int64_t batch = position / o->batch, index = dl->order[position];
    int place = (int)(position % o->batch);
    dl_slot *slot = &dl->slots[o->workers > 0 ? batch % DL_SLOTS : 0];
    w->scene.width = o->rect ? dl->rect_width[batch] : o->imgsz;
    w->scene.height = o->rect ? dl->rect_height[batch] : o->imgsz;
    uint8_t *out = slot->pixels + (size_t)w->scene.width * (size_t)w->scene.height * 3 * (size_t)place;
    yolo_status status = o->augment ? dl_make_augmented(w, position, &index, out, error) : dl_make_plain(w, &index, out, error);
    dl_release(w);
    slot->pictures[place] = index;
    slot->boxes[place].count = 0;
    if (status == YOLO_OK && !aug_boxes_append(&slot->boxes[place], w->boxes[0].items, w->boxes[0].count))
        status = err_memory(error, (uint64_t)w->boxes[0].count * sizeof(loss_target));
    return status;
}

/* ---- the loader: batches */

static OS_THREAD_RESULT OS_THREAD_CALL dl_main(void *argument) {
    dl_worker *w = argument;
    dl_loader *dl = w->loader;
    yolo_error error;
    os_mutex_lock(&dl->mutex);
    while (!dl->closing) {
        if (dl->status != YOLO_OK || dl->claimed >= dl->end || dl->claimed / dl->options.batch >= dl->released + DL_SLOTS) {
            os_condition_wait(&dl->changed, &dl->mutex);
            continue;
        }
        int64_t position = dl->claimed++;
        dl->busy++;
        os_mutex_unlock(&dl->mutex);
        yolo_status status = dl_make(w, position, &error);
        os_mutex_lock(&dl->mutex);
        dl->busy--;
        dl->slots[position / dl->options.batch % DL_SLOTS].done++;
        if (status != YOLO_OK) dl_fail(dl, status, &error);
        os_condition_wake_all(&dl->changed);
    }
    os_mutex_unlock(&dl->mutex);
    return 0;
}

static void dl_destroy(dl_loader *dl) {
    if (!dl) return;
    os_mutex_lock(&dl->mutex);
    dl->closing = true;
    os_condition_wake_all(&dl->changed);
    os_mutex_unlock(&dl->mutex);
    for (int i = 0; i < dl->thread_count; i++) os_thread_join(dl->workers[i].thread);
    for (int64_t i = 0; i < dl->pictures; i++) mem_free(dl->items[i].pixels);
    for (int i = 0; i < DL_SLOTS; i++) {
        for (int64_t k = 0; dl->slots[i].boxes && k < YOLO_MIN(dl->options.batch, dl->pictures); k++) mem_free(dl->slots[i].boxes[k].items);
        mem_free(dl->slots[i].pixels);
        mem_free(dl->slots[i].boxes);
        mem_free(dl->slots[i].pictures);
    }
    for (int i = 0; dl->workers && i < dl->worker_count; i++) {
        for (int k = 0; k < 2; k++) mem_free(dl->workers[i].scene.rows[k]);
        for (int k = 0; k < AUG_VIEWS; k++) mem_free(dl->workers[i].boxes[k].items);
    }
    os_condition_destroy(&dl->changed);
    os_mutex_destroy(&dl->mutex);
    void *const blocks[] = {dl->items, dl->labels, dl->rect_height, dl->rect_width, dl->instances, dl->workers, dl->order, dl->passing,
                            dl->news.text, dl->batch.first, dl->batch.targets, dl};
    for (int i = 0; i < YOLO_COUNT(blocks); i++) mem_free(blocks[i]);
}

static void dl_tell(const dl_loader *dl) {
    const yolo_log *log = &dl->options.log;
    log_write(log, YOLO_LOG_INFO, "train: %lld pictures, %lld labels, %lld background, %lld damaged", (long long)dl->pictures,
              (long long)dl->label_count, (long long)dl->background, (long long)dl->damaged);
    if (dl->bad_lines || dl->duplicates)
        log_write(log, YOLO_LOG_WARNING, "train: %lld label lines left out as bad, %lld as there twice", (long long)dl->bad_lines, (long long)dl->duplicates);
    if (!dl->label_count)
        log_write(log, YOLO_LOG_WARNING, "none of the %lld pictures to train on has a labelled object: nothing but background can be learnt",
                  (long long)dl->pictures);
}

/* Reads sizes and labels of the pictures, whose list must outlive the loader. dl_destroy, also without an epoch begun;
   on error there is nothing to destroy. */
static yolo_status dl_create(dl_loader **out, const data_list *train, int class_count, const dl_options *options, yolo_error *error) {
    *out = NULL;
    yolo_status status = dl_check(train, class_count, options, error);
    if (status != YOLO_OK) return status;
    dl_loader *dl = mem_array(1, sizeof *dl);
    if (!dl) return err_memory(error, sizeof *dl);
    dl->options = *options;
    dl->class_count = class_count;
    dl->shuffles = options->shuffle;
    dl->worker_count = options->workers > 0 ? YOLO_MIN(options->workers, THR_MAX) : thr_pool_size(options->pool);
    os_mutex_init(&dl->mutex);
    os_condition_init(&dl->changed);
    status = dl_gather(dl, train, error);
    if (status == YOLO_OK && options->rect) status = dl_rectangles(dl, error);
    if (status == YOLO_OK) {
        dl->window = (int)YOLO_MIN(dl->pictures, YOLO_MIN((int64_t)options->batch * 8, DL_WINDOW));
        dl_plan_cache(dl);
        status = dl_make_room(dl, error);
    }
    if (status != YOLO_OK) {
        dl_destroy(dl);
        return status;
    }
    dl_tell(dl);
    *out = dl;
    return YOLO_OK;
}

static void dl_shuffle(dl_loader *dl) {
    for (int64_t i = 0; i < dl->pictures; i++) dl->order[i] = i;
    rng r = dl_rng(dl, -1);
    for (int64_t i = dl->pictures - 1; dl->shuffles && i > 0; i--) {
        int64_t other = (int64_t)(rng_uniform(&r) * (double)(i + 1)), item = dl->order[i];
        dl->order[i] = dl->order[other];
        dl->order[other] = item;
    }
}

/* Begins an epoch, also in the middle of another. `mosaic` false leaves mosaic, mixup and cutmix out (close_mosaic). */
static yolo_status dl_start(dl_loader *dl, int epoch, bool mosaic) {
    os_mutex_lock(&dl->mutex);
    dl->end = 0;
    while (dl->busy) os_condition_wait(&dl->changed, &dl->mutex);
    dl->epoch = epoch;
    dl->mosaic = mosaic;
    dl->status = YOLO_OK;
    dl->claimed = dl->delivered = dl->released = 0;
    for (int i = 0; i < DL_SLOTS; i++) dl->slots[i].done = 0;
    dl_shuffle(dl);
    dl->end = dl->pictures;
    while (dl->thread_count < dl->options.workers && dl->thread_count < dl->worker_count &&
           os_thread_start(&dl->workers[dl->thread_count].thread, dl_main, &dl->workers[dl->thread_count])) dl->thread_count++;
    os_condition_wake_all(&dl->changed);
    os_mutex_unlock(&dl->mutex);
    return YOLO_OK;
}

/* A picture of the batch that dl_next makes itself. */
static void dl_body(void *context, int index, int worker) {
    dl_loader *dl = context;
    yolo_error error;
    yolo_status status = dl_make(&dl->workers[worker], dl->delivered * dl->options.batch + index, &error);
    if (status == YOLO_OK) return;
    os_mutex_lock(&dl->mutex);
    dl_fail(dl, status, &error);
    os_mutex_unlock(&dl->mutex);
}

/* Gathers the targets of a slot that is done. */
static yolo_status dl_collect(dl_loader *dl, dl_slot *slot, int n, yolo_error *error) {
    const dl_options *o = &dl->options;
    dl_batch *b = &dl->batch;
    int64_t count = 0;
    for (int i = 0; i < n; i++) count += slot->boxes[i].count;
    if (count > INT_MAX || !mem_grow(&b->targets, &dl->target_capacity, count, sizeof *b->targets))
        return err_memory(error, (uint64_t)count * sizeof *b->targets);
    for (int i = 0; i < n; i++) {
        const aug_boxes *boxes = &slot->boxes[i];
        if (boxes->count) memcpy(b->targets + b->first[i], boxes->items, (size_t)boxes->count * sizeof *boxes->items);
        b->first[i + 1] = b->first[i] + (int)boxes->count;
    }
    b->pixels = slot->pixels;
    b->pictures = slot->pictures;
    b->n = n;
    b->h = o->rect ? dl->rect_height[dl->delivered] : o->imgsz;
    b->w = o->rect ? dl->rect_width[dl->delivered] : o->imgsz;
    return YOLO_OK;
}

/* Tells of pictures that turned out to be damaged, in the calling thread, so that lines of the log are one after another. */
static void dl_tell_news(dl_loader *dl) {
    os_mutex_lock(&dl->mutex);
    str news = dl->news;
    memset(&dl->news, 0, sizeof dl->news);
    os_mutex_unlock(&dl->mutex);
    for (int64_t at = 0; at < news.length; at += (int64_t)strlen(news.text + at) + 1)
        log_write(&dl->options.log, YOLO_LOG_WARNING, "%s; the next picture stands in for it", news.text + at);
    str_free(&news);
}

/* The next batch of the epoch, or NULL after the last. Waits for the workers. */
static yolo_status dl_next(dl_loader *dl, dl_batch **out, yolo_error *error) {
    const dl_options *o = &dl->options;
    *out = NULL;
    os_mutex_lock(&dl->mutex);
    dl->released = dl->delivered;
    os_condition_wake_all(&dl->changed);
    int n = (int)YOLO_MIN(o->batch, dl->end - dl->delivered * o->batch);
    dl_slot *slot = &dl->slots[o->workers > 0 ? dl->delivered % DL_SLOTS : 0];
    while (n > 0 && dl->thread_count && slot->done < n && dl->status == YOLO_OK && !err_interrupted) os_condition_wait(&dl->changed, &dl->mutex);
    os_mutex_unlock(&dl->mutex);
    if (n <= 0) return YOLO_OK;
    if (!dl->thread_count && !err_interrupted) thr_parallel_for(o->workers > 0 ? NULL : o->pool, n, dl_body, dl);
    dl_tell_news(dl);
    os_mutex_lock(&dl->mutex);
    yolo_status status = dl->status;
    if (status != YOLO_OK && error) *error = dl->error;
    os_mutex_unlock(&dl->mutex);
    if (status != YOLO_OK) return status;
    if (err_interrupted)
        return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted at batch %lld of %lld", (long long)dl->delivered + 1, (long long)dl_batch_count(dl));
    if ((status = dl_collect(dl, slot, n, error)) != YOLO_OK) return status;
    os_mutex_lock(&dl->mutex);
    slot->done = 0;
    dl->delivered++;
    os_mutex_unlock(&dl->mutex);
    *out = &dl->batch;
    return YOLO_OK;
}

/* ---- from batch to network */

/* The size of a batch with multi_scale: a multiple of the stride, within a share of imgsz up or down. The batch is `batch`
   of the epoch. REF ultralytics/models/yolo/detect/train.py preprocess_batch */
static int dl_scale(uint64_t seed, int epoch, int64_t batch, int imgsz, double multi_scale, int stride) {
    uint64_t key[3] = {seed, (uint64_t)epoch, (uint64_t)batch};
    rng r = {hash_bytes(key, sizeof key, 21), 0};
    int low = YOLO_MAX(stride, (int)(imgsz * (1.0 - multi_scale))), high = (int)(imgsz * (1.0 + multi_scale) + stride);
    return (low + (int)(rng_uniform(&r) * (high - low))) / stride * stride;
}

/* Height and width of a batch whose longer side becomes `size`. */
static void dl_scaled_size(const dl_batch *batch, int size, int stride, int *h, int *w) {
    double factor = (double)size / YOLO_MAX(batch->h, batch->w);
    *h = factor == 1 ? batch->h : (int)ceil(batch->h * factor / stride) * stride;
    *w = factor == 1 ? batch->w : (int)ceil(batch->w * factor / stride) * stride;
}

/* The targets of a batch for an input of h x w: `out` has room for first[n]. */
static void dl_scaled_targets(const dl_batch *batch, loss_target *out, int h, int w) {
    float x = (float)w / (float)batch->w, y = (float)h / (float)batch->h;
    for (int i = 0; i < batch->first[batch->n]; i++) {
        out[i].class_id = batch->targets[i].class_id;
        for (int k = 0; k < 4; k++) out[i].box[k] = batch->targets[i].box[k] * (k & 1 ? y : x);
    }
}

typedef struct dl_floating { const dl_batch *batch; float *out; int h, w, bands; float shares[256]; } dl_floating;

/* Where torch's interpolate(mode='bilinear', align_corners=False) samples: between `at` and `next`. */
static float dl_tap(int position, int out, int in, int *at, int *next) {
    float scale = (float)in / (float)out, source = YOLO_MAX(scale * ((float)position + 0.5f) - 0.5f, 0.0f);
    *at = YOLO_MIN((int)source, in - 1);
    *next = YOLO_MIN(*at + 1, in - 1);
    return source - (float)*at;
}

static void dl_floats_row(const dl_floating *f, const uint8_t *pixels, int y, float *restrict out) {
    const dl_batch *b = f->batch;
    int top, bottom, left, right;
    if (f->h == b->h && f->w == b->w) {
        const uint8_t *restrict row = pixels + (size_t)y * (size_t)f->w * 3;
        for (int i = 0; i < f->w * 3; i++) out[i] = (float)row[i] / 255.0f;
        return;
    }
    float low = dl_tap(y, f->h, b->h, &top, &bottom);
    const uint8_t *p = pixels + (size_t)top * (size_t)b->w * 3, *q = pixels + (size_t)bottom * (size_t)b->w * 3;
    for (int x = 0; x < f->w; x++) {
        float part = dl_tap(x, f->w, b->w, &left, &right);
        for (int c = 0; c < 3; c++) {
            float above = (1 - part) * f->shares[p[left * 3 + c]] + part * f->shares[p[right * 3 + c]];
            float below = (1 - part) * f->shares[q[left * 3 + c]] + part * f->shares[q[right * 3 + c]];
            *out++ = (1 - low) * above + low * below;
        }
    }
}

static void dl_floats_band(void *context, int index, int worker) {
    const dl_floating *f = context;
    int n = index / f->bands, band = index % f->bands;
    const uint8_t *pixels = f->batch->pixels + (size_t)n * (size_t)f->batch->h * (size_t)f->batch->w * 3;
    (void)worker;
    for (int y = f->h * band / f->bands; y < f->h * (band + 1) / f->bands; y++)
        dl_floats_row(f, pixels, y, f->out + ((size_t)n * (size_t)f->h + (size_t)y) * (size_t)f->w * 3);
}

/* The batch as the network's input: out (n, h, w, 3), 0..1; resized where h x w is another size. */
static void dl_floats(const dl_batch *batch, float *out, int h, int w, thr_pool *pool) {
    dl_floating f = {.batch = batch, .out = out, .h = h, .w = w, .bands = 8};
    for (int i = 0; i < 256; i++) f.shares[i] = (float)i / 255.0f;
    thr_parallel_for(pool, batch->n * f.bands, dl_floats_band, &f);
}

/* ==== 21 ev_: evaluator =========================================================================================
   Precision, recall and average precision as ultralytics counts them. Predictions meet targets in the network's pixels,
   picture by picture in the order of the batches; what that leaves (confidence, class and ten bits each) is all that
   the curves are made of. Sums run in a fixed order in doubles, so results do not depend on the number of threads.
   What stays the same from epoch to epoch (pictures, sizes, labels) is an ev_set, read once; ev_check looks at it with
   the weights of the moment. Losses are ultralytics' validator's in training: each batch's by its own sum of scores. */

enum {
    EV_LEVELS = 10, EV_POINTS = 1000, EV_RECALLS = 101, EV_SMOOTH = 101, EV_MAX_DET = 300,
    EV_MATRIX_CLASSES = 4096,        /* more give no confusion matrix: nobody could look at it */
    EV_SHEETS = 3, EV_SHEET = 16     /* batches that are shown, and pictures of each */
};
#define EV_CONF 0.001f               /* the lowest confidence of a validation */

typedef struct ev_prediction {
    float confidence;
    int32_t class_id;
    uint32_t correct;  /* bit t: matched at overlap level t */
    int64_t order;
} ev_prediction;

typedef struct ev_stats {
    int class_count;
    ev_prediction *predictions;
    int64_t count, capacity;
    int64_t *instances, *pictures; /* of each class */
    int64_t seen;
} ev_stats;

static yolo_status ev_stats_init(ev_stats *stats, int class_count, yolo_error *error) {
    memset(stats, 0, sizeof *stats);
    stats->class_count = class_count;
    stats->instances = mem_array((uint64_t)class_count, sizeof *stats->instances);
    stats->pictures = mem_array((uint64_t)class_count, sizeof *stats->pictures);
    return stats->instances && stats->pictures ? YOLO_OK : err_memory(error, (uint64_t)class_count * 16);
}

static void ev_stats_free(ev_stats *stats) {
    mem_free(stats->predictions);
    mem_free(stats->instances);
    mem_free(stats->pictures);
    memset(stats, 0, sizeof *stats);
}

/* Overlap levels 0.5, 0.55 .. 0.95, rounded as torch.linspace rounds them. */
static float ev_level(int t) {
    const float step = (0.95f - 0.5f) / (EV_LEVELS - 1);
    return t < EV_LEVELS / 2 ? 0.5f + step * (float)t : 0.95f - step * (float)(EV_LEVELS - 1 - t);
}

/* REF ultralytics/utils/metrics.py box_iou */
static float ev_overlap(const yolo_box *a, const float *b) {
    float w = YOLO_MAX(0.0f, YOLO_MIN(a->x2, b[2]) - YOLO_MAX(a->x1, b[0]));
    float h = YOLO_MAX(0.0f, YOLO_MIN(a->y2, b[3]) - YOLO_MAX(a->y1, b[1]));
    return w * h / ((b[2] - b[0]) * (b[3] - b[1]) + (a->x2 - a->x1) * (a->y2 - a->y1) - w * h + 1e-7f);
}

/* Which levels prediction `box` matches: at each it claims the unclaimed target of its class that it overlaps most, the
   first of equals. `claimed` (a bit a level) and `overlaps` have an entry a target. Predictions come by falling
   confidence. REF ultralytics/engine/validator.py match_predictions */
static uint32_t ev_match(const yolo_box *box, const loss_target *targets, int64_t target_count, uint32_t *claimed, float *overlaps) {
    float most = 0;
    uint32_t correct = 0;
    for (int64_t k = 0; k < target_count; k++) {
        overlaps[k] = targets[k].class_id == box->class_id ? ev_overlap(box, targets[k].box) : 0;
        most = YOLO_MAX(most, overlaps[k]);
    }
    for (int t = 0; t < EV_LEVELS && most >= ev_level(t); t++) {
        int64_t best = -1;
        for (int64_t k = 0; k < target_count; k++)
            if (!(claimed[k] >> t & 1) && overlaps[k] > (best < 0 ? 0 : overlaps[best])) best = k;
        if (best < 0 || !(overlaps[best] >= ev_level(t))) continue;
        claimed[best] |= 1u << t;
        correct |= 1u << t;
    }
    return correct;
}

/* Adds one picture. */
static yolo_status ev_add(ev_stats *stats, const yolo_boxes *boxes, const loss_target *targets, int64_t target_count, yolo_error *error) {
    uint32_t *claimed = mem_array((uint64_t)target_count, sizeof *claimed);
    float *overlaps = mem_array((uint64_t)target_count, sizeof *overlaps);
    yolo_status status = YOLO_OK;
    if (!claimed || !overlaps || !mem_grow(&stats->predictions, &stats->capacity, stats->count + boxes->count, sizeof *stats->predictions))
        status = err_memory(error, (uint64_t)(stats->count + boxes->count) * sizeof *stats->predictions);
    for (int i = 0; status == YOLO_OK && i < boxes->count; i++) {
        const yolo_box *box = &boxes->items[i];
        stats->predictions[stats->count] = (ev_prediction){
            box->confidence, box->class_id, ev_match(box, targets, target_count, claimed, overlaps), stats->count};
        stats->count++;
    }
    for (int64_t k = 0; status == YOLO_OK && k < target_count; k++) {
        bool first = true;
        for (int64_t before = 0; before < k; before++) first &= targets[before].class_id != targets[k].class_id;
        stats->pictures[targets[k].class_id] += first;
        stats->instances[targets[k].class_id]++;
    }
    stats->seen++;
    mem_free(claimed);
    mem_free(overlaps);
    return status;
}

/* Which classes were taken for which: cells[predicted * side + true], the last row and column being background. */
typedef struct ev_matrix { int side; int32_t *cells; } ev_matrix;

static yolo_status ev_matrix_init(ev_matrix *matrix, int class_count, yolo_error *error) {
    uint64_t side = (uint64_t)class_count + 1;
    *matrix = (ev_matrix){0};
    if (class_count > EV_MATRIX_CLASSES) return YOLO_OK;
    *matrix = (ev_matrix){(int)side, mem_array(side * side, sizeof *matrix->cells)};
    return matrix->cells ? YOLO_OK : err_memory(error, side * side * sizeof *matrix->cells);
}

/* Adds one picture: of the boxes above `conf`, by falling confidence, each claims the unclaimed target of any class that
   it overlaps most, the first of equals, if by more than 0.45. REF ultralytics/utils/metrics.py ConfusionMatrix */
static yolo_status ev_matrix_add(ev_matrix *matrix, const yolo_boxes *boxes, const loss_target *targets, int64_t target_count,
                                 float conf, yolo_error *error) {
    const int background = matrix->side - 1;
    bool *claimed = mem_array((uint64_t)target_count, sizeof *claimed);
    if (!claimed) return err_memory(error, (uint64_t)target_count * sizeof *claimed);
    for (int i = 0; i < boxes->count; i++) {
        const yolo_box *box = &boxes->items[i];
        int64_t best = -1;
        float most = 0.45f;
        if (!(box->confidence > conf)) continue;
        for (int64_t k = 0; k < target_count; k++) {
            float overlap = claimed[k] ? 0 : ev_overlap(box, targets[k].box);
            if (!(overlap > most)) continue;
            most = overlap;
            best = k;
        }
        if (best >= 0) claimed[best] = true;
        matrix->cells[(int64_t)box->class_id * matrix->side + (best < 0 ? background : targets[best].class_id)]++;
    }
    for (int64_t k = 0; k < target_count; k++)
        if (!claimed[k]) matrix->cells[(int64_t)background * matrix->side + targets[k].class_id]++;
    mem_free(claimed);
    return YOLO_OK;
}

static int ev_compare(const void *left, const void *right) {
    const ev_prediction *a = left, *b = right;
    if (a->class_id != b->class_id) return a->class_id < b->class_id ? -1 : 1;
    if (a->confidence != b->confidence) return a->confidence > b->confidence ? -1 : 1;
    return (a->order > b->order) - (a->order < b->order);
}

/* Linear interpolation of the points (xs[i], ys[i]) with rising xs, as numpy.interp does it: of equal xs the last
   counts, `left` below the first, the last y above the last. */
static double ev_interpolate(double x, const double *xs, const double *ys, int64_t count, double left) {
    if (x < xs[0]) return left;
    if (x >= xs[count - 1]) return ys[count - 1];
    int64_t low = 0, high = count - 1; /* xs[low] <= x < xs[high] */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (xs[middle] <= x) low = middle;
        else high = middle;
    }
    if (xs[low] == x) return ys[low];
    return (ys[high] - ys[low]) / (xs[high] - xs[low]) * (x - xs[low]) + ys[low];
}

/* Area below the precision envelope by 101 recalls. recall and precision have count + 3 entries, of which 1..count are
   filled in. REF ultralytics/utils/metrics.py compute_ap */
static double ev_average_precision(double *recall, double *precision, int64_t count) {
    double area = 0, before = 0;
    recall[0] = 0;
    precision[0] = 1;
    recall[count + 1] = recall[count];
    recall[count + 2] = 1;
    precision[count + 1] = precision[count + 2] = 0;
    for (int64_t i = count + 1; i >= 0; i--) precision[i] = YOLO_MAX(precision[i], precision[i + 1]);
    for (int i = 0; i < EV_RECALLS; i++) {
        double x = i == EV_RECALLS - 1 ? 1 : i * (1.0 / (EV_RECALLS - 1));
        double y = ev_interpolate(x, recall, precision, count + 3, precision[0]);
        if (i) area += (x - (i - 1) * (1.0 / (EV_RECALLS - 1))) * (y + before) / 2;
        before = y;
    }
    return area;
}

/* A class's curves over EV_POINTS confidences, or recalls, 0 to 1, and its average precisions. */
typedef struct ev_curve {
    double precision[EV_POINTS], recall[EV_POINTS], f1[EV_POINTS]; /* at overlap 0.5, over confidence */
    double envelope[EV_POINTS];                                    /* precision over recall, the same */
    double ap[EV_LEVELS];
} ev_curve;

static double ev_point(int p) { return p == EV_POINTS - 1 ? 1 : p * (1.0 / (EV_POINTS - 1)); }

/* From the predictions of one class by falling confidence; `work` has 3 * (count + 3) entries.
   REF ultralytics/utils/metrics.py ap_per_class */
static void ev_class_curve(ev_curve *curve, const ev_prediction *predictions, int64_t count, int64_t instances, double *work) {
    double *recall = work, *precision = work + count + 3, *x = work + 2 * (count + 3);
    memset(curve, 0, sizeof *curve);
    if (!count) return;
    for (int64_t i = 0; i < count; i++) x[i] = -(double)predictions[i].confidence;
    for (int t = 0; t < EV_LEVELS; t++) {
        int64_t correct = 0;
        for (int64_t i = 0; i < count; i++) {
            correct += predictions[i].correct >> t & 1;
            recall[i + 1] = (double)correct / (double)instances;
            precision[i + 1] = (double)correct / (double)(i + 1);
        }
        for (int p = 0; !t && p < EV_POINTS; p++) {
            double r = curve->recall[p] = ev_interpolate(-ev_point(p), x, recall + 1, count, 0);
            double q = curve->precision[p] = ev_interpolate(-ev_point(p), x, precision + 1, count, 1);
            curve->f1[p] = 2 * q * r / (q + r + 1e-16);
        }
        curve->ap[t] = ev_average_precision(recall, precision, count);
        for (int p = 0; !t && p < EV_POINTS; p++)
            curve->envelope[p] = ev_interpolate(ev_point(p), recall, precision, count + 3, precision[0]);
    }
}

/* The confidence (an index into the curves) where the mean F1 of all classes, smoothed by a box filter, is highest. */
static int ev_best_point(const ev_curve *curves, int class_count) {
    double padded[EV_POINTS + EV_SMOOTH - 1], best = -1;
    int at = 0, half = EV_SMOOTH / 2;
    for (int p = 0; p < EV_POINTS; p++) {
        double sum = 0;
        for (int c = 0; c < class_count; c++) sum += curves[c].f1[p];
        padded[half + p] = class_count ? sum / class_count : 0;
    }
    for (int p = 0; p < half; p++) {
        padded[p] = padded[half];
        padded[half + EV_POINTS + p] = padded[half + EV_POINTS - 1];
    }
    for (int p = 0; p < EV_POINTS; p++) {
        double sum = 0;
        for (int i = 0; i < EV_SMOOTH; i++) sum += padded[p + i] * (1.0 / EV_SMOOTH);
        if (sum > best) {
            best = sum;
            at = p;
        }
    }
    return at;
}

/* Rows of the classes that have targets, and their means. */
static void ev_fill(yolo_metrics *metrics, const ev_stats *stats, const ev_curve *curves) {
    int point = ev_best_point(curves, metrics->class_count), row = 0;
    for (int c = 0; c < stats->class_count; c++) {
        if (!stats->instances[c]) continue;
        const ev_curve *curve = &curves[row];
        yolo_class_metrics *m = &metrics->classes[row++];
        *m = (yolo_class_metrics){.class_id = c, .images = (int)stats->pictures[c], .instances = (int)stats->instances[c],
                                  .precision = curve->precision[point], .recall = curve->recall[point], .map50 = curve->ap[0]};
        for (int t = 0; t < EV_LEVELS; t++) m->map50_95 += curve->ap[t] / EV_LEVELS;
        metrics->instances += m->instances;
        metrics->precision += m->precision / metrics->class_count;
        metrics->recall += m->recall / metrics->class_count;
        metrics->map50 += m->map50 / metrics->class_count;
        metrics->map50_95 += m->map50_95 / metrics->class_count;
    }
}

/* Sorts the predictions and turns them into the table. metrics->classes is allocated, and *kept, a curve a row of it
   (NULL = not wanted). */
static yolo_status ev_summarise(ev_stats *stats, yolo_metrics *metrics, ev_curve **kept, yolo_error *error) {
    int classes = 0;
    for (int c = 0; c < stats->class_count; c++) classes += stats->instances[c] > 0;
    ev_curve *curves = mem_array((uint64_t)classes, sizeof *curves);
    double *work = mem_array((uint64_t)(stats->count + 3), 3 * sizeof *work);
    metrics->classes = mem_array((uint64_t)classes, sizeof *metrics->classes);
    if (!curves || !work || !metrics->classes) {
        mem_free(curves);
        mem_free(work);
        mem_free(metrics->classes);
        metrics->classes = NULL;
        return err_memory(error, (uint64_t)classes * sizeof *curves + (uint64_t)stats->count * 24);
    }
    if (stats->count) qsort(stats->predictions, (size_t)stats->count, sizeof *stats->predictions, ev_compare);
    int64_t first = 0;
    for (int c = 0, row = 0; c < stats->class_count; c++) {
        int64_t end = first;
        while (end < stats->count && stats->predictions[end].class_id == c) end++;
        if (stats->instances[c]) ev_class_curve(&curves[row++], stats->predictions + first, end - first, stats->instances[c], work);
        first = end;
    }
    metrics->class_count = classes;
    metrics->images = (int)stats->seen;
    ev_fill(metrics, stats, curves);
    if (kept) *kept = curves;
    else mem_free(curves);
    mem_free(work);
    return YOLO_OK;
}

/* What the best epoch is chosen by: mAP50-95 in five decimals. REF ultralytics/utils/metrics.py fitness,
   engine/validator.py __call__ */
static double ev_fitness(const yolo_metrics *metrics) {
    return metrics->map50_95 > 0 ? floor(metrics->map50_95 * 1e5 + 0.5) / 1e5 : 0;
}

/* ---- a split, read once ---- */

typedef struct ev_picture {
    const char *path;
    int width, height, net_width, net_height;
    int64_t first_target, target_count;
    int64_t order;
    bool damaged;                   /* was found so when it was decoded, and said so */
} ev_picture;

typedef struct ev_set {
    ev_picture *pictures;           /* with `rect` by rising height/width */
    int64_t count;
    loss_target *targets;           /* in parts of the picture */
    int64_t target_count, target_capacity;
    int64_t most;                   /* targets in a picture */
    uint64_t largest;               /* bytes of a decoded picture */
    int damaged;                    /* pictures without a readable header: left out */
    bool told;                      /* that `most` is above max_det */
} ev_set;

/* Which labels count. */
typedef struct ev_labels {
    int data_classes, net_classes;  /* of the data set, of the network */
    bool single_cls;                /* all are of class 0 */
    const int *classes;             /* these only; NULL = all */
    int class_count;
} ev_labels;

static void ev_set_close(ev_set *set) {
    mem_free(set->pictures);
    mem_free(set->targets);
    memset(set, 0, sizeof *set);
}

static int ev_picture_order(const void *left, const void *right) {
    const ev_picture *a = left, *b = right;
    double difference = (double)a->height / a->width - (double)b->height / b->width;
    return difference ? (difference > 0 ? 1 : -1) : (a->order > b->order) - (a->order < b->order);
}

static bool ev_counts(const ev_labels *labels, int class_id) {
    bool listed = !labels->classes;
    for (int i = 0; !listed && i < labels->class_count; i++) listed = labels->classes[i] == class_id;
    return listed && (labels->single_cls || class_id < labels->net_classes);
}

/* Appends the targets of one picture, without those of classes that the model does not know.
   REF ultralytics/models/yolo/detect/val.py get_dataloader, data/base.py update_labels */
static yolo_status ev_read_labels(ev_set *set, ev_picture *picture, const ev_labels *labels, const yolo_log *log, yolo_error *error) {
    lbl_list lines = {0};
    char *path = data_label_path(picture->path);
    bool any = labels->single_cls && !labels->classes; /* then even a class out of range is one */
    yolo_status status = path ? lbl_read(path, any ? 0 : labels->data_classes, &lines, log, error) : err_memory(error, DATA_PATH_SIZE);
    mem_free(path);
    if (status == YOLO_OK && !mem_grow(&set->targets, &set->target_capacity, set->target_count + lines.count, sizeof *set->targets))
        status = err_memory(error, (uint64_t)(set->target_count + lines.count) * sizeof *set->targets);
    picture->first_target = set->target_count;
    for (int64_t k = 0; status == YOLO_OK && k < lines.count; k++) {
        const lbl_box *b = &lines.items[k];
        if (ev_counts(labels, b->class_id))
            set->targets[set->target_count++] = (loss_target){
                labels->single_cls ? 0 : b->class_id,
                {(float)(b->x - b->w / 2), (float)(b->y - b->h / 2), (float)(b->x + b->w / 2), (float)(b->y + b->h / 2)}};
    }
    picture->target_count = set->target_count - picture->first_target;
    set->most = YOLO_MAX(set->most, picture->target_count);
    lbl_list_free(&lines);
    return status;
}

/* Picture sizes from the headers, and the labels. A picture that has no readable header is counted as damaged. `list`
   outlives the set; ev_set_close afterwards, on error too. */
static yolo_status ev_set_open(ev_set *set, const data_list *list, const ev_labels *labels, bool rect, const yolo_log *log, yolo_error *error) {
    memset(set, 0, sizeof *set);
    set->pictures = mem_array((uint64_t)list->count, sizeof *set->pictures);
    if (!set->pictures) return err_memory(error, (uint64_t)list->count * sizeof *set->pictures);
    for (int64_t i = 0; i < list->count; i++) {
        if (err_interrupted) return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted before the first picture");
        ev_picture *picture = &set->pictures[set->count];
        *picture = (ev_picture){.path = list->paths[i], .order = i};
        yolo_error damage;
        if (codec_size(picture->path, &picture->width, &picture->height, &damage) != YOLO_OK) {
            log_write(log, YOLO_LOG_WARNING, "%s", damage.message);
            set->damaged++;
            continue;
        }
        yolo_status status = ev_read_labels(set, picture, labels, log, error);
        if (status != YOLO_OK) return status;
        set->largest = YOLO_MAX(set->largest, (uint64_t)picture->width * (uint64_t)picture->height * 3);
        set->count++;
    }
    if (rect) qsort(set->pictures, (size_t)set->count, sizeof *set->pictures, ev_picture_order);
    return YOLO_OK;
}

/* ---- a look at it ---- */

/* The first pictures of a batch as the network saw them, for drawing. */
typedef struct ev_sheet {
    int batch, count, w, h;
    uint8_t *pixels;                /* count pictures of h,w,3 RGB; a damaged one stays gray */
    const char *paths[EV_SHEET];
    const loss_target *targets[EV_SHEET]; /* network pixels, as the boxes are */
    int64_t target_counts[EV_SHEET];
    yolo_boxes boxes[EV_SHEET];
} ev_sheet;

/* What else a look is to give. */
typedef struct ev_extra {
    const loss_gains *gains;        /* measure the losses, scaled by these; NULL = do not */
    bool curves;                    /* keep the curves and count the confusion matrix */
    void (*sheet)(void *user, const ev_sheet *sheet); /* gets each of the first EV_SHEETS batches, on the calling thread;
                                       valid during the call. NULL = none */
    void *user;
} ev_extra;

typedef struct ev_outcome {
    yolo_metrics metrics;
    double fitness;
    loss_parts losses;              /* means over the batches */
    ev_curve *curves;               /* a row of metrics.classes each; NULL = not wanted */
    ev_matrix matrix;               /* without cells = not wanted */
} ev_outcome;

static void ev_outcome_free(ev_outcome *outcome) {
    mem_free(outcome->metrics.classes);
    mem_free(outcome->curves);
    mem_free(outcome->matrix.cells);
    memset(outcome, 0, sizeof *outcome);
}

typedef struct ev_run {
    const net *net;
    const yolo_val_options *options;
    const ev_extra *extra;
    ev_set *set;
    int imgsz;
    loss_target *placed;            /* the set's targets in network pixels; each lane writes its picture's */
    loss_sums *losses;              /* of each picture */
    loss_sums batch_losses;
    int64_t batch_pictures, batches;
    ev_sheet sheets[EV_SHEETS];
    int sheet_count;
    ev_stats stats;
    ev_outcome *out;
    FILE *json_file;                /* of save_json, under its temporary name */
    char *json_temporary;
    str json;                       /* what is not in the file yet */
    int64_t json_rows;
    log_meter meter;
} ev_run;

/* A picture with more objects than max_det could never be found complete: the default gives way, a person's choice
   does not. REF ultralytics/models/yolo/detect/val.py _check_max_det */
static int ev_max_det(const ev_run *run) {
    int64_t most = run->set->most;
    int wanted = run->options->max_det;
    if (most <= wanted || most > INT32_MAX) return wanted;
    bool raise = wanted == EV_MAX_DET;
    if (!run->set->told)
        log_write(&run->options->log, YOLO_LOG_WARNING, "a picture has %lld objects, more than max_det=%d%s", (long long)most, wanted,
                  raise ? "; max_det is raised to that" : ", so not all of them can be found");
    run->set->told = true;
    return raise ? (int)most : wanted;
}

/* Gives each batch the smallest rectangle, half a stride larger than its widest or tallest picture needs.
   REF ultralytics/data/base.py set_rectangle */
static void ev_rectangles(const ev_run *run) {
    int batch = run->options->batch, stride = run->net->max_stride;
    ev_picture *pictures = run->set->pictures;
    for (int64_t first = 0; first < run->set->count; first += batch) {
        int64_t end = YOLO_MIN(first + batch, run->set->count);
        double least = (double)pictures[first].height / pictures[first].width;
        double most = (double)pictures[end - 1].height / pictures[end - 1].width;
        double tall = most < 1 ? most : 1, wide = least > 1 ? 1 / least : 1;
        int height = (int)ceil(tall * run->imgsz / stride + 0.5) * stride, width = (int)ceil(wide * run->imgsz / stride + 0.5) * stride;
        for (int64_t i = first; i < end; i++) {
            pictures[i].net_width = run->options->rect ? width : run->imgsz;
            pictures[i].net_height = run->options->rect ? height : run->imgsz;
        }
    }
}

static const char *ev_path(void *user, int64_t index) { return ((ev_run *)user)->set->pictures[index].path; }

/* Loaded with its longer side at imgsz, then centred in the batch's rectangle, never enlarged there. */
static void ev_plan(void *user, int64_t index, int width, int height, img_letterbox *plan) {
    ev_run *run = user;
    const ev_picture *picture = &run->set->pictures[index];
    int loaded_width, loaded_height;
    img_load_size(width, height, run->imgsz, &loaded_width, &loaded_height);
    *plan = img_letterbox_plan_fixed(loaded_width, loaded_height, picture->net_width, picture->net_height, false);
}

/* The sheet that a picture is on and its place there, or NULL. */
static ev_sheet *ev_sheet_of(ev_run *run, int64_t index, int *at) {
    int64_t sheet = index / run->options->batch;
    *at = (int)YOLO_MIN(index % run->options->batch, EV_SHEET);
    return sheet < run->sheet_count && *at < EV_SHEET ? &run->sheets[sheet] : NULL;
}

static yolo_status ev_sheets_make(ev_run *run, yolo_error *error) {
    int64_t batch = run->options->batch, batches = (run->set->count + batch - 1) / batch;
    if (!run->extra->sheet) return YOLO_OK;
    for (int64_t i = 0; i < batches && i < EV_SHEETS; i++) {
        ev_sheet *sheet = &run->sheets[i];
        const ev_picture *first = &run->set->pictures[i * batch];
        int64_t count = YOLO_MIN(YOLO_MIN(batch, run->set->count - i * batch), EV_SHEET);
        *sheet = (ev_sheet){.batch = (int)i, .count = (int)count, .w = first->net_width, .h = first->net_height};
        uint64_t bytes = (uint64_t)count * (uint64_t)sheet->w * (uint64_t)sheet->h * 3;
        sheet->pixels = mem_alloc(bytes);
        if (!sheet->pixels) return err_memory(error, bytes);
        memset(sheet->pixels, 114, (size_t)bytes);
        run->sheet_count++;
    }
    return YOLO_OK;
}

static void ev_sheet_free(ev_sheet *sheet) {
    mem_free(sheet->pixels);
    for (int i = 0; i < EV_SHEET; i++) mem_free(sheet->boxes[i].items);
    memset(sheet, 0, sizeof *sheet);
}

static yolo_status ev_measure(const ev_run *run, const run_lane *lane, const loss_target *targets, int64_t count, loss_sums *out, yolo_error *error) {
    const int first[] = {0, (int)count};
    ten heads[NET_MAX_LEVELS] = {{0}};
    for (int level = 0; level < run->net->level_count; level++) heads[level] = run_lane_head(lane, level);
    size_t bytes = loss_workspace(run->net, heads, first[1]);
    void *workspace = mem_alloc(bytes);
    if (!workspace) return err_memory(error, bytes);
    *out = loss_measure(run->net, heads, targets, first, *run->extra->gains, workspace, NULL);
    mem_free(workspace);
    return YOLO_OK;
}

/* On a lane's thread: targets into network pixels, the picture's losses, its pixels for a sheet. */
static yolo_status ev_heads(void *user, pipe_picture *picture, run_lane *lane, yolo_error *error) {
    ev_run *run = user;
    const ev_picture *known = &run->set->pictures[picture->index];
    const img_letterbox *plan = &picture->letterbox;
    loss_target *targets = run->placed + known->first_target;
    const float scale[2] = {(float)plan->scaled_width, (float)plan->scaled_height}, pad[2] = {(float)plan->pad_left, (float)plan->pad_top};
    for (int64_t k = 0; k < known->target_count; k++) {
        targets[k] = run->set->targets[known->first_target + k];
        for (int side = 0; side < 4; side++) targets[k].box[side] = targets[k].box[side] * scale[side & 1] + pad[side & 1];
    }
    int at;
    ev_sheet *sheet = ev_sheet_of(run, picture->index, &at);
    size_t size = sheet ? (size_t)sheet->w * (size_t)sheet->h * 3 : 0;
    const float *from = run_lane_input(lane);
    for (size_t i = 0; i < size; i++) sheet->pixels[(size_t)at * size + i] = (uint8_t)(from[i] * 255 + 0.5f);
    return run->extra->gains ? ev_measure(run, lane, targets, known->target_count, &run->losses[picture->index], error) : YOLO_OK;
}

/* Rows as ultralytics' predictions.json has them: left top width height in pixels of the picture, classes from 1.
   REF ultralytics/models/yolo/detect/val.py pred_to_json */
static yolo_status ev_json(ev_run *run, const pipe_picture *picture, yolo_error *error) {
    const char *name = path_name(picture->path);
    size_t stem = (size_t)(path_extension(picture->path) - name);
    bool number = stem > 0 && stem <= 18;
    for (size_t i = 0; i < stem; i++) number &= name[i] >= '0' && name[i] <= '9';
    for (int i = 0; i < picture->boxes.count; i++) {
        yolo_box b = picture->boxes.items[i];
        det_unletterbox(&(yolo_boxes){&b, 1}, &picture->letterbox, picture->width, picture->height);
        double values[] = {b.x1, b.y1, (double)b.x2 - b.x1, (double)b.y2 - b.y1};
        str_add(&run->json, run->json_rows++ ? ",\n{\"image_id\":" : "[{\"image_id\":");
        if (number) str_format(&run->json, "%lld", strtoll(name, NULL, 10));
        else str_json(&run->json, name, stem);
        str_add(&run->json, ",\"file_name\":");
        str_json(&run->json, name, strlen(name));
        str_format(&run->json, ",\"category_id\":%d,\"bbox\":[", b.class_id + 1);
        for (int k = 0; k < 4; k++) {
            str_add(&run->json, k ? "," : "");
            str_decimals(&run->json, values[k], 3);
        }
        str_add(&run->json, "],\"score\":");
        str_decimals(&run->json, (double)b.confidence, 5);
        str_add(&run->json, "}");
    }
    if (run->json.failed) return err_memory(error, (uint64_t)run->json.length);
    if (run->json.length && fwrite(run->json.text, 1, (size_t)run->json.length, run->json_file) != (size_t)run->json.length)
        return err_os(error, run->options->save_json, "write");
    run->json.length = 0;
    return YOLO_OK;
}

/* Ends predictions.json, or removes it. */
static yolo_status ev_json_end(ev_run *run, bool good, yolo_error *error) {
    if (!run->json_file) return YOLO_OK;
    if (good) fputs(run->json_rows ? "]\n" : "[]\n", run->json_file);
    str_free(&run->json);
    return path_commit(run->options->save_json, run->json_temporary, run->json_file, good, true, error);
}

/* A batch's losses are divided by its own sum of scores once its last picture is there. */
static void ev_add_losses(ev_run *run, int64_t index, bool damaged) {
    const loss_sums *one = &run->losses[index];
    loss_sums *sum = &run->batch_losses;
    sum->box += one->box;
    sum->cls += one->cls;
    sum->dfl += one->dfl;
    sum->score += one->score;
    run->batch_pictures += !damaged;
    if ((index + 1) % run->options->batch && index + 1 < run->set->count) return;
    double share = 1 / YOLO_MAX(sum->score, 1.0);
    run->out->losses.box += sum->box * share;
    run->out->losses.cls += sum->cls * share;
    run->out->losses.dfl += sum->dfl * share;
    run->batches += run->batch_pictures > 0;
    run->batch_pictures = 0;
    *sum = (loss_sums){0};
}

/* Takes the picture's boxes for its sheet, and hands the sheet out when it is full. */
static void ev_add_sheet(ev_run *run, pipe_picture *picture) {
    int at;
    const ev_picture *known = &run->set->pictures[picture->index];
    ev_sheet *sheet = ev_sheet_of(run, picture->index, &at);
    if (!sheet) return;
    sheet->paths[at] = known->path;
    sheet->targets[at] = run->placed + known->first_target;
    sheet->target_counts[at] = picture->damage ? 0 : known->target_count;
    sheet->boxes[at] = picture->boxes;
    picture->boxes = (yolo_boxes){0};
    if (at + 1 < sheet->count) return;
    run->extra->sheet(run->extra->user, sheet);
    ev_sheet_free(sheet);
}

static yolo_status ev_add_picture(ev_run *run, pipe_picture *picture, yolo_error *error) {
    const ev_picture *known = &run->set->pictures[picture->index];
    const loss_target *targets = run->placed + known->first_target;
    yolo_metrics *metrics = &run->out->metrics;
    if (run->options->single_cls)
        for (int i = 0; i < picture->boxes.count; i++) picture->boxes.items[i].class_id = 0;
    metrics->speed_preprocess_ms += picture->preprocess_ms;
    metrics->speed_inference_ms += picture->inference_ms;
    metrics->speed_postprocess_ms += picture->postprocess_ms;
    yolo_status status = run->json_file ? ev_json(run, picture, error) : YOLO_OK;
    if (status == YOLO_OK) status = ev_add(&run->stats, &picture->boxes, targets, known->target_count, error);
    if (status == YOLO_OK && run->out->matrix.cells) /* what nobody would act on is not worth a look, unless asked for */
        status = ev_matrix_add(&run->out->matrix, &picture->boxes, targets, known->target_count,
                               run->options->conf == EV_CONF ? 0.25f : run->options->conf, error);
    return status;
}

static yolo_status ev_result(void *user, pipe_picture *picture, yolo_error *error) {
    ev_run *run = user;
    ev_picture *known = &run->set->pictures[picture->index];
    yolo_status status = YOLO_OK;
    log_meter_step(&run->meter, picture->index + 1);
    if (picture->damage) {
        if (!known->damaged) log_write(&run->options->log, YOLO_LOG_WARNING, "%s", picture->damage);
        known->damaged = true;
        run->out->metrics.damaged++;
    } else status = ev_add_picture(run, picture, error);
    if (status != YOLO_OK) return status;
    if (run->extra->gains) ev_add_losses(run, picture->index, picture->damage);
    ev_add_sheet(run, picture);
    return YOLO_OK;
}

static void ev_finish(ev_run *run, int lanes) {
    yolo_metrics *metrics = &run->out->metrics;
    double share = 1.0 / ((double)YOLO_MAX(metrics->images, 1) * lanes), batches = (double)YOLO_MAX(run->batches, 1);
    metrics->speed_preprocess_ms *= share;
    metrics->speed_inference_ms *= share;
    metrics->speed_postprocess_ms *= share;
    run->out->losses = (loss_parts){run->out->losses.box / batches, run->out->losses.cls / batches, run->out->losses.dfl / batches};
    run->out->fitness = ev_fitness(metrics);
}

static yolo_status ev_start(ev_run *run, yolo_error *error) {
    const ev_set *set = run->set;
    ev_rectangles(run);
    run->placed = mem_array((uint64_t)set->target_count, sizeof *run->placed);
    run->losses = mem_array(run->extra->gains ? (uint64_t)set->count : 0, sizeof *run->losses);
    if (!run->placed || !run->losses)
        return err_memory(error, (uint64_t)set->target_count * sizeof *run->placed + (uint64_t)set->count * sizeof *run->losses);
    yolo_status status = ev_stats_init(&run->stats, run->net->class_count, error);
    if (status == YOLO_OK && run->extra->curves) status = ev_matrix_init(&run->out->matrix, run->net->class_count, error);
    if (status == YOLO_OK) status = ev_sheets_make(run, error);
    if (status == YOLO_OK && run->options->save_json)
        status = path_begin(run->options->save_json, &run->json_temporary, &run->json_file, error);
    return status;
}

/* The options as the pipeline takes them, if they are in range; *imgsz rounded up. */
static yolo_status ev_options(const yolo_val_options *options, const net *net, int *imgsz, det_options *detect, yolo_error *error) {
    *imgsz = options->imgsz;
    *detect = (det_options){.conf = options->conf, .iou = options->iou, .max_det = options->max_det, .multi_label = true,
                            .agnostic = options->single_cls};
    if (options->batch < 1) return err_set(error, YOLO_ERROR_USAGE, "batch %d: expected 1 or more", options->batch);
    return det_check(net, imgsz, detect, error);
}

/* Looks at the set with the job's weights; the rest of `job` is filled in here. The options' data, split and single_cls
   are those the set was opened with. ev_outcome_free afterwards, on error too. */
static yolo_status ev_check(pipe_job *job, ev_set *set, const yolo_val_options *options, const ev_extra *extra, ev_outcome *out, yolo_error *error) {
    ev_run run = {.net = job->net, .options = options, .extra = extra, .set = set, .out = out};
    memset(out, 0, sizeof *out);
    out->metrics.damaged = set->damaged;
    yolo_status status = ev_options(options, job->net, &run.imgsz, &job->detect, error);
    if (status == YOLO_OK) status = ev_start(&run, error);
    if (status == YOLO_OK) {
        run.meter = log_meter_start(&options->log, options->progress, "val", "Progress", set->count);
        job->imgsz = run.imgsz;
        job->count = set->count;
        job->path = ev_path;
        job->plan = ev_plan;
        job->heads = ev_heads;
        job->result = ev_result;
        job->user = &run;
        job->network_boxes = true;
        job->detect.max_det = ev_max_det(&run);
        status = pipe_run(job, error);
    }
    if (status == YOLO_OK) status = ev_summarise(&run.stats, &out->metrics, extra->curves ? &out->curves : NULL, error);
    ev_finish(&run, pipe_lane_count(job));
    yolo_status written = ev_json_end(&run, status == YOLO_OK, error);
    for (int i = 0; i < run.sheet_count; i++) ev_sheet_free(&run.sheets[i]);
    ev_stats_free(&run.stats);
    mem_free(run.placed);
    mem_free(run.losses);
    return status == YOLO_OK ? written : status;
}

/* Bytes that ev_check will hold at most, with its packed weights: lanes at the largest rectangle, pictures on their way
   and sheets. */
static yolo_status ev_memory(const net *net, op_isa isa, int threads, const ev_set *set, int imgsz, uint64_t *bytes, yolo_error *error) {
    int stride = net->max_stride, side = (imgsz + stride - 1) / stride * stride + stride;
    uint64_t weights, lane, ways = (uint64_t)threads, slots = 2 * ways + 2;
    yolo_status status = run_measure(net, isa, 1, side, side, &weights, &lane, error);
    *bytes = status == YOLO_OK ? weights + ways * lane + YOLO_MIN(slots * set->largest, PIPE_HELD_BYTES + ways * set->largest) +
                                 (uint64_t)EV_SHEETS * EV_SHEET * (uint64_t)side * (uint64_t)side * 3 : 0;
    return status;
}

/* Opens the data set for one look; `job` as for ev_check. */
static yolo_status ev_val(pipe_job *job, const yolo_val_options *options, yolo_metrics *metrics, yolo_error *error) {
    data_set data;
    const data_list *list;
    ev_set set = {0};
    ev_outcome outcome = {0};
    const ev_extra nothing = {0};
    int imgsz;
    yolo_status status = ev_options(options, job->net, &imgsz, &job->detect, error);
    if (status == YOLO_OK) status = data_open(&data, options->data, error);
    if (status != YOLO_OK) return status;
    const ev_labels labels = {.data_classes = data.class_count, .net_classes = job->net->class_count, .single_cls = options->single_cls};
    status = data_split(&data, options->split, &list, error);
    if (status == YOLO_OK && data.class_count != job->net->class_count)
        log_write(&options->log, YOLO_LOG_WARNING, "%s: %d classes, but the model has %d%s", options->data, data.class_count, job->net->class_count,
                  data.class_count > job->net->class_count ? "; labels of the others are left out" : "");
    if (status == YOLO_OK) status = ev_set_open(&set, list, &labels, options->rect, &options->log, error);
    if (status == YOLO_OK) status = ev_check(job, &set, options, &nothing, &outcome, error);
    *metrics = outcome.metrics;
    outcome.metrics.classes = NULL;
    ev_outcome_free(&outcome);
    ev_set_close(&set);
    data_close(&data);
    return status;
}

/* ==== 22 plot_: charts and sheets of pictures ======================================================================
   What a run folder holds to be looked at, drawn with the strokes and the font of section 7. A chart is drawn on a white
   canvas: strokes gather in its cover, as wide as the canvas, until plot_paint gives them a colour, so that a line does not
   darken where it meets itself. Numbers may be NaN or infinite (they are left out) and names anything at all; the same
   input gives the same bytes. Nothing here stops a training: what fails is want of memory or the disk. */

enum { PLOT_TILE = 64, PLOT_LEGEND = 20, PLOT_EXTREMES = 5, PLOT_SHEET = 16 };

typedef struct plot_canvas {
    yolo_image image;
    uint8_t *cover, *touched; /* of each pixel; of each tile: is there any? */
    int across, down;         /* tiles */
} plot_canvas;

/* A chart's rectangle in pixels, what its edges stand for, which ticks are whole numbers, and the room for those at its left. */
typedef struct plot_axes { float left, top, right, bottom; double x1, x2, y1, y2; bool whole_x, whole_y; float room; } plot_axes;

static const uint8_t plot_ink[3] = {38, 38, 38}, plot_gray[3] = {120, 120, 120}, plot_grid[3] = {228, 228, 228}, plot_white[3] = {255, 255, 255};
static const uint8_t plot_blue[3] = {31, 100, 190}, plot_orange[3] = {245, 130, 20};
static const uint8_t plot_colours[PLOT_LEGEND][3] = { /* of lines on white, unlike img_palette's */
    {0, 110, 190}, {235, 120, 0}, {0, 150, 95}, {210, 45, 60}, {135, 85, 205}, {145, 95, 60}, {225, 85, 170}, {105, 105, 105},
    {165, 155, 0}, {0, 165, 200}, {100, 155, 235}, {250, 175, 85}, {90, 200, 125}, {245, 125, 115}, {190, 145, 240}, {195, 155, 125},
    {245, 160, 205}, {165, 165, 165}, {200, 195, 60}, {95, 205, 220},
};

static yolo_status plot_open(plot_canvas *canvas, int width, int height, yolo_error *error) {
    memset(canvas, 0, sizeof *canvas);
    canvas->across = (width + PLOT_TILE - 1) / PLOT_TILE;
    canvas->down = (height + PLOT_TILE - 1) / PLOT_TILE;
    canvas->image = (yolo_image){mem_array((uint64_t)width * (uint64_t)height, 3), width, height};
    canvas->cover = mem_array((uint64_t)width * (uint64_t)height, 1);
    canvas->touched = mem_array((uint64_t)canvas->across * (uint64_t)canvas->down, 1);
    if (!canvas->image.pixels || !canvas->cover || !canvas->touched) return err_memory(error, (uint64_t)width * (uint64_t)height * 4);
    memset(canvas->image.pixels, 255, (size_t)width * (size_t)height * 3);
    return YOLO_OK;
}

/* Writes the canvas, when all went well, and frees it. */
static yolo_status plot_close(plot_canvas *canvas, const char *path, yolo_status status, yolo_error *error) {
    if (status == YOLO_OK) status = codec_write(path, &canvas->image, error);
    mem_free(canvas->image.pixels);
    mem_free(canvas->cover);
    mem_free(canvas->touched);
    return status;
}

static void plot_rectangle(plot_canvas *canvas, float x1, float y1, float x2, float y2, const uint8_t colour[3]) {
    img_draw_rectangle(&canvas->image, (int)x1, (int)y1, (int)x2, (int)y2, colour);
}

/* Adds a line to the cover. Coordinates far outside are not drawn. */
static void plot_stroke(plot_canvas *canvas, float x1, float y1, float x2, float y2, float thickness) {
    float reach = thickness / 2 + 1, limit = 1e5f;
    if (!(fabsf(x1) < limit && fabsf(y1) < limit && fabsf(x2) < limit && fabsf(y2) < limit)) return;
    int left = (int)floorf((YOLO_MIN(x1, x2) - reach) / PLOT_TILE), right = (int)floorf((YOLO_MAX(x1, x2) + reach) / PLOT_TILE);
    int top = (int)floorf((YOLO_MIN(y1, y2) - reach) / PLOT_TILE), bottom = (int)floorf((YOLO_MAX(y1, y2) + reach) / PLOT_TILE);
    for (int y = YOLO_MAX(top, 0); y <= YOLO_MIN(bottom, canvas->down - 1); y++)
        for (int x = YOLO_MAX(left, 0); x <= YOLO_MIN(right, canvas->across - 1); x++) canvas->touched[y * canvas->across + x] = 1;
    img_mask mask = {canvas->cover, 0, 0, canvas->image.width, canvas->image.height};
    img_mask_stroke(&mask, x1, y1, x2, y2, thickness);
}

/* Paints what was covered since the last time; alpha 0..255. */
static void plot_paint(plot_canvas *canvas, const uint8_t colour[3], int alpha) {
    img_mask mask = {canvas->cover, 0, 0, canvas->image.width, canvas->image.height};
    for (int y = 0; y < canvas->down; y++)
        for (int x = 0; x < canvas->across; x++) {
            uint8_t *touched = &canvas->touched[y * canvas->across + x];
            if (*touched)
                img_mask_paint(&mask, &canvas->image, x * PLOT_TILE, y * PLOT_TILE, YOLO_MIN((x + 1) * PLOT_TILE, canvas->image.width),
                               YOLO_MIN((y + 1) * PLOT_TILE, canvas->image.height), colour, alpha);
            *touched = 0;
        }
}

/* A line through the points whose coordinates are finite. dots: a row of round dots that far apart, 0 = unbroken. */
static void plot_line(plot_canvas *canvas, const plot_axes *axes, const double *x, const double *y, int count, float thickness, float dots) {
    float from_x = 0, from_y = 0, spare = 0;
    bool started = false;
    for (int i = 0; i < count; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) { started = false; continue; }
        float to_x = axes->left + (float)((x[i] - axes->x1) / (axes->x2 - axes->x1)) * (axes->right - axes->left);
        float to_y = axes->bottom - (float)((y[i] - axes->y1) / (axes->y2 - axes->y1)) * (axes->bottom - axes->top);
        float length = started ? sqrtf((to_x - from_x) * (to_x - from_x) + (to_y - from_y) * (to_y - from_y)) : 0;
        if (!(length < 1e5f)) continue;
        if (!started || dots <= 0) plot_stroke(canvas, started ? from_x : to_x, started ? from_y : to_y, to_x, to_y, thickness);
        else {
            for (; spare <= length; spare += dots) {
                float px = from_x + (to_x - from_x) * spare / length, py = from_y + (to_y - from_y) * spare / length;
                plot_stroke(canvas, px, py, px, py, thickness);
            }
            spare -= length;
        }
        if (!started) spare = dots;
        from_x = to_x;
        from_y = to_y;
        started = true;
    }
}

/* A line of text at (x, y); across and down say which of its points lies there: 0 = left or top, 0.5 = middle, 1 = right
   or bottom. What does not fit into `room` is cut off with two dots. Returns its width. */
static float plot_text(plot_canvas *canvas, float x, float y, float across, float down, img_type type, float room, const char *text) {
    char cut[200];
    float width = img_text_width(text, type.size);
    if (width > room) {
        size_t length = img_text_fit(text, type.size, room - img_text_width("n..", type.size), &width);
        length = YOLO_MIN(length, sizeof cut - 3);
        while (length && ((unsigned char)text[length] & 0xc0) == 0x80) length--;
        memcpy(cut, text, length);
        memcpy(cut + length, "..", 3);
        text = cut;
        width = img_text_width(text, type.size);
    }
    float along = width * across, up = type.size * down;
    img_draw_text(&canvas->image, type.upwards ? x - up : x - along, type.upwards ? y + along : y - up, type, text, strlen(text));
    return width;
}

static const float plot_wide = 1e6f;

static img_type plot_type(float size, const uint8_t *colour) { return (img_type){.size = size, .colour = colour}; }

/* The step of about `count` round numbers over a span: 1, 2, 2.5 or 5 times a power of ten. */
static double plot_step(double span, int count, bool whole) {
    double least = span / YOLO_MAX(count, 1), step = pow(10, floor(log10(least)));
    double factor = least / step <= 1.0001 ? 1 : least / step <= 2 ? 2 : least / step <= 2.5 && step > 1 ? 2.5 : least / step <= 5 ? 5 : 10;
    step *= factor;
    return whole && step < 1 ? 1 : step;
}

/* A tick's number, with as many decimals as its step asks for. */
static void plot_number(char text[40], double number, double step) {
    if (fabs(number) < step * 1e-6) number = 0;
    if (step < 1e-5 || fabs(number) >= 1e6) { str_from_number(text, number, 4); return; }
    snprintf(text, 40, "%.*f", YOLO_CLAMP((int)ceil(-log10(step) - 1e-9), 0, 5) , number);
    char *dot = strchr(text, str_decimal_point());
    if (dot) *dot = '.';
}

/* Grid, ticks and their numbers (about so many, 0 = none), and the two axes. */
static void plot_draw_axes(plot_canvas *canvas, const plot_axes *axes, int x_ticks, int y_ticks, float size) {
    double step = plot_step(axes->x2 - axes->x1, x_ticks, axes->whole_x);
    char text[40];
    for (double at = ceil(axes->x1 / step - 1e-9) * step; x_ticks && at <= axes->x2 + step * 1e-6; at += step) {
        float x = floorf(axes->left + (float)((at - axes->x1) / (axes->x2 - axes->x1)) * (axes->right - axes->left));
        plot_rectangle(canvas, x, axes->top, x + 1, axes->bottom + 6, plot_grid);
        plot_number(text, at, step);
        plot_text(canvas, x, axes->bottom + 15, 0.5f, 0, plot_type(size, plot_ink), plot_wide, text);
    }
    step = plot_step(axes->y2 - axes->y1, y_ticks, axes->whole_y);
    for (double at = ceil(axes->y1 / step - 1e-9) * step; y_ticks && at <= axes->y2 + step * 1e-6; at += step) {
        float y = floorf(axes->bottom - (float)((at - axes->y1) / (axes->y2 - axes->y1)) * (axes->bottom - axes->top));
        plot_rectangle(canvas, axes->left - 6, y, axes->right, y + 1, plot_grid);
        plot_number(text, at, step);
        float fit = YOLO_MIN(1.0f, axes->room / img_text_width(text, size));
        plot_text(canvas, axes->left - 12, y + 1, 1, 0.5f, plot_type(size * fit, plot_ink), plot_wide, text);
    }
    plot_rectangle(canvas, axes->left, axes->bottom, axes->right, axes->bottom + 2, plot_gray);
    plot_rectangle(canvas, axes->left, axes->top, axes->left + 2, axes->bottom + 2, plot_gray);
}

/* ---- results.png ---- */

static const char *const plot_result_names[] = {
    "train/box_loss", "train/cls_loss", "train/dfl_loss", "metrics/precision(B)", "metrics/recall(B)",
    "val/box_loss", "val/cls_loss", "val/dfl_loss", "metrics/mAP50(B)", "metrics/mAP50-95(B)",
};
enum { PLOT_RESULTS = 10, PLOT_SIGMA = 3, PLOT_MAX_EPOCHS = 100000 };

typedef struct plot_table { double *x, *y[PLOT_RESULTS], *smooth; int count; } plot_table;

/* The next field of a line of comma-separated values, without blanks; false at the line's end. */
static bool plot_field(const char **at, const char *end, const char **field, size_t *length) {
    if (*at > end) return false;
    const char *comma = memchr(*at, ',', (size_t)(end - *at)), *stop = comma ? comma : end;
    *field = *at;
    *at = stop + 1;
    while (*field < stop && isspace((unsigned char)**field)) ++*field;
    while (stop > *field && isspace((unsigned char)stop[-1])) stop--;
    *length = (size_t)(stop - *field);
    return true;
}

/* Which series each column holds (-1 = none, PLOT_RESULTS = the epochs). */
static int plot_columns(const char *line, const char *end, int columns[64]) {
    const char *field;
    size_t length;
    int count = 0;
    while (count < 64 && plot_field(&line, end, &field, &length)) {
        columns[count] = length == 5 && !memcmp(field, "epoch", 5) ? PLOT_RESULTS : -1;
        for (int i = 0; i < PLOT_RESULTS; i++)
            if (strlen(plot_result_names[i]) == length && !memcmp(field, plot_result_names[i], length)) columns[count] = i;
        count++;
    }
    return count;
}

static yolo_status plot_table_make(plot_table *table, char *text, size_t size, yolo_error *error) {
    const char *end = text + size, *line = text, *next;
    int columns[64], column_count = 0, capacity = 0;
    for (const char *p = text; p < end; p++) capacity += *p == '\n';
    capacity = YOLO_MIN(capacity + 1, PLOT_MAX_EPOCHS);
    double *block = mem_array((uint64_t)capacity * (PLOT_RESULTS + 2), sizeof *block);
    if (!block) return err_memory(error, (uint64_t)capacity * (PLOT_RESULTS + 2) * 8);
    table->x = block;
    table->smooth = block + capacity;
    for (int i = 0; i < PLOT_RESULTS; i++) table->y[i] = block + (size_t)capacity * (size_t)(2 + i);
    for (; line < end && table->count < capacity; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line)), *field;
        size_t length;
        stop = stop ? stop : end;
        next = stop + 1;
        if (!column_count) { column_count = plot_columns(line, stop, columns); continue; }
        if (stop - line < 2) continue;
        int row = table->count++;
        table->x[row] = row + 1;
        for (int i = 0; i < PLOT_RESULTS; i++) table->y[i][row] = NAN;
        for (int c = 0; c < column_count && plot_field(&line, stop, &field, &length); c++) {
            double number = NAN;
            if (columns[c] < 0 || !str_to_number(field, length, &number) || !(fabs(number) < 1e300)) continue;
            *(columns[c] == PLOT_RESULTS ? &table->x[row] : &table->y[columns[c]][row]) = number;
        }
    }
    return YOLO_OK;
}

/* Gaussian smoothing of what is finite; mirrored at the ends. REF ultralytics/utils/plotting.py plot_results */
static void plot_smooth(double *out, const double *in, int count) {
    for (int i = 0; i < count; i++) {
        double sum = 0, weights = 0;
        for (int k = -4 * PLOT_SIGMA; k <= 4 * PLOT_SIGMA; k++) {
            int at = i + k, period = 2 * count;
            at = ((at % period) + period) % period;
            at = at < count ? at : period - 1 - at;
            double weight = exp(-0.5 * k * k / (PLOT_SIGMA * PLOT_SIGMA));
            if (!isfinite(in[at])) continue;
            sum += weight * in[at];
            weights += weight;
        }
        out[i] = weights > 0 && isfinite(in[i]) ? sum / weights : NAN;
    }
}

/* The range of what is finite, widened by a twentieth at either side; false when there is nothing. */
static bool plot_range(const double *values, int count, double least, double *low, double *high) {
    *low = INFINITY;
    *high = -INFINITY;
    for (int i = 0; i < count; i++) {
        if (!isfinite(values[i])) continue;
        *low = YOLO_MIN(*low, values[i]);
        *high = YOLO_MAX(*high, values[i]);
    }
    if (!(*low <= *high)) return false;
    double margin = YOLO_MAX(YOLO_MAX((*high - *low) * 0.05, fabs(*high) * 1e-9), *high > *low ? 1e-12 : least);
    *low -= margin;
    *high += margin;
    return true;
}

/* The best value of a series and its epoch. */
static void plot_best(plot_canvas *canvas, const plot_axes *axes, const plot_table *table, int series) {
    bool loss = series < 8 && series != 3 && series != 4;
    int best = -1;
    char text[80], number[40];
    for (int i = 0; i < table->count; i++)
        if (isfinite(table->y[series][i]) && (best < 0 || (loss ? table->y[series][i] < table->y[series][best] : table->y[series][i] > table->y[series][best]))) best = i;
    if (best < 0 || series < 3) return;
    plot_line(canvas, axes, &table->x[best], &table->y[series][best], 1, 13, 0);
    plot_paint(canvas, plot_ink, 255);
    plot_line(canvas, axes, &table->x[best], &table->y[series][best], 1, 7, 0);
    plot_paint(canvas, plot_white, 255);
    str_from_number(number, table->y[series][best], 4);
    snprintf(text, sizeof text, "best %s at %.0f", number, table->x[best]);
    plot_text(canvas, axes->right - 8, loss ? axes->top + 10 : axes->bottom - 12, 1, loss ? 0 : 1, plot_type(15, plot_gray), axes->right - axes->left, text);
}

static void plot_result(plot_canvas *canvas, plot_axes axes, plot_table *table, int series, const char *label) {
    const double *y = table->y[series];
    float size = 17, middle = (axes.left + axes.right) / 2;
    plot_text(canvas, middle, axes.top - 14, 0.5f, 1, plot_type(20, plot_ink), axes.right - axes.left + 66, plot_result_names[series]);
    if (!plot_range(y, table->count, YOLO_MAX(fabs(y[0]) * 0.1, 0.05), &axes.y1, &axes.y2) || !plot_range(table->x, table->count, 0.5, &axes.x1, &axes.x2)) {
        axes.x1 = axes.y1 = 0;
        axes.x2 = axes.y2 = 1;
        plot_draw_axes(canvas, &axes, 0, 0, size);
        plot_text(canvas, middle, (axes.top + axes.bottom) / 2, 0.5f, 0.5f, plot_type(size, plot_gray), plot_wide, "no data");
        return;
    }
    axes.whole_x = true;
    plot_draw_axes(canvas, &axes, 5, 6, size);
    float apart = (axes.right - axes.left) / (float)YOLO_MAX(table->count, 1);
    plot_line(canvas, &axes, table->x, y, table->count, apart > 2 ? 2.6f : 1.6f, 0);
    if (apart > 4)
        for (int i = 0; i < table->count; i++) plot_line(canvas, &axes, &table->x[i], &y[i], 1, YOLO_CLAMP(apart * 0.9f, 4.0f, 8.0f), 0);
    plot_paint(canvas, plot_blue, 255);
    plot_smooth(table->smooth, y, table->count);
    plot_line(canvas, &axes, table->x, table->smooth, table->count, apart > 2 ? 3.0f : 3.6f, 7);
    plot_paint(canvas, plot_orange, 255);
    plot_best(canvas, &axes, table, series);
    if (!label) return;
    for (int i = 0; i < 2; i++) {
        float x = axes.right - 118, y_text = axes.top + 14 + 27 * (float)i;
        for (int k = 0; k <= 6; k++) plot_stroke(canvas, x - 46 + 7 * (float)(i ? k : 0), y_text, x - 46 + 7 * (float)(i ? k : 6), y_text, 3);
        plot_paint(canvas, i ? plot_orange : plot_blue, 255);
        plot_text(canvas, x + 10, y_text + 1, 0, 0.5f, plot_type(16, plot_ink), 106, i ? "smooth" : label);
    }
}

/* results.csv -> results.png: losses and metrics over the epochs. A damaged file gives what can be read of it. */
static yolo_status plot_results(const char *csv_path, const char *png_path, yolo_error *error) {
    plot_canvas canvas;
    plot_table table = {.count = 0};
    uint8_t *bytes;
    size_t size;
    yolo_status status = path_read(csv_path, 64 << 20, &bytes, &size, error);
    if (status != YOLO_OK) return status;
    status = plot_table_make(&table, (char *)bytes, size, error);
    if (status == YOLO_OK) status = plot_open(&canvas, 2000, 1000, error);
    else memset(&canvas, 0, sizeof canvas);
    for (int i = 0; i < PLOT_RESULTS && status == YOLO_OK; i++) {
        float left = 395 * (float)(i % 5) + 86, top = 490 * (float)(i / 5) + 56;
        plot_result(&canvas, (plot_axes){.left = left, .top = top, .right = left + 316, .bottom = top + 380, .room = 64}, &table, i, i == 1 ? "results" : NULL);
        if (i > 4) plot_text(&canvas, left + 158, top + 422, 0.5f, 0, plot_type(17, plot_ink), plot_wide, "epoch");
    }
    mem_free(table.x);
    mem_free(bytes);
    return plot_close(&canvas, png_path, status, error);
}

/* ---- curves ---- */

/* A line a class over 0..1. Precision over recall where there is an `ap`, else a metric over the confidence. */
typedef struct plot_curve_set {
    const char *metric;    /* "F1", "Precision" or "Recall"; without meaning with `ap` */
    const double *y;       /* row r's point i at y[r * stride + i] */
    size_t stride;
    int rows, points;      /* points lie at i / (points - 1) */
    const int *class_ids;  /* of each row; NULL = 0, 1, 2 ... */
    const double *ap;      /* AP50 of row r at ap[r * ap_stride]; NULL = a curve over the confidence */
    size_t ap_stride;
    const char *const *names; /* by class, NULL = numbers */
    int class_count;
} plot_curve_set;

static const char *plot_class_name(const plot_curve_set *set, int row, char text[160]) {
    int id = set->class_ids ? set->class_ids[row] : row;
    img_class_label(text, 140, set->names && id >= 0 && id < set->class_count ? set->names[id] : NULL, id);
    return text;
}

/* The mean of all classes at each point; smoothed by a box filter of a tenth over the confidence, with ends held.
   REF ultralytics/utils/metrics.py plot_mc_curve */
static void plot_curve_mean(const plot_curve_set *set, double *mean, double *raw) {
    int points = set->points, reach = set->ap ? 0 : (int)rint(points * 0.1 * 2) / 2 / 2;
    for (int i = 0; i < points; i++) {
        double sum = 0;
        int count = 0;
        for (int r = 0; r < set->rows; r++) {
            double value = set->y[(size_t)r * set->stride + (size_t)i];
            if (isfinite(value)) { sum += value; count++; }
        }
        raw[i] = count ? sum / count : NAN;
    }
    for (int i = 0; i < points; i++) {
        mean[i] = 0;
        for (int k = -reach; k <= reach; k++) mean[i] += raw[YOLO_CLAMP(i + k, 0, points - 1)] / (2 * reach + 1);
    }
}

static void plot_legend(plot_canvas *canvas, float x, float *y, const uint8_t *colour, float thickness, float room, const char *text) {
    plot_stroke(canvas, x, *y, x + 44, *y, thickness);
    plot_paint(canvas, colour, 255);
    plot_text(canvas, x + 62, *y + 1, 0, 0.5f, plot_type(17, plot_ink), room - 62, text);
    *y += 36;
}

static double plot_curve_ap(const plot_curve_set *set, int row) {
    double ap = set->ap ? set->ap[(size_t)row * set->ap_stride] : 0;
    return isfinite(ap) ? ap : 0;
}

/* The rows that get a colour and a line of the legend: all where there are few; else, by AP, the five best and worst. */
static int plot_curve_chosen(const plot_curve_set *set, int chosen[PLOT_LEGEND]) {
    bool few = set->rows <= PLOT_LEGEND;
    if (!few && !set->ap) return 0;
    for (int r = 0; r < set->rows; r++) {
        int rank = few ? r : 0;
        for (int q = 0; q < set->rows && !few; q++) {
            double more = plot_curve_ap(set, q) - plot_curve_ap(set, r);
            rank += more > 0 || (more == 0 && q < r);
        }
        if (few || rank < PLOT_EXTREMES) chosen[rank] = r;
        else if (rank >= set->rows - PLOT_EXTREMES) chosen[rank - set->rows + 2 * PLOT_EXTREMES] = r;
    }
    return few ? set->rows : 2 * PLOT_EXTREMES;
}

static void plot_curve_row(plot_canvas *canvas, const plot_axes *axes, const plot_curve_set *set, const double *x, int row, const uint8_t *colour, int alpha) {
    plot_line(canvas, axes, x, set->y + (size_t)row * set->stride, set->points, alpha == 255 ? 2.2f : 1.4f, 0);
    plot_paint(canvas, colour, alpha);
}

/* The lines, and the legend at their right: its last entry tells the best point, which is marked where it is one. */
static void plot_curve_lines(plot_canvas *canvas, const plot_axes *axes, const plot_curve_set *set, const double *x, const double *mean, float room) {
    int chosen[PLOT_LEGEND], count = plot_curve_chosen(set, chosen), best = 0;
    char name[160], text[240];
    float legend = axes->top + 20, left = axes->right + 36;
    double ap = 0;
    for (int r = 0; r < set->rows; r++) {
        ap += plot_curve_ap(set, r) / set->rows;
        if (set->rows > PLOT_LEGEND) plot_curve_row(canvas, axes, set, x, r, plot_gray, 110);
    }
    for (int i = 0; i < count; i++) {
        plot_curve_row(canvas, axes, set, x, chosen[i], plot_colours[i], 255);
        if (set->ap) snprintf(text, sizeof text, "%s %.3f", plot_class_name(set, chosen[i], name), plot_curve_ap(set, chosen[i]));
        else snprintf(text, sizeof text, "%s", plot_class_name(set, chosen[i], name));
        if (set->rows > PLOT_LEGEND && i % PLOT_EXTREMES == 0) {
            plot_text(canvas, left, legend + 2, 0, 0.5f, plot_type(17, plot_gray), room, i ? "worst classes" : "best classes");
            legend += 36;
        }
        plot_legend(canvas, left, &legend, plot_colours[i], 2.2f, room, text);
    }
    for (int i = 1; i < set->points; i++)
        if (mean[i] > mean[best] || !isfinite(mean[best])) best = i;
    plot_line(canvas, axes, x, mean, set->points, 6, 0);
    plot_paint(canvas, plot_blue, 255);
    if (set->ap) snprintf(text, sizeof text, "all classes %.3f mAP@0.5", ap);
    else snprintf(text, sizeof text, "all classes %.2f at %.3f", mean[best], x[best]);
    plot_legend(canvas, left, &legend, plot_blue, 6, room, text);
    if (set->ap) return;
    plot_line(canvas, axes, &x[best], &mean[best], 1, 18, 0);
    plot_paint(canvas, plot_white, 255);
    plot_line(canvas, axes, &x[best], &mean[best], 1, 12, 0);
    plot_paint(canvas, plot_blue, 255);
}

/* BoxPR_curve.png, BoxF1_curve.png, BoxP_curve.png, BoxR_curve.png */
static yolo_status plot_curves(const char *path, const plot_curve_set *set, yolo_error *error) {
    plot_canvas canvas;
    plot_curve_set curves = *set;
    plot_axes axes = {130, 84, 1260, 1090, 0, 1, 0, 1, false, false, 80};
    char title[100];
    if (curves.points < 1) curves.rows = 0;
    int points = YOLO_MAX(curves.points, 1);
    curves.points = points;
    double *block = mem_array((uint64_t)points, 3 * sizeof *block);
    yolo_status status = plot_open(&canvas, 1800, 1200, error);
    if (status == YOLO_OK && !block) status = err_memory(error, (uint64_t)points * 24);
    if (status == YOLO_OK) {
        for (int i = 0; i < points; i++) block[i] = i / YOLO_MAX(points - 1.0, 1);
        plot_curve_mean(&curves, block + points, block + 2 * points);
        snprintf(title, sizeof title, "%s Curve", curves.ap ? "Precision-Recall" : curves.metric);
        if (!curves.ap) snprintf(title, sizeof title, "%s-Confidence Curve", curves.metric);
        float middle = (axes.left + axes.right) / 2, half = (axes.top + axes.bottom) / 2;
        plot_draw_axes(&canvas, &axes, 10, 10, 17);
        plot_text(&canvas, middle, axes.top - 26, 0.5f, 1, plot_type(24, plot_ink), plot_wide, title);
        plot_text(&canvas, middle, axes.bottom + 56, 0.5f, 0, plot_type(20, plot_ink), plot_wide, curves.ap ? "Recall" : "Confidence");
        plot_text(&canvas, 42, half, 0.5f, 0.5f, (img_type){20, 0, true, plot_ink}, plot_wide, curves.ap ? "Precision" : curves.metric);
        if (!curves.rows) plot_text(&canvas, middle, half, 0.5f, 0.5f, plot_type(20, plot_gray), plot_wide, "no data");
        else plot_curve_lines(&canvas, &axes, &curves, block, block + points, 1800 - axes.right - 56);
    }
    mem_free(block);
    return plot_close(&canvas, path, status, error);
}

/* ---- confusion matrix ---- */

/* White to dark blue, part 0..1. */
static void plot_blues(double part, uint8_t colour[3]) {
    static const uint8_t stops[][3] = {{255, 255, 255}, {214, 230, 244}, {140, 190, 224}, {58, 132, 192}, {16, 76, 148}, {8, 40, 96}};
    double at = YOLO_CLAMP(part > 0 ? part : 0, 0.0, 1.0) * (YOLO_COUNT(stops) - 1);
    int low = YOLO_MIN((int)at, YOLO_COUNT(stops) - 2);
    for (int c = 0; c < 3; c++) colour[c] = (uint8_t)lrint(stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]));
}

typedef struct plot_matrix { const int32_t *counts; int size; bool normalised; double *sums; double most; } plot_matrix;

/* What a cell shows: predicted in rows, true in columns. */
static double plot_matrix_cell(const plot_matrix *m, int predicted, int true_class) {
    double count = (double)m->counts[(size_t)predicted * (size_t)m->size + (size_t)true_class];
    return !m->normalised ? count : m->sums[true_class] > 0 ? count / m->sums[true_class] : 0;
}

static void plot_matrix_cells(plot_canvas *canvas, const plot_axes *axes, const plot_matrix *m) {
    float side = (axes->right - axes->left) / (float)m->size, size = YOLO_MIN(18.0f, side * 0.3f);
    for (int p = 0; p < m->size; p++)
        for (int t = 0; t < m->size; t++) {
            double value = plot_matrix_cell(m, p, t), part = value / m->most;
            float x = axes->left + side * (float)t, y = axes->top + side * (float)p;
            uint8_t colour[3];
            char text[40];
            if (!(value > 0)) continue;
            plot_blues(side < 8 ? 0.15 + 0.85 * part : part, colour);
            plot_rectangle(canvas, x, y, YOLO_MAX(floorf(x) + 1, x + side), YOLO_MAX(floorf(y) + 1, y + side), colour);
            if (side < 36 || value < 0.005) continue;
            if (m->normalised) snprintf(text, sizeof text, "%.2f", value);
            else snprintf(text, sizeof text, "%.0f", value);
            float width = img_text_width(text, size), fit = YOLO_MIN(1.0f, (side - 8) / width);
            plot_text(canvas, x + side / 2, y + side / 2, 0.5f, 0.5f, plot_type(size * fit, part > 0.45 ? plot_white : plot_ink), plot_wide, text);
        }
    for (int i = 0; i <= m->size; i += side >= 8 ? 1 : m->size) {
        float x = axes->left + side * (float)i, y = axes->top + side * (float)i;
        plot_rectangle(canvas, x, axes->top, x + 1, axes->bottom + 1, plot_grid);
        plot_rectangle(canvas, axes->left, y, axes->right + 1, y + 1, plot_grid);
    }
}

/* Class names, or numbers where names find no room, along both axes. */
static void plot_matrix_names(plot_canvas *canvas, const plot_axes *axes, const plot_matrix *m, const char *const *names, float room) {
    float side = (axes->right - axes->left) / (float)m->size, size = YOLO_CLAMP(side * 0.66f, 7.0f, 18.0f);
    bool named = side >= 11;
    int step = named ? 1 : (int)plot_step(m->size, 12, true);
    for (int i = 0; i < m->size; i += step) {
        char text[160];
        if (i == m->size - 1 && named) snprintf(text, sizeof text, "background");
        else img_class_label(text, 140, named && names ? names[i] : NULL, i);
        float at = side * ((float)i + 0.5f), tick = floorf(at);
        img_type type = plot_type(named ? size : 15, plot_ink);
        plot_rectangle(canvas, axes->left + tick, axes->bottom, axes->left + tick + 1, axes->bottom + 7, plot_gray);
        plot_rectangle(canvas, axes->left - 6, axes->top + tick, axes->left, axes->top + tick + 1, plot_gray);
        plot_text(canvas, axes->left - 12, axes->top + at, 1, 0.5f, type, room, text);
        type.upwards = named;
        if (named) plot_text(canvas, axes->left + at, axes->bottom + 14, 1, 0.5f, type, room, text);
        else plot_text(canvas, axes->left + at, axes->bottom + 14, 0.5f, 0, type, room, text);
    }
}

static void plot_matrix_scale(plot_canvas *canvas, const plot_axes *axes, const plot_matrix *m) {
    plot_axes bar = {axes->right + 60, axes->top, axes->right + 92, axes->bottom, 0, 1, 0, m->most, false, false, 80};
    for (float y = bar.top; y < bar.bottom; y++) {
        uint8_t colour[3];
        plot_blues((double)((bar.bottom - y) / (bar.bottom - bar.top)), colour);
        plot_rectangle(canvas, bar.left, y, bar.right, y + 1, colour);
    }
    double step = plot_step(m->most, 6, !m->normalised);
    for (double at = 0; at <= m->most + step * 1e-6; at += step) {
        char text[40];
        float y = floorf(bar.bottom - (float)(at / m->most) * (bar.bottom - bar.top));
        plot_number(text, at, step);
        plot_rectangle(canvas, bar.right, y, bar.right + 7, y + 1, plot_gray);
        plot_text(canvas, bar.right + 14, y + 1, 0, 0.5f, plot_type(15, plot_ink), plot_wide, text);
    }
}

/* Widest class name in pixels, at most `most`. */
static float plot_names_width(const char *const *names, int count, float size, float most) {
    float widest = img_text_width("background", size);
    for (int i = 0; i < count; i++) {
        char text[160];
        img_class_label(text, 140, names ? names[i] : NULL, i);
        widest = YOLO_MAX(widest, img_text_width(text, size));
    }
    return YOLO_MIN(widest, most);
}

/* confusion_matrix.png and confusion_matrix_normalized.png. `counts` is (class_count + 1) squared, row = predicted class,
   column = true class, the last of either the background; `normalised` = parts of the column's sum. */
static yolo_status plot_confusion(const char *path, const int32_t *counts, const char *const *names, int class_count, bool normalised, yolo_error *error) {
    plot_canvas canvas = {.across = 0};
    plot_matrix m = {counts, class_count + 1, normalised, mem_array((uint64_t)class_count + 1, sizeof *m.sums), 0};
    if (!m.sums) return err_memory(error, (uint64_t)class_count * 8);
    for (int p = 0; p < m.size; p++)
        for (int t = 0; t < m.size; t++) m.sums[t] += (double)counts[(size_t)p * (size_t)m.size + (size_t)t];
    for (int p = 0; p < m.size; p++)
        for (int t = 0; t < m.size; t++) m.most = YOLO_MAX(m.most, plot_matrix_cell(&m, p, t));
    if (m.most <= 0) m.most = 1;
    float side = YOLO_CLAMP(rintf(1200.0f / (float)m.size), 1.0f, 240.0f), whole = YOLO_CLAMP(side * (float)m.size, 480.0f, 2400.0f);
    float room = side >= 11 ? plot_names_width(names, class_count, YOLO_CLAMP(side * 0.66f, 7.0f, 18.0f), 340) : 60;
    plot_axes axes = {.left = room + 96, .top = 84};
    axes.right = axes.left + whole;
    axes.bottom = axes.top + whole;
    yolo_status status = plot_open(&canvas, (int)axes.right + 200, (int)(axes.bottom + (side >= 11 ? room : 30) + 80), error);
    if (status == YOLO_OK) {
        plot_text(&canvas, (axes.left + axes.right) / 2, 28, 0.5f, 0, plot_type(24, plot_ink), plot_wide, normalised ? "Confusion Matrix Normalized" : "Confusion Matrix");
        plot_text(&canvas, (axes.left + axes.right) / 2, (float)canvas.image.height - 20, 0.5f, 1, plot_type(20, plot_ink), plot_wide, "True");
        plot_text(&canvas, 36, (axes.top + axes.bottom) / 2, 0.5f, 0.5f, (img_type){20, 0, true, plot_ink}, plot_wide, "Predicted");
        plot_matrix_cells(&canvas, &axes, &m);
        plot_matrix_names(&canvas, &axes, &m, names, room);
        plot_matrix_scale(&canvas, &axes, &m);
    }
    mem_free(m.sums);
    return plot_close(&canvas, path, status, error);
}

/* ---- labels.jpg ---- */

static void plot_bars(plot_canvas *canvas, plot_axes axes, const int64_t *instances, const char *const *names, int class_count) {
    int64_t most = 0;
    for (int i = 0; i < class_count; i++) most = YOLO_MAX(most, instances[i]);
    axes.y2 = (double)YOLO_MAX(most, 1) * 1.08;
    axes.x2 = YOLO_MAX(class_count, 1);
    axes.whole_y = true;
    plot_draw_axes(canvas, &axes, 0, 7, 15);
    float step = (axes.right - axes.left) / (float)YOLO_MAX(class_count, 1), size = YOLO_CLAMP(step * 0.5f, 8.0f, 16.0f);
    bool named = class_count <= 50;
    int tick = named ? 1 : (int)plot_step(class_count, 8, true);
    for (int i = 0; i < class_count; i++) {
        char text[160];
        float x = axes.left + step * (float)i, y = axes.bottom - (float)((double)instances[i] / axes.y2) * (axes.bottom - axes.top);
        float left = x + step * 0.1f, right = YOLO_MAX(x + step * 0.9f, floorf(left) + 1);
        const uint8_t *colour = img_class_colour(i);
        bool pale = colour[0] > 225 && colour[1] > 225 && colour[2] > 225;
        if (pale) plot_rectangle(canvas, left, y, right, axes.bottom, plot_gray);
        if (!pale || right - left > 4) plot_rectangle(canvas, left + pale, y + pale, right - pale, axes.bottom, colour);
        img_class_label(text, 140, named && names ? names[i] : NULL, i);
        img_type type = plot_type(named ? size : 15, plot_ink);
        type.upwards = named;
        if (named) plot_text(canvas, x + step / 2, axes.bottom + 12, 1, 0.5f, type, 150, text);
        else if (i % tick == 0) plot_text(canvas, x + step / 2, axes.bottom + 12, 0.5f, 0, type, plot_wide, text);
        snprintf(text, sizeof text, "%lld", (long long)instances[i]);
        if (named && img_text_width(text, 13) < step) plot_text(canvas, x + step / 2, y - 5, 0.5f, 1, plot_type(13, plot_ink), plot_wide, text);
    }
    plot_text(canvas, axes.left, axes.top - 18, 0, 1, plot_type(18, plot_ink), plot_wide, "instances");
}

/* Where boxes lie, or how large they are: 50 x 50 fields, darker = more. */
static void plot_density(plot_canvas *canvas, plot_axes axes, const yolo_box *boxes, int64_t count, bool sizes) {
    enum { FIELDS = 50 };
    int32_t fields[FIELDS][FIELDS] = {{0}}, most = 1;
    for (int64_t i = 0; i < count; i++) {
        float x = sizes ? boxes[i].x2 - boxes[i].x1 : (boxes[i].x1 + boxes[i].x2) / 2, y = sizes ? boxes[i].y2 - boxes[i].y1 : (boxes[i].y1 + boxes[i].y2) / 2;
        if (!(x >= 0 && x <= 1 && y >= 0 && y <= 1)) continue;
        int32_t *field = &fields[YOLO_MIN((int)(y * FIELDS), FIELDS - 1)][YOLO_MIN((int)(x * FIELDS), FIELDS - 1)];
        *field += *field < INT32_MAX;
        most = YOLO_MAX(most, *field);
    }
    plot_draw_axes(canvas, &axes, 5, 5, 15);
    float side = (axes.right - axes.left) / FIELDS, tall = (axes.bottom - axes.top) / FIELDS;
    for (int y = 0; y < FIELDS; y++)
        for (int x = 0; x < FIELDS; x++) {
            uint8_t colour[3];
            float left = axes.left + side * (float)x, bottom = axes.bottom - tall * (float)y;
            if (!fields[y][x]) continue;
            plot_blues(0.12 + 0.88 * log1p(fields[y][x]) / log1p(most), colour);
            plot_rectangle(canvas, left, bottom - tall, left + side, bottom, colour);
        }
    plot_text(canvas, (axes.left + axes.right) / 2, axes.bottom + 46, 0.5f, 0, plot_type(18, plot_ink), plot_wide, sizes ? "width" : "x");
    plot_text(canvas, axes.left - 62, (axes.top + axes.bottom) / 2, 0.5f, 0.5f, (img_type){18, 0, true, plot_ink}, plot_wide, sizes ? "height" : "y");
}

/* Boxes over one another, as if all had the same centre: at most a thousand of them, evenly chosen. */
static void plot_overlay(plot_canvas *canvas, plot_axes axes, const yolo_box *boxes, int64_t count) {
    int64_t step = count / 1000 + 1;
    plot_rectangle(canvas, axes.left - 1, axes.top - 1, axes.right + 1, axes.bottom + 1, plot_grid);
    plot_rectangle(canvas, axes.left, axes.top, axes.right, axes.bottom, plot_white);
    for (int64_t i = 0; i < count; i += step) {
        float w = (boxes[i].x2 - boxes[i].x1) / 2, h = (boxes[i].y2 - boxes[i].y1) / 2, x[2], y[2];
        if (!(w >= 0 && w <= 0.5f && h >= 0 && h <= 0.5f)) continue;
        for (int k = 0; k < 2; k++) {
            x[k] = floorf(axes.left + (axes.right - axes.left) * (k ? 0.5f + w : 0.5f - w)) + 0.5f;
            y[k] = floorf(axes.top + (axes.bottom - axes.top) * (k ? 0.5f + h : 0.5f - h)) + 0.5f;
        }
        for (int k = 0; k < 2; k++) {
            plot_stroke(canvas, x[0], y[k], x[1], y[k], 1);
            plot_stroke(canvas, x[k], y[0], x[k], y[1], 1);
        }
        plot_paint(canvas, img_class_colour(boxes[i].class_id), 160);
    }
    char text[80];
    snprintf(text, sizeof text, "%lld boxes, centred", (long long)count);
    plot_text(canvas, axes.left, axes.top - 18, 0, 1, plot_type(18, plot_ink), plot_wide, text);
}

/* labels.jpg: instances of each class, boxes over one another, where they lie, how large they are. The boxes are in parts
   of their picture's sides. */
static yolo_status plot_labels(const char *path, const yolo_box *boxes, int64_t count, const int64_t *instances, const char *const *names,
                               int class_count, yolo_error *error) {
    plot_canvas canvas;
    yolo_status status = plot_open(&canvas, 1600, 1600, error);
    if (status == YOLO_OK) {
        bool named = class_count <= 50;
        plot_bars(&canvas, (plot_axes){120, 70, 770, named ? 560.0f : 680.0f, 0, 1, 0, 1, false, false, 80}, instances, names, class_count);
        plot_overlay(&canvas, (plot_axes){880, 70, 1560, 750, 0, 1, 0, 1, false, false, 80}, boxes, count);
        plot_density(&canvas, (plot_axes){120, 840, 770, 1490, 0, 1, 0, 1, false, false, 80}, boxes, count, false);
        plot_density(&canvas, (plot_axes){910, 840, 1560, 1490, 0, 1, 0, 1, false, false, 80}, boxes, count, true);
    }
    return plot_close(&canvas, path, status, error);
}

/* ---- sheets of pictures ---- */

/* A picture of a sheet: boxes in its own pixels; a confidence below 0 is not written. */
typedef struct plot_picture { yolo_image image; const yolo_box *boxes; int box_count; const char *name; } plot_picture;

typedef struct plot_sheet {
    const plot_picture *pictures; /* the first 16 are shown */
    int count;
    const char *const *names;     /* by class, NULL = numbers */
    int class_count;
    float confidence;             /* boxes of less are left out, but for those below 0 */
} plot_sheet;

enum { PLOT_SIDE = 1920, PLOT_NAMED_BOXES = 300 };

/* One picture scaled into its cell, with its boxes. */
static void plot_cell(yolo_image *cell, const plot_picture *picture, const plot_sheet *sheet, double scale, float size) {
    const yolo_image *in = &picture->image;
    memset(cell->pixels, 114, (size_t)cell->width * (size_t)cell->height * 3);
    if (!in->pixels || in->width < 1 || in->height < 1) return;
    int width = YOLO_CLAMP((int)(in->width * scale), 1, cell->width), height = YOLO_CLAMP((int)(in->height * scale), 1, cell->height);
    for (int first = 0; first < width; first += IMG_TILE) {
        img_tile tile;
        img_tile_start(&tile, in, width, height, first);
        for (int y = 0; y < height; y++) img_tile_row(&tile, y, cell->pixels + ((size_t)y * (size_t)cell->width + (size_t)first) * 3);
    }
    for (int i = 0; i < picture->box_count; i++) {
        yolo_box box = picture->boxes[i];
        if (box.confidence >= 0 && box.confidence < sheet->confidence) continue;
        const char *name = sheet->names && box.class_id >= 0 && box.class_id < sheet->class_count ? sheet->names[box.class_id] : NULL;
        box.x1 *= (float)scale; box.y1 *= (float)scale; box.x2 *= (float)scale; box.y2 *= (float)scale;
        if (i < PLOT_NAMED_BOXES) img_draw_marked(cell, &box, name, 2, size);
        else img_draw_frame(cell, &box, 1);
    }
}

/* How the pictures of a sheet lie: cells of a size, each below a band for its file name. */
typedef struct plot_layout { int across, down, width, height, band; double scale; } plot_layout;

static plot_layout plot_lay_out(const plot_sheet *sheet, int count) {
    plot_layout l = {.across = 1};
    int widest = 1, tallest = 1;
    while (l.across * l.across < count) l.across++;
    l.down = YOLO_MAX((count + l.across - 1) / l.across, 1);
    for (int i = 0; i < count; i++) {
        widest = YOLO_MAX(widest, sheet->pictures[i].image.width);
        tallest = YOLO_MAX(tallest, sheet->pictures[i].image.height);
        if (sheet->pictures[i].name) l.band = 24;
    }
    l.scale = YOLO_MIN((double)PLOT_SIDE / l.across / widest, (double)PLOT_SIDE / l.down / tallest);
    l.scale = YOLO_MIN(l.scale, 3); /* small pictures grow */
    l.width = YOLO_MAX((int)(widest * l.scale), 1);
    l.height = YOLO_MAX((int)(tallest * l.scale), 1);
    return l;
}

/* train_batchN.jpg, val_batchN_labels.jpg, val_batchN_pred.jpg: pictures in a square grid, row by row. */
static yolo_status plot_batch(const char *path, const plot_sheet *sheet, yolo_error *error) {
    plot_canvas canvas;
    int count = YOLO_CLAMP(sheet->count, 0, PLOT_SHEET);
    plot_layout l = plot_lay_out(sheet, count);
    yolo_image cell = {mem_array((uint64_t)l.width * (uint64_t)l.height, 3), l.width, l.height};
    float size = l.width < 200 ? 9.0f : 11.0f;
    yolo_status status = plot_open(&canvas, (l.width + 2) * l.across, (l.height + l.band + 2) * l.down, error);
    if (status == YOLO_OK && !cell.pixels) status = err_memory(error, (uint64_t)l.width * (uint64_t)l.height * 3);
    for (int i = 0; i < count && status == YOLO_OK; i++) {
        const plot_picture *picture = &sheet->pictures[i];
        int left = (l.width + 2) * (i % l.across) + 1, top = (l.height + l.band + 2) * (i / l.across) + 1 + l.band;
        plot_cell(&cell, picture, sheet, l.scale, size);
        for (int y = 0; y < l.height; y++)
            memcpy(canvas.image.pixels + ((size_t)(top + y) * (size_t)canvas.image.width + (size_t)left) * 3,
                   cell.pixels + (size_t)y * (size_t)l.width * 3, (size_t)l.width * 3);
        if (picture->name) plot_text(&canvas, (float)left + 5, (float)top - 6, 0, 1, plot_type(size, plot_ink), (float)l.width - 10, path_name(picture->name));
    }
    mem_free(cell.pixels);
    return plot_close(&canvas, path, status, error);
}

/* ==== 23 prep_: data preparation ================================================================================
   1 The source is only read; `out` may lie within it and is then not searched.
   2 Which set a picture goes to is a function of the seed and of the picture's bytes: not of its name, its folder, its
     label or the other pictures. So nothing moves when pictures come, go or are renamed, equal pictures cannot be on
     both sides, and every class is drawn with the same share. One exception: where no picture at all would be in
     val, the one next to it by that function is.
   3 A file in `out` is replaced or removed only while it is as an earlier run left it. prepared.tsv keeps each one's
     hashes, is written before the first file as well as after the last, and so survives a killed run.
   4 The log tells in the order of the paths, whatever the threads do. */

enum { PREP_MAX_PICTURE = 1 << 30, PREP_CHUNK = 32 };

typedef enum prep_fate { PREP_TAKEN, PREP_DAMAGED, PREP_DUPLICATE } prep_fate;

typedef struct prep_picture {
    const char *path;        /* in the source */
    const char *below;       /* that, without the source's folder */
    char *place, *label_place; /* below out: images/train/a/b.jpg, labels/train/a/b.txt */
    uint64_t content;        /* hash of the file */
    int64_t size;
    char *complaint;         /* mem_: why it is damaged */
    const char *label;       /* text of the label to write; NULL = there is none */
    size_t label_size;
    uint64_t label_hash;
    lbl_box *boxes;
    int64_t box_count;
    const struct prep_picture *twin; /* a duplicate's picture that is kept */
    prep_fate fate;
    bool val;
} prep_picture;

typedef struct prep_row { char *place; uint64_t content, label; bool labelled; } prep_row; /* of prepared.tsv */

typedef struct prep_job {
    yolo_prepare_options options;
    yolo_prepare_report *report;
    yolo_error *error;
    arena memory;            /* texts of the pictures and rows */
    char source[DATA_PATH_SIZE], out[DATA_PATH_SIZE]; /* canonical */
    double share;
    bool list, link;
    char **names;
    int class_count;
    data_list found;
    prep_picture *pictures;
    int64_t count;
    prep_row *rows;          /* of earlier runs, by place */
    int64_t row_count, row_capacity;
    thr_pool *pool;
    log_meter meter;
    int64_t first;           /* picture of the chunk that is examined */
    int64_t *class_boxes;    /* train and val, class by class */
} prep_job;

/* ---- what is asked for */

/* Is `path` the folder or below it? Both canonical, but for the kind of separator. */
static bool prep_is_below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    while (length && path_is_separator(folder[length - 1])) length--;
    for (size_t i = 0; i < length; i++)
        if (path[i] != folder[i] && !(path_is_separator(path[i]) && path_is_separator(folder[i]))) return false;
    return !path[length] || path_is_separator(path[length]);
}

static yolo_status prep_check(prep_job *job) {
    yolo_prepare_options *o = &job->options;
    char part[DATA_PATH_SIZE + 16];
    yolo_error *error = job->error;
    if (!o->source || !o->source[0]) return err_set(error, YOLO_ERROR_USAGE, "source: found nothing, expected a folder of pictures");
    if (!o->out || !o->out[0]) return err_set(error, YOLO_ERROR_USAGE, "out: found nothing, expected a folder to make");
    if (!(o->val >= 0 && o->val <= 100)) return err_set(error, YOLO_ERROR_USAGE, "val=%g: expected a share 0..1 or a percentage up to 100", o->val);
    job->share = o->val > 1 ? o->val / 100 : o->val;
    const char *mode = o->mode ? o->mode : "copy";
    job->list = !strcmp(mode, "list");
    job->link = !strcmp(mode, "link");
    if (!job->list && !job->link && strcmp(mode, "copy")) return err_set(error, YOLO_ERROR_USAGE, "mode=%s: expected copy, link or list", mode);
    if (os_path_kind(o->source) != OS_DIRECTORY) return err_set(error, YOLO_ERROR_IO, "%s: no such folder, expected one with pictures", o->source);
    yolo_status status = path_make_directories(o->out, error);
    if (status != YOLO_OK) return status;
    if (!os_real_path(o->source, job->source, sizeof job->source)) return err_os(error, o->source, "resolve");
    if (!os_real_path(o->out, job->out, sizeof job->out)) return err_os(error, o->out, "resolve");
    if (prep_is_below(job->source, job->out) && prep_is_below(job->out, job->source))
        return err_set(error, YOLO_ERROR_USAGE, "out=%s: is the source itself, expected another folder", o->out);
    for (int i = 0; i < 2; i++) {
        snprintf(part, sizeof part, "%s/%s", job->out, i ? "labels" : "images");
        if (prep_is_below(job->source, part))
            return err_set(error, YOLO_ERROR_USAGE, "source=%s: is a folder that out=%s is going to fill, expected another", o->source, o->out);
    }
    return YOLO_OK;
}

/* The names of a data.yaml, or of a text file. */
static yolo_status prep_names_from(prep_job *job, const char *path) {
    data_set set;
    if (!str_equal_fold(path_extension(path), ".yaml") && !str_equal_fold(path_extension(path), ".yml"))
        return data_read_names(path, &job->memory, &job->names, &job->class_count, job->error);
    yolo_status status = data_open(&set, path, job->error);
    if (status != YOLO_OK) return status;
    job->class_count = set.class_count;
    job->names = arena_array(&job->memory, (uint64_t)set.class_count, sizeof *job->names);
    bool good = job->names != NULL;
    for (int i = 0; good && i < set.class_count; i++) good = (job->names[i] = arena_text(&job->memory, set.names[i], strlen(set.names[i]))) != NULL;
    data_close(&set);
    return good ? YOLO_OK : err_memory(job->error, 65536);
}

static yolo_status prep_names(prep_job *job) {
    static const char *const usual[] = {"classes.txt", "labels/classes.txt", "data.yaml"};
    if (job->options.classes && job->options.classes[0]) return prep_names_from(job, job->options.classes);
    for (int i = 0; i < YOLO_COUNT(usual); i++) {
        char *path = path_join(job->options.source, usual[i]);
        yolo_status status = path ? YOLO_OK : err_memory(job->error, 4096);
        bool there = path && os_path_kind(path) == OS_FILE;
        if (there) status = prep_names_from(job, path);
        mem_free(path);
        if (there || status != YOLO_OK) return status;
    }
    return err_set(job->error, YOLO_ERROR_IO, "%s/classes.txt: no such file, expected a class name a line (or classes=FILE)", job->options.source);
}

/* Names may be added behind those of an earlier run, not changed: its labels stay in out. */
static yolo_status prep_check_classes(prep_job *job) {
    char *path = path_join(job->options.out, "classes.txt"), **names = NULL;
    int count = 0;
    yolo_status status = path ? YOLO_OK : err_memory(job->error, 4096);
    if (path && os_path_kind(path) == OS_FILE) status = data_read_names(path, &job->memory, &names, &count, job->error);
    for (int i = 0; status == YOLO_OK && i < count; i++)
        if (i >= job->class_count || strcmp(names[i], job->names[i]))
            status = err_set(job->error, YOLO_ERROR_USAGE, "%s:%d: found '%s', expected '%s' as in the classes asked for (another out= for other classes)",
                             path, i + 1, names[i], i < job->class_count ? job->names[i] : "nothing");
    mem_free(path);
    return status;
}

/* ---- what is there */

static yolo_status prep_find(prep_job *job) {
    yolo_status status = data_walk(job->options.source, &job->found, job->error);
    size_t root = strlen(job->options.source), inner = strlen(job->source);
    if (status != YOLO_OK) return status;
    if (job->found.unreadable)
        log_write(&job->options.log, YOLO_LOG_WARNING, "%s (%lld such folders)", job->found.complaint, (long long)job->found.unreadable);
    while (inner && path_is_separator(job->source[inner - 1])) inner--;
    const char *out = prep_is_below(job->out, job->source) ? job->out + inner + 1 : NULL; /* its path below the source */
    job->pictures = mem_array((uint64_t)YOLO_MAX(job->found.count, 1), sizeof *job->pictures);
    if (!job->pictures) return err_memory(job->error, (uint64_t)job->found.count * sizeof *job->pictures);
    for (int64_t i = 0; i < job->found.count; i++) {
        const char *below = job->found.paths[i] + root;
        while (path_is_separator(*below)) below++;
        if (out && prep_is_below(below, out)) continue;
        job->pictures[job->count].path = job->found.paths[i];
        job->pictures[job->count++].below = below;
    }
    return job->count ? YOLO_OK : err_set(job->error, YOLO_ERROR_IO, "%s: found no picture, expected some (.jpg .png .bmp ...)", job->options.source);
}

/* Reads, hashes and decodes one picture: only a whole decode notices one that was cut off. */
static void prep_examine(void *context, int index, int worker) {
    prep_job *job = context;
    prep_picture *p = &job->pictures[job->first + index];
    yolo_error error = {0};
    yolo_image image = {0};
    uint8_t *bytes;
    size_t size;
    (void)worker;
    yolo_status status = path_read(p->path, PREP_MAX_PICTURE, &bytes, &size, &error);
    if (status == YOLO_OK) {
        p->size = (int64_t)size;
        p->content = hash_bytes(bytes, size, 0);
        status = codec_read_memory(p->path, bytes, size, &image, &error);
        mem_free(bytes);
    }
    mem_free(image.pixels);
    if (status == YOLO_OK) return;
    p->fate = PREP_DAMAGED;
    p->complaint = str_copy(error.message);
}

/* The label to write: valid lines as boxes, to the precision of a float. */
static bool prep_label_text(prep_job *job, prep_picture *p, const lbl_list *labels) {
    str s = {0};
    char number[40];
    for (int64_t i = 0; i < labels->count; i++) {
        const lbl_box *b = &labels->items[i];
        const double share[] = {b->x, b->y, b->w, b->h};
        str_format(&s, "%d", b->class_id);
        for (int k = 0; k < 4; k++) {
            str_from_number(number, share[k], 9);
            str_format(&s, " %s", number);
        }
        str_append(&s, "\n", 1);
    }
    p->label_size = (size_t)s.length;
    p->label_hash = hash_bytes(s.text ? s.text : "", p->label_size, 1);
    p->label = arena_text(&job->memory, s.text ? s.text : "", p->label_size);
    p->box_count = labels->count;
    p->boxes = arena_array(&job->memory, (uint64_t)YOLO_MAX(labels->count, 1), sizeof *p->boxes);
    if (p->boxes && labels->count) memcpy(p->boxes, labels->items, (size_t)labels->count * sizeof *p->boxes);
    bool good = !s.failed && p->label && p->boxes;
    str_free(&s);
    return good;
}

/* A picture of whose label no line is any good is as damaged as its label: to train on it as background would teach
   the opposite of what somebody meant. */
static yolo_status prep_read_label(prep_job *job, prep_picture *p) {
    lbl_list labels = {0};
    yolo_error error = {0};
    char *path = data_label_path(p->path);
    if (!path) return err_memory(job->error, 4096);
    yolo_status status = lbl_read(path, job->class_count, &labels, &job->options.log, &error);
    job->report->bad_lines += labels.bad_lines;
    if (status == YOLO_ERROR_MEMORY || (status == YOLO_OK && !labels.missing && !prep_label_text(job, p, &labels)))
        status = err_memory(job->error, 65536);
    else if (status != YOLO_OK || (!labels.count && labels.bad_lines)) {
        p->fate = PREP_DAMAGED;
        if (status != YOLO_OK) log_write(&job->options.log, YOLO_LOG_WARNING, "%s: left out: %s", p->path, error.message);
        else log_write(&job->options.log, YOLO_LOG_WARNING, "%s: left out: no line of %s is a label", p->path, path);
        status = YOLO_OK;
    }
    mem_free(path);
    lbl_list_free(&labels);
    return status;
}

static yolo_status prep_interrupted(prep_job *job) {
    return err_set(job->error, YOLO_ERROR_INTERRUPTED, "%s: interrupted; the same command goes on from here", job->options.out);
}

static yolo_status prep_examine_all(prep_job *job) {
    int64_t chunk = (int64_t)PREP_CHUNK * thr_pool_size(job->pool);
    for (job->first = 0; job->first < job->count; job->first += chunk) {
        int64_t end = YOLO_MIN(job->first + chunk, job->count);
        if (err_interrupted) return prep_interrupted(job);
        thr_parallel_for(job->pool, (int)(end - job->first), prep_examine, job);
        for (int64_t i = job->first; i < end; i++) {
            prep_picture *p = &job->pictures[i];
            yolo_status status = YOLO_OK;
            if (p->fate == PREP_DAMAGED) log_write(&job->options.log, YOLO_LOG_WARNING, "left out: %s", p->complaint ? p->complaint : p->path);
            else status = prep_read_label(job, p);
            if (status != YOLO_OK) return status;
        }
        log_meter_step(&job->meter, job->list ? end : end / 2);
    }
    return YOLO_OK;
}

/* ---- what goes where */

/* Equal content together, the one to keep first: with a label before without, then by path. */
static int prep_content_order(const void *a, const void *b) {
    const prep_picture *x = *(prep_picture *const *)a, *y = *(prep_picture *const *)b;
    if (x->content != y->content) return x->content < y->content ? -1 : 1;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    if (!x->label != !y->label) return x->label ? -1 : 1;
    return strcmp(x->path, y->path);
}

/* 0..1, from seed and content alone: a picture is in val below the share asked for. */
static double prep_draw(const prep_job *job, const prep_picture *p) {
    uint64_t key[2] = {p->content, (uint64_t)p->size};
    return (double)(hash_bytes(key, sizeof key, job->options.seed) >> 11) * (1.0 / 9007199254740992.0);
}

static yolo_status prep_split(prep_job *job) {
    prep_picture **sorted = mem_array((uint64_t)job->count, sizeof *sorted), *lowest = NULL;
    int64_t n = 0, taken = 0, val = 0;
    if (!sorted) return err_memory(job->error, (uint64_t)job->count * sizeof *sorted);
    for (int64_t i = 0; i < job->count; i++)
        if (job->pictures[i].fate == PREP_TAKEN) sorted[n++] = &job->pictures[i];
    qsort(sorted, (size_t)n, sizeof *sorted, prep_content_order);
    for (int64_t i = 0; i < n; i++) {
        prep_picture *p = sorted[i];
        if (i && p->content == sorted[i - 1]->content && p->size == sorted[i - 1]->size) {
            p->fate = PREP_DUPLICATE;
            p->twin = sorted[i - 1]->twin ? sorted[i - 1]->twin : sorted[i - 1];
            continue;
        }
        double draw = prep_draw(job, p);
        p->val = draw < job->share;
        val += p->val;
        taken++;
        if (!lowest || draw < prep_draw(job, lowest)) lowest = p;
    }
    if (!val && taken > 1 && job->share > 0) lowest->val = true;
    mem_free(sorted);
    for (int64_t i = 0; i < job->count; i++) {
        const prep_picture *p = &job->pictures[i];
        bool differ = p->twin && p->label && p->label_hash != p->twin->label_hash;
        if (p->twin)
            log_write(&job->options.log, YOLO_LOG_WARNING, "%s: left out: same picture as %s%s", p->path, p->twin->path, differ ? ", with another label" : "");
    }
    return taken ? YOLO_OK : err_set(job->error, YOLO_ERROR_FORMAT, "%s: none of %lld pictures can be used", job->options.source, (long long)job->count);
}

/* A name below the source as a name in out: folders called "images" are left out, because the last of them decides
   where the label is looked for. */
static char *prep_clean_name(prep_job *job, const char *below) {
    size_t length = 0;
    char *name = arena_alloc(&job->memory, strlen(below) + 24);
    if (!name) return NULL;
    for (const char *p = below; *p;) {
        size_t part = 0;
        while (p[part] && !path_is_separator(p[part])) part++;
        if (p[part] && part == 6 && !memcmp(p, "images", 6)) {
            p += part + 1;
            continue;
        }
        for (size_t i = 0; i < part; i++) name[length++] = (unsigned char)p[i] < 32 ? '_' : p[i];
        if (p[part]) name[length++] = '/';
        p += part + (p[part] != 0);
    }
    return name;
}

typedef struct prep_stem { char *text; int64_t index; } prep_stem; /* a name without extension, in lower case */

static int prep_stem_order(const void *a, const void *b) {
    const prep_stem *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

/* Two pictures that would share a label file, here or where case does not count: all but the first get their content
   into the name. */
static bool prep_places(prep_job *job) {
    prep_stem *stems = mem_array((uint64_t)job->count, sizeof *stems);
    int64_t n = 0;
    bool good = stems != NULL;
    for (int64_t i = 0; good && i < job->count; i++) {
        prep_picture *p = &job->pictures[i];
        if (p->fate != PREP_TAKEN) continue;
        p->place = prep_clean_name(job, p->below);
        char *stem = p->place ? arena_text(&job->memory, p->place, (size_t)(path_extension(p->place) - p->place)) : NULL;
        for (char *c = stem; c && *c; c++) *c = (char)tolower((unsigned char)*c);
        stems[n++] = (prep_stem){stem, i};
        good = stem != NULL;
    }
    if (good) qsort(stems, (size_t)n, sizeof *stems, prep_stem_order);
    for (int64_t i = 0; good && i < n; i++) {
        prep_picture *p = &job->pictures[stems[i].index];
        const char *set = p->val ? "val" : "train", *extension = path_extension(p->place);
        int stem = (int)(extension - p->place);
        size_t size = strlen(p->place) + 64;
        char suffix[24] = "", *name = p->place;
        if (i && !strcmp(stems[i].text, stems[i - 1].text)) snprintf(suffix, sizeof suffix, "_%016llx", (unsigned long long)p->content);
        p->place = arena_alloc(&job->memory, size);
        p->label_place = arena_alloc(&job->memory, size);
        good = p->place && p->label_place;
        if (!good) break;
        snprintf(p->place, size, "images/%s/%.*s%s%s", set, stem, name, suffix, extension);
        snprintf(p->label_place, size, "labels/%s/%.*s%s.txt", set, stem, name, suffix);
    }
    mem_free(stems);
    return good;
}

/* ---- prepared.tsv */

static int prep_row_order(const void *a, const void *b) {
    const prep_row *x = a, *y = b;
    int order = strcmp(x->place, y->place);
    if (order || x->content != y->content) return order ? order : x->content < y->content ? -1 : 1;
    return x->label != y->label ? (x->label < y->label ? -1 : 1) : x->labelled - y->labelled;
}

/* Rows of earlier runs. Lines that are none are passed over: the file only ever protects. */
static yolo_status prep_read_rows(prep_job *job) {
    uint8_t *bytes;
    const char *text, *end, *line;
    size_t length;
    char *path = path_join(job->options.out, "prepared.tsv");
    yolo_status status = path ? YOLO_OK : err_memory(job->error, 4096);
    bool there = path && os_path_kind(path) == OS_FILE;
    if (there) status = data_read_text(path, DATA_MAX_TEXT, &bytes, &text, &end, job->error);
    mem_free(path);
    if (!there || status != YOLO_OK) return status;
    while (status == YOLO_OK && data_next_line(&text, end, &line, &length)) {
        const char *tab = memchr(line, '\t', length);
        unsigned long long content, label = 0;
        char fields[64] = "", mark[24] = "";
        if (!tab || strncmp(line, "images/", 7)) continue;
        memcpy(fields, tab + 1, YOLO_MIN((size_t)(line + length - tab - 1), sizeof fields - 1));
        int read = sscanf(fields, "%16llx\t%16s", &content, mark);
        if (read < 2 || (mark[0] != '-' && sscanf(mark, "%16llx", &label) != 1)) continue;
        prep_row row = {arena_text(&job->memory, line, (size_t)(tab - line)), content, label, mark[0] != '-'};
        if (!row.place || !mem_grow(&job->rows, &job->row_capacity, job->row_count + 1, sizeof *job->rows)) status = err_memory(job->error, 65536);
        else if (!strstr(row.place, "/..") && !strchr(row.place, '\\')) job->rows[job->row_count++] = row;
    }
    mem_free(bytes);
    int64_t kept = 0;
    if (job->row_count > 1) qsort(job->rows, (size_t)job->row_count, sizeof *job->rows, prep_row_order);
    for (int64_t i = 0; i < job->row_count; i++) /* killed runs repeat rows */
        if (!i || prep_row_order(&job->rows[i], &job->rows[kept - 1])) job->rows[kept++] = job->rows[i];
    job->row_count = kept;
    return status;
}

/* The rows of one place: [*from, return value). */
static int64_t prep_rows_of(const prep_job *job, const char *place, int64_t *from) {
    int64_t low = 0, high = job->row_count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (strcmp(job->rows[middle].place, place) < 0) low = middle + 1;
        else high = middle;
    }
    for (*from = low; low < job->row_count && !strcmp(job->rows[low].place, place);) low++;
    return low;
}

/* Writes the rows of this run and, of the earlier ones, all (`before` the first file) or those whose place still
   holds a picture that this run does not write. */
static yolo_status prep_write_rows(prep_job *job, bool before) {
    str s = {0};
    char *path = path_join(job->options.out, "prepared.tsv");
    str_add(&s, "picture\tcontent\tlabel\tsource\n");
    for (int64_t i = 0; i < job->count; i++) {
        const prep_picture *p = &job->pictures[i];
        if (p->fate != PREP_TAKEN || job->list) continue;
        str_format(&s, "%s\t%016llx\t", p->place, (unsigned long long)p->content);
        if (p->label) str_format(&s, "%016llx", (unsigned long long)p->label_hash);
        else str_add(&s, "-");
        str_add(&s, "\t");
        for (const char *c = p->below; *c; c++) str_append(&s, (unsigned char)*c < 32 ? "_" : c, 1);
        str_add(&s, "\n");
    }
    for (int64_t i = 0; i < job->row_count; i++) {
        const prep_row *row = &job->rows[i];
        if (!row->place) continue;
        char *full = path_join(job->options.out, row->place);
        s.failed |= !full;
        if (full && (before || os_path_kind(full) == OS_FILE)) {
            str_format(&s, "%s\t%016llx\t", row->place, (unsigned long long)row->content);
            if (row->labelled) str_format(&s, "%016llx\n", (unsigned long long)row->label);
            else str_add(&s, "-\n");
        }
        mem_free(full);
    }
    yolo_status status = !path || s.failed ? err_memory(job->error, (uint64_t)s.length)
                                           : path_write(path, s.text, (size_t)s.length, true, job->error);
    str_free(&s);
    mem_free(path);
    return status;
}

/* ---- writing */

/* The hash of a file's bytes; false where there is none to read. */
static bool prep_hash(const char *path, uint64_t seed, uint64_t *hash) {
    uint8_t *bytes;
    size_t size;
    if (os_path_kind(path) != OS_FILE || path_read(path, PREP_MAX_PICTURE, &bytes, &size, NULL) != YOLO_OK) return false;
    *hash = hash_bytes(bytes, size, seed);
    mem_free(bytes);
    return true;
}

static yolo_status prep_make_parent(prep_job *job, const char *path) {
    char *folder = path_parent(path);
    yolo_status status = folder ? path_make_directories(folder, job->error) : err_memory(job->error, 4096);
    mem_free(folder);
    return status;
}

static yolo_status prep_copy(prep_job *job, const prep_picture *p, const char *to) {
    uint8_t *bytes;
    size_t size;
    char real[DATA_PATH_SIZE];
    yolo_status status = prep_make_parent(job, to);
    if (status != YOLO_OK) return status;
    if (job->link && os_real_path(p->path, real, sizeof real)) {
        if (os_path_kind(to) != OS_NOTHING) os_remove(to);
        if (os_hard_link(real, to)) return YOLO_OK; /* another disk, or a file system without links: copied */
    }
    status = path_read(p->path, PREP_MAX_PICTURE, &bytes, &size, job->error);
    if (status != YOLO_OK) return status;
    status = path_write(to, bytes, size, false, job->error);
    mem_free(bytes);
    return status;
}

static yolo_status prep_place_picture(prep_job *job, const prep_picture *p) {
    char *to = path_join(job->options.out, p->place);
    uint64_t content = 0;
    int64_t row, end = prep_rows_of(job, p->place, &row);
    if (!to) return err_memory(job->error, 4096);
    yolo_status status = YOLO_OK;
    bool there = prep_hash(to, 0, &content), ours = !there;
    for (; row < end; row++) ours |= job->rows[row].content == content;
    if (there && (content == p->content || !ours)) {
        job->report->skipped++;
        if (content != p->content) log_write(&job->options.log, YOLO_LOG_WARNING, "%s: kept: another picture than %s", to, p->path);
    } else status = prep_copy(job, p, to);
    mem_free(to);
    return status;
}

static yolo_status prep_place_label(prep_job *job, const prep_picture *p) {
    char *to = path_join(job->options.out, p->label_place);
    uint64_t hash = 0;
    int64_t row, end = prep_rows_of(job, p->place, &row);
    if (!to) return err_memory(job->error, 4096);
    yolo_status status = YOLO_OK;
    bool there = prep_hash(to, 1, &hash), ours = !there;
    for (; row < end; row++) ours |= job->rows[row].labelled && job->rows[row].label == hash;
    if (there && !ours && !(p->label && hash == p->label_hash))
        log_write(&job->options.log, YOLO_LOG_WARNING, "%s: kept: changed since it was prepared", to);
    else if (there && !p->label) os_remove(to);
    else if (p->label && !(there && hash == p->label_hash)) {
        status = prep_make_parent(job, to);
        if (status == YOLO_OK) status = path_write(to, p->label, p->label_size, false, job->error);
    }
    mem_free(to);
    return status;
}

static int prep_content_only(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Removes what an earlier run wrote of a picture that has another place now (another seed or share, a renamed
   folder), so that no picture is on both sides. What a person changed stays and is told. */
static yolo_status prep_remove_moved(prep_job *job, const prep_row *row) {
    char *picture = path_join(job->options.out, row->place), *label = picture ? data_label_rule(picture) : NULL;
    uint64_t hash;
    yolo_status status = label ? YOLO_OK : err_memory(job->error, 4096);
    if (label && prep_hash(picture, 0, &hash) && hash == row->content) {
        if (!os_remove(picture)) status = err_os(job->error, picture, "remove");
        else if (prep_hash(label, 1, &hash) && row->labelled && hash == row->label) os_remove(label);
        else if (os_path_kind(label) == OS_FILE)
            log_write(&job->options.log, YOLO_LOG_WARNING, "%s: kept: changed since it was prepared, but its picture moved", label);
    }
    mem_free(label);
    mem_free(picture);
    return status;
}

/* Earlier rows that this run writes again are forgotten, those of moved pictures removed, others stay. */
static yolo_status prep_settle_rows(prep_job *job) {
    uint64_t *contents = mem_array((uint64_t)job->count, sizeof *contents);
    char **places = mem_array((uint64_t)job->count, sizeof *places);
    int64_t n = 0, stay = 0;
    yolo_status status = contents && places ? YOLO_OK : err_memory(job->error, (uint64_t)job->count * 16);
    for (int64_t i = 0; status == YOLO_OK && i < job->count; i++) {
        if (job->pictures[i].fate != PREP_TAKEN) continue;
        contents[n] = job->pictures[i].content;
        places[n++] = job->pictures[i].place;
    }
    if (n) qsort(contents, (size_t)n, sizeof *contents, prep_content_only);
    if (n) qsort(places, (size_t)n, sizeof *places, data_path_order);
    for (int64_t i = 0; status == YOLO_OK && n && i < job->row_count; i++) {
        prep_row *row = &job->rows[i];
        bool again = bsearch(&row->place, places, (size_t)n, sizeof *places, data_path_order) != NULL;
        bool moved = !again && bsearch(&row->content, contents, (size_t)n, sizeof *contents, prep_content_only) != NULL;
        if (moved) status = prep_remove_moved(job, row);
        if (again || moved) row->place = NULL;
        else stay++;
    }
    if (stay) log_write(&job->options.log, YOLO_LOG_INFO, "%s: %lld pictures of earlier runs stay", job->options.out, (long long)stay);
    mem_free(contents);
    mem_free(places);
    return status;
}

static yolo_status prep_write_pictures(prep_job *job) {
    yolo_status status = prep_write_rows(job, true);
    for (int64_t i = 0; status == YOLO_OK && i < job->count; i++) {
        prep_picture *p = &job->pictures[i];
        if (p->fate == PREP_TAKEN) {
            if (err_interrupted) return prep_interrupted(job);
            status = prep_place_picture(job, p);
            if (status == YOLO_OK) status = prep_place_label(job, p);
        }
        log_meter_step(&job->meter, job->count / 2 + (i + 1) * (job->count - job->count / 2) / job->count);
    }
    if (status == YOLO_OK) status = prep_settle_rows(job);
    return status == YOLO_OK ? prep_write_rows(job, false) : status;
}

/* train.txt or val.txt: the pictures where they are. */
static yolo_status prep_write_list(prep_job *job, bool val) {
    str s = {0};
    char real[DATA_PATH_SIZE];
    char *path = path_join(job->options.out, val ? "val.txt" : "train.txt");
    int64_t astray = 0;
    for (int64_t i = 0; i < job->count; i++) {
        const prep_picture *p = &job->pictures[i];
        if (p->fate != PREP_TAKEN || p->val != val) continue;
        bool known = os_real_path(p->path, real, sizeof real);
        char *rule = data_label_rule(known ? real : p->path);
        astray += p->label && rule && os_path_kind(rule) == OS_NOTHING;
        str_format(&s, "%s\n", known ? real : p->path);
        mem_free(rule);
    }
    if (astray)
        log_write(&job->options.log, YOLO_LOG_WARNING, "%s: %lld labels lie beside pictures in a folder 'images', where ultralytics does not look; mode=copy puts them right",
                  path ? path : "", (long long)astray);
    yolo_status status = !path || s.failed ? err_memory(job->error, (uint64_t)s.length)
                                           : path_write(path, s.text ? s.text : "", (size_t)s.length, true, job->error);
    str_free(&s);
    mem_free(path);
    return status;
}

static yolo_status prep_write_text(prep_job *job, const char *name, const str *s) {
    char *path = path_join(job->options.out, name);
    yolo_status status = !path || s->failed ? err_memory(job->error, (uint64_t)s->length)
                                            : path_write(path, s->text, (size_t)s->length, true, job->error);
    mem_free(path);
    return status;
}

/* classes.txt, and data.yaml without `path`: so the folder can be carried anywhere. */
static yolo_status prep_write_yaml(prep_job *job) {
    arena *a = &job->memory;
    val *root = val_new(a, VAL_MAP), *names = val_new(a, VAL_MAP);
    str s = {0};
    const char *train = job->list ? "train.txt" : "images/train", *val_set = job->list ? "val.txt" : "images/val";
    bool good = names && val_add(a, root, val_string(a, "train", 5), val_string(a, train, strlen(train))) &&
                val_add(a, root, val_string(a, "val", 3), val_string(a, val_set, strlen(val_set))) &&
                val_add(a, root, val_string(a, "nc", 2), val_int(a, job->class_count));
    for (int i = 0; good && i < job->class_count; i++) {
        good = val_add(a, names, val_int(a, i), val_string(a, job->names[i], strlen(job->names[i])));
        str_format(&s, "%s\n", job->names[i]);
    }
    if (!good || !val_add(a, root, val_string(a, "names", 5), names)) s.failed = true;
    yolo_status status = prep_write_text(job, "classes.txt", &s);
    str_free(&s);
    if (status != YOLO_OK) return status;
    yaml_write(&s, root);
    status = prep_write_text(job, "data.yaml", &s);
    str_free(&s);
    return status;
}

static yolo_status prep_write(prep_job *job) {
    static const char *const folders[] = {"images/train", "images/val", "labels/train", "labels/val"};
    yolo_status status = YOLO_OK;
    for (int i = 0; !job->list && status == YOLO_OK && i < 4; i++) {
        char *path = path_join(job->options.out, folders[i]);
        status = path ? path_make_directories(path, job->error) : err_memory(job->error, 4096);
        mem_free(path);
    }
    if (status == YOLO_OK) status = job->list ? prep_write_list(job, false) : prep_write_pictures(job);
    if (status == YOLO_OK && job->list) status = prep_write_list(job, true);
    return status == YOLO_OK ? prep_write_yaml(job) : status;
}

/* ---- telling */

static yolo_status prep_count(prep_job *job) {
    yolo_prepare_report *r = job->report;
    job->class_boxes = mem_array((uint64_t)job->class_count * 2, sizeof *job->class_boxes);
    if (!job->class_boxes) return err_memory(job->error, (uint64_t)job->class_count * 16);
    for (int64_t i = 0; i < job->count; i++) {
        const prep_picture *p = &job->pictures[i];
        r->damaged += p->fate == PREP_DAMAGED;
        r->duplicates += p->fate == PREP_DUPLICATE;
        if (p->fate != PREP_TAKEN) continue;
        *(p->val ? &r->val : &r->train) += 1;
        r->unlabelled += !p->label;
        r->background += p->label && !p->box_count;
        r->boxes += p->box_count;
        for (int64_t b = 0; b < p->box_count; b++) job->class_boxes[p->boxes[b].class_id * 2 + p->val]++;
    }
    return YOLO_OK;
}

static void prep_tell(prep_job *job) {
    const yolo_log *log = &job->options.log;
    const yolo_prepare_report *r = job->report;
    static const char *const where[] = {"val of", "train of", "either set of"};
    str without[3] = {{0}, {0}, {0}};
    log_write(log, YOLO_LOG_INFO, "val has %lld of %lld pictures: %.1f %% (%.4g %% asked; each picture is drawn by itself, so that none ever moves)",
              (long long)r->val, (long long)(r->train + r->val), 100.0 * (double)r->val / (double)(r->train + r->val), job->share * 100);
    for (int i = 0; i < job->class_count; i++) {
        const int64_t *boxes = &job->class_boxes[i * 2];
        int lack = boxes[0] && boxes[1] ? -1 : boxes[0] ? 0 : boxes[1] ? 1 : 2;
        if (lack < 2)
            log_write(log, YOLO_LOG_INFO, "%4d %-24s %8lld boxes in train %8lld in val", i, job->names[i], (long long)boxes[0], (long long)boxes[1]);
        if (lack >= 0) str_format(&without[lack], "%s%s", without[lack].length ? ", " : "", job->names[i]);
    }
    for (int k = 0; k < 3; k++) {
        if (without[k].length) log_write(log, YOLO_LOG_WARNING, "no box in %s: %s", where[k], without[k].text);
        str_free(&without[k]);
    }
}

static yolo_status prep_run(prep_job *job) {
    yolo_status status = prep_check(job);
    if (status == YOLO_OK) status = prep_names(job);
    if (status == YOLO_OK) status = prep_check_classes(job);
    if (status == YOLO_OK) status = prep_find(job);
    if (status == YOLO_OK && !(job->pool = thr_pool_create(os_core_count()))) status = err_memory(job->error, sizeof *job->pool);
    if (status != YOLO_OK) return status;
    job->meter = log_meter_start(&job->options.log, job->options.progress, "prepare", "PrepProgress", job->count);
    status = prep_examine_all(job);
    if (status == YOLO_OK) status = prep_split(job);
    if (status == YOLO_OK && !prep_places(job)) status = err_memory(job->error, (uint64_t)job->count * 256);
    if (status == YOLO_OK) status = prep_read_rows(job);
    if (status == YOLO_OK) status = prep_count(job);
    if (status == YOLO_OK) status = prep_write(job);
    if (status == YOLO_OK) log_meter_step(&job->meter, job->count);
    if (status == YOLO_OK) prep_tell(job);
    return status;
}

yolo_prepare_options yolo_prepare_defaults(void) { return (yolo_prepare_options){.val = 20, .mode = "copy"}; }

yolo_status yolo_prepare(yolo_prepare_options options, yolo_prepare_report *report, yolo_error *error) {
    yolo_prepare_report unused;
    prep_job *job = mem_array(1, sizeof *job);
    if (!job) return err_memory(error, sizeof *job);
    job->options = options;
    job->report = report ? report : &unused;
    job->error = error;
    memset(job->report, 0, sizeof *job->report);
    yolo_status status = prep_run(job);
    for (int64_t i = 0; i < job->count; i++) mem_free(job->pictures[i].complaint);
    thr_pool_destroy(job->pool);
    mem_free(job->class_boxes);
    mem_free(job->rows);
    mem_free(job->pictures);
    data_list_free(&job->found);
    arena_free(&job->memory);
    mem_free(job);
    return status;
}

/* ==== 24 lab_: labelling a tree of pictures =====================================================================
   What is written where is decided before the first picture is decoded: pictures with a label file are left out there,
   so that continuing a run costs a look at each name, and two pictures that would share a label file are found. Files
   of a picture are written by the lane that looked at it, its label last and by renaming, so a label file means that
   the picture is finished. A label file is never replaced unless told, also when it appears during the run. */

typedef struct lab_item { /* a picture to look at; texts live in the run's arena */
    const char *picture;
    const char *stem;  /* where its outputs go below `out`, without extension: sub/name, or name when flat */
    const char *label; /* its label file; NULL without out or labels */
    bool skipped;      /* a label file appeared during the run */
} lab_item;

typedef struct lab_set { /* of texts that live elsewhere; capacity is a power of two and never reached */
    const char **slots;
    int64_t capacity, count;
} lab_set;

typedef struct lab_run {
    const yolo_model *model;
    const yolo_label_options *options;
    yolo_label_report *report;
    arena memory;
    data_list pictures;
    char *root;          /* the source's folder: relative names start behind it */
    char *out;           /* options->out, or the root: where classes.txt goes */
    lab_item *items;
    int64_t count;       /* pictures to look at */
    lab_set labels, stems;
    log_meter meter;
    bool made;           /* folder of the item before exists */
} lab_run;

/* File systems of Windows and macOS do not tell A.txt from a.txt. */
static bool lab_same(const char *a, const char *b) {
#if defined(_WIN32) || defined(__APPLE__)
    return str_equal_fold(a, b);
#else
    return !strcmp(a, b);
#endif
}

static uint64_t lab_hash(const char *text) {
#if defined(_WIN32) || defined(__APPLE__)
    uint64_t hash = 0;
    for (; *text; text++) {
        char lower = (char)tolower((unsigned char)*text);
        hash = hash_bytes(&lower, 1, hash);
    }
    return hash;
#else
    return hash_bytes(text, strlen(text), 0);
#endif
}

/* Room for `count` texts. */
static bool lab_set_init(lab_set *set, arena *memory, int64_t count) {
    set->capacity = 16;
    while (set->capacity < count * 2) set->capacity *= 2;
    return (set->slots = arena_array(memory, (uint64_t)set->capacity, sizeof *set->slots)) != NULL;
}

static const char **lab_set_find(const lab_set *set, const char *text) {
    uint64_t at = lab_hash(text);
    while (set->slots[at & (uint64_t)(set->capacity - 1)] && !lab_same(set->slots[at & (uint64_t)(set->capacity - 1)], text)) at++;
    return &set->slots[at & (uint64_t)(set->capacity - 1)];
}

/* False when it is there already. */
static bool lab_set_add(lab_set *set, const char *text) {
    const char **slot = lab_set_find(set, text);
    if (*slot) return false;
    YOLO_ASSERT(++set->count < set->capacity);
    *slot = text;
    return true;
}

YOLO_PRINTF(2, 3)
static char *lab_text(lab_run *run, const char *format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return length < 0 || length >= (int)sizeof text ? NULL : arena_text(&run->memory, text, (size_t)length);
}

/* ---- what to label */

/* Does `name` match a pattern of * (anything) and ? (one byte)? */
static bool lab_matches(const char *pattern, const char *name) {
    const char *star = NULL, *again = NULL;
    while (*name) {
        if (*pattern == '*') star = pattern++, again = name;
        else if (*pattern == '?' || *pattern == *name) pattern++, name++;
        else if (star) pattern = star + 1, name = ++again;
        else return false;
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}

typedef struct lab_pattern { data_list *list; const char *folder, *pattern; bool failed; } lab_pattern;

static bool lab_pattern_entry(void *user, const char *name, os_kind kind) {
    lab_pattern *p = user;
    if (kind == OS_DIRECTORY || !codec_is_picture_name(name) || !lab_matches(p->pattern, name)) return true;
    char *path = path_join(p->folder, name);
    p->failed = !path || !data_list_add(p->list, path, strlen(path));
    mem_free(path);
    return !p->failed;
}

static bool lab_is_below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (!path[length] || path_is_separator(path[length]));
}

/* Leaves out the pictures that earlier runs wrote: all below the folder of the run folders, where the source is not
   itself below it. */
static void lab_drop_outputs(lab_run *run) {
    char project[4096], root[4096], folder[4096];
    char *before = NULL, *parent = run->options->out && run->options->labels_subfolder ? path_parent(run->options->out) : NULL;
    data_list *list = &run->pictures;
    int64_t count = 0;
    bool output = false;
    if (parent && os_real_path(parent, project, sizeof project) && os_real_path(run->root, root, sizeof root) && !lab_is_below(root, project)) {
        for (int64_t i = 0; i < list->count; i++) {
            char *own = path_parent(list->paths[i]);
            if (!before || !own || strcmp(before, own)) output = own && os_real_path(own, folder, sizeof folder) && lab_is_below(folder, project);
            if (!output) list->paths[count++] = list->paths[i];
            mem_free(before);
            before = own;
        }
        list->count = count;
    }
    mem_free(before);
    mem_free(parent);
}

/* Fills pictures and root from options->source: a picture, a folder, a .txt list, or a pattern in the last name. */
static yolo_status lab_collect(lab_run *run, yolo_error *error) {
    const char *source = run->options->source;
    os_kind kind = os_path_kind(source);
    yolo_status status = YOLO_OK;
    run->root = kind == OS_DIRECTORY ? str_copy(source) : path_parent(source);
    if (!run->root) return err_memory(error, strlen(source));
    if (kind == OS_NOTHING && strpbrk(path_name(source), "*?")) {
        bool bare = path_name(source) == source; /* "*.jpg": names stay as they are, without "./" */
        lab_pattern pattern = {&run->pictures, bare ? "" : run->root, path_name(source), false};
        if (!os_list_directory(run->root, lab_pattern_entry, &pattern))
            return pattern.failed ? err_memory(error, 4096) : err_os(error, run->root, "read folder");
        data_list_sort(&run->pictures);
    } else if (kind == OS_FILE && !codec_is_picture_name(source) && !str_equal_fold(path_extension(source), ".txt"))
        return err_set(error, YOLO_ERROR_FORMAT, "%s: expected a picture (.jpg .jpeg .png .bmp .tif .tiff .webp), a folder or a .txt list", source);
    else status = data_collect(source, &run->pictures, error);
    if (status == YOLO_OK) lab_drop_outputs(run);
    if (run->pictures.complaint[0]) log_write(&run->options->log, YOLO_LOG_WARNING, "%s", run->pictures.complaint);
    if (status == YOLO_OK && !run->pictures.count)
        status = err_set(error, YOLO_ERROR_IO, "%s: no picture found (.jpg .jpeg .png .bmp .tif .tiff .webp)", source);
    return status;
}

/* ---- where its outputs go */

/* The picture's path behind the root, without extension; its name alone when it lies elsewhere (a list can say so). */
static char *lab_relative(lab_run *run, const char *picture) {
    size_t length = strlen(run->root);
    const char *name = path_name(picture), *relative = name;
    while (length && path_is_separator(run->root[length - 1])) length--;
    if (!strncmp(picture, run->root, length) && path_is_separator(picture[length])) relative = picture + length + 1;
    while (path_is_separator(*relative)) relative++;
    if (run->options->labels_subfolder || strstr(relative, "..")) relative = name;
    return arena_text(&run->memory, relative, (size_t)(path_extension(picture) - relative));
}

/* Without `out`: the label that is there; else by the rule where there is a labels/ folder, else beside. */
static char *lab_label_beside(lab_run *run, const char *picture) {
    char *rule = data_label_path(picture), *beside = path_with_extension(picture, ".txt");
    const char *taken = rule;
    if (rule && beside && strcmp(rule, beside) && os_path_kind(rule) == OS_NOTHING) {
        size_t end = 0;
        while (rule[end] == beside[end]) end++; /* the l of labels against the i of images */
        end += strlen("labels");
        char kept = rule[end];
        rule[end] = 0;
        if (os_path_kind(rule) != OS_DIRECTORY) taken = beside;
        rule[end] = kept;
    }
    char *label = taken && beside ? arena_text(&run->memory, taken, strlen(taken)) : NULL;
    mem_free(rule);
    mem_free(beside);
    return label;
}

/* A stem that no picture before it has: name, name-2, name-3, ... REF ultralytics/engine/predictor.py write_results */
static const char *lab_free_stem(lab_run *run, const char *stem) {
    const char *candidate = stem;
    for (int n = 2; candidate && !lab_set_add(&run->stems, candidate); n++) candidate = lab_text(run, "%s-%d", stem, n);
    return candidate;
}

/* Sets stem and label. False for want of memory. */
static bool lab_place(lab_run *run, lab_item *item) {
    const yolo_label_options *options = run->options;
    item->stem = lab_relative(run, item->picture);
    if (item->stem && options->labels_subfolder) item->stem = lab_free_stem(run, item->stem);
    if (!item->stem) return false;
    if (!options->save_labels) return true;
    item->label = !options->out ? lab_label_beside(run, item->picture)
                : lab_text(run, "%s/%s%s.txt", options->out, options->labels_subfolder ? "labels/" : "", item->stem);
    return item->label != NULL;
}

/* Decides about every picture: fills items with those to look at, counts the others. */
static yolo_status lab_plan(lab_run *run, const char *classes_path, yolo_error *error) {
    const yolo_label_options *options = run->options;
    int64_t total = run->pictures.count;
    run->items = arena_array(&run->memory, (uint64_t)total, sizeof *run->items);
    if (!run->items || !lab_set_init(&run->labels, &run->memory, total + 2) || !lab_set_init(&run->stems, &run->memory, total))
        return err_memory(error, (uint64_t)total * sizeof *run->items);
    if (classes_path) lab_set_add(&run->labels, classes_path); /* a picture called classes.jpg must not write there */
    lab_set_add(&run->labels, options->source);                /* nor may list.jpg over list.txt */
    for (int64_t i = 0; i < total; i++) {
        if (err_interrupted) return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted before the first picture");
        lab_item *item = &run->items[run->count];
        *item = (lab_item){.picture = run->pictures.paths[i]};
        if (!lab_place(run, item)) return err_memory(error, 4096);
        if (item->label && !lab_set_add(&run->labels, item->label)) {
            run->report->clashes++;
            log_write(&options->log, YOLO_LOG_WARNING, "%s: not labelled, because %s belongs to another file; rename one of them",
                      item->picture, item->label);
        } else if (item->label && options->existing == YOLO_EXISTING_SKIP && os_path_kind(item->label) != OS_NOTHING) run->report->skipped++;
        else run->count++;
    }
    if (run->report->skipped)
        log_write(&options->log, YOLO_LOG_INFO, "%lld of %lld pictures have a label file already: left as they are",
                  (long long)run->report->skipped, (long long)total);
    return YOLO_OK;
}

/* Annotated pictures must not land on the originals. */
static yolo_status lab_check_folder(const lab_run *run, const lab_item *item, const char *folder, yolo_error *error) {
    char target[4096], own[4096];
    char *parent = path_parent(item->picture);
    bool same = parent && os_real_path(parent, own, sizeof own) && os_real_path(folder, target, sizeof target) && lab_same(own, target);
    mem_free(parent);
    return !same || !run->options->save_images ? YOLO_OK
         : err_set(error, YOLO_ERROR_USAGE, "%s: holds the pictures themselves, annotated ones need another folder", folder);
}

/* Makes the folders that the items need, so that a refusal comes before the work. */
static yolo_status lab_make_folders(lab_run *run, yolo_error *error) {
    const yolo_label_options *options = run->options;
    yolo_status status = options->out ? path_make_directories(options->out, error) : YOLO_OK;
    char *before = NULL;
    for (int64_t i = 0; i < run->count && status == YOLO_OK; i++) {
        const lab_item *item = &run->items[i];
        char *label = item->label ? path_parent(item->label) : NULL, *file = NULL, *drawn = NULL;
        if (options->out && (file = path_join(options->out, item->stem))) drawn = path_parent(file);
        if ((item->label && !label) || (options->out && !drawn)) status = err_memory(error, 4096);
        if (status == YOLO_OK && label && (!before || strcmp(before, label))) status = path_make_directories(label, error);
        if (status == YOLO_OK && drawn && options->save_images) status = path_make_directories(drawn, error);
        if (status == YOLO_OK && drawn) status = lab_check_folder(run, item, drawn, error);
        mem_free(file);
        mem_free(drawn);
        mem_free(before);
        before = label;
    }
    mem_free(before);
    return status;
}

/* Writes classes.txt; one that says something else is a person's and stays. */
static yolo_status lab_write_classes(const lab_run *run, const char *path, yolo_error *error) {
    const net *net = &run->model->checkpoint.net;
    str names = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    for (int i = 0; i < net->class_count; i++) str_format(&names, "%s\n", net->names[i]);
    yolo_status status = names.failed ? err_memory(error, 4096) : YOLO_OK;
    if (status == YOLO_OK && os_path_kind(path) == OS_NOTHING) status = path_write(path, names.text, (size_t)names.length, false, error);
    else if (status == YOLO_OK && (path_read(path, 1 << 24, &bytes, &size, NULL) != YOLO_OK || size != (size_t)names.length ||
                                   memcmp(bytes, names.text, size)))
        log_write(&run->options->log, YOLO_LOG_WARNING, "%s: is not the model's list of classes; left as it is", path);
    mem_free(bytes);
    str_free(&names);
    return status;
}

/* ---- the work on a picture, on a lane's thread */

/* The box with a margin, as ultralytics cuts it. REF ultralytics/utils/plotting.py save_one_box */
static yolo_status lab_cut(const yolo_image *image, const yolo_box *box, yolo_image *cut, yolo_error *error) {
    const float gain = 1.02f, margin = 10;
    float half_w = ((box->x2 - box->x1) * gain + margin) / 2, half_h = ((box->y2 - box->y1) * gain + margin) / 2;
    float x = (box->x1 + box->x2) / 2, y = (box->y1 + box->y2) / 2;
    int left = (int)YOLO_CLAMP(x - half_w, 0, (float)image->width), right = (int)YOLO_CLAMP(x + half_w, 0, (float)image->width);
    int top = (int)YOLO_CLAMP(y - half_h, 0, (float)image->height), bottom = (int)YOLO_CLAMP(y + half_h, 0, (float)image->height);
    *cut = (yolo_image){NULL, right - left, bottom - top};
    if (cut->width < 1 || cut->height < 1) return YOLO_OK;
    size_t row = (size_t)cut->width * 3;
    cut->pixels = mem_array((uint64_t)cut->height, row);
    if (!cut->pixels) return err_memory(error, (uint64_t)cut->height * row);
    for (int i = 0; i < cut->height; i++)
        memcpy(cut->pixels + (size_t)i * row, image->pixels + ((size_t)(top + i) * (size_t)image->width + (size_t)left) * 3, row);
    return YOLO_OK;
}

/* A class name as the name of a folder on any system. */
static void lab_folder_name(const net *net, int class_id, char *name, size_t size) {
    snprintf(name, size, "%s", net->names[class_id]);
    for (char *p = name; *p; p++)
        if ((unsigned char)*p < 32 || strchr("/\\:*?\"<>|", *p)) *p = '_';
    size_t length = strlen(name);
    while (length && (name[length - 1] == '.' || name[length - 1] == ' ')) name[--length] = 0;
    if (!length) snprintf(name, size, "%d", class_id);
}

/* Writes a picture into a folder made for it. */
static yolo_status lab_write_image(const char *folder, const char *stem, const yolo_image *image, yolo_error *error) {
    str path = {0};
    str_format(&path, "%s/%s.jpg", folder, stem);
    yolo_status status = path.failed ? err_memory(error, 4096) : codec_write(path.text, image, error);
    str_free(&path);
    return status;
}

/* crops/CLASS/stem.jpg, stem-2.jpg, ...: a number that makes another picture's stem is passed over. */
static yolo_status lab_write_crop(const lab_run *run, const lab_item *item, const pipe_picture *picture, int index, yolo_error *error) {
    const yolo_box *box = &picture->boxes.items[index];
    char class_name[256];
    str folder = {0}, stem = {0};
    yolo_image cut = {0};
    int before = 0; /* crops of this class that the picture has already */
    for (int j = 0; j < index; j++) before += picture->boxes.items[j].class_id == box->class_id;
    lab_folder_name(&run->model->checkpoint.net, box->class_id, class_name, sizeof class_name);
    str_format(&folder, "%s/crops/%s", run->options->out, class_name);
    str_add(&stem, item->stem);
    for (int number = 2; before && !stem.failed; number++) {
        stem.length = 0;
        str_format(&stem, "%s-%d", item->stem, number);
        before -= !*lab_set_find(&run->stems, stem.text);
    }
    yolo_status status = folder.failed || stem.failed ? err_memory(error, 4096) : lab_cut(&picture->image, box, &cut, error);
    if (status == YOLO_OK && cut.pixels && (status = path_make_directories(folder.text, error)) == YOLO_OK)
        status = lab_write_image(folder.text, stem.text, &cut, error);
    mem_free(cut.pixels);
    str_free(&folder);
    str_free(&stem);
    return status;
}

static yolo_status lab_work(void *user, pipe_picture *picture, yolo_error *error) {
    lab_run *run = user;
    const yolo_label_options *options = run->options;
    lab_item *item = &run->items[picture->index];
    yolo_status status = YOLO_OK;
    if (picture->damage) return YOLO_OK;
    for (int i = 0; options->save_crop && i < picture->boxes.count && status == YOLO_OK; i++)
        status = lab_write_crop(run, item, picture, i, error);
    if (options->save_images && status == YOLO_OK) {
        const net *net = &run->model->checkpoint.net;
        int line_width = options->line_width ? options->line_width : img_line_width(&picture->image);
        for (int i = picture->boxes.count - 1; i >= 0; i--) /* the surest box on top */
            img_draw_box(&picture->image, &picture->boxes.items[i], net->names[picture->boxes.items[i].class_id], line_width);
        status = lab_write_image(options->out, item->stem, &picture->image, error);
    }
    if (!item->label || status != YOLO_OK || (!picture->boxes.count && !options->empty_labels)) return status;
    item->skipped = options->existing == YOLO_EXISTING_SKIP && os_path_kind(item->label) != OS_NOTHING;
    return item->skipped ? YOLO_OK : lbl_write(item->label, &picture->boxes, picture->width, picture->height, options->save_conf, error);
}

/* ---- the run */

static yolo_status lab_result(void *user, pipe_picture *picture, yolo_error *error) {
    lab_run *run = user;
    yolo_label_report *report = run->report;
    (void)error;
    if (picture->damage) {
        report->damaged++;
        log_write(&run->options->log, YOLO_LOG_WARNING, "%s", picture->damage);
    } else if (run->items[picture->index].skipped) report->skipped++;
    else {
        *(picture->boxes.count ? &report->labelled : &report->empty) += 1;
        report->boxes += picture->boxes.count;
        for (int i = 0; i < picture->boxes.count; i++) report->boxes_per_class[picture->boxes.items[i].class_id]++;
        report->speed_preprocess_ms += picture->preprocess_ms;
        report->speed_inference_ms += picture->inference_ms;
        report->speed_postprocess_ms += picture->postprocess_ms;
    }
    if (run->options->on_picture) {
        yolo_label_picture seen = {
            picture->index, run->count, picture->path, picture->damage, picture->width, picture->height, picture->letterbox.width,
            picture->letterbox.height, &picture->boxes, picture->preprocess_ms, picture->inference_ms, picture->postprocess_ms};
        run->options->on_picture(run->options->user, &seen);
    }
    log_meter_step(&run->meter, picture->index + 1);
    return YOLO_OK;
}

static const char *lab_path(void *user, int64_t index) { return ((lab_run *)user)->items[index].picture; }

static yolo_status lab_look(lab_run *run, yolo_error *error) {
    const yolo_label_options *options = run->options;
    const yolo_model *model = run->model;
    pipe_job job = {
        .net = &model->checkpoint.net, .weights = model->weights, .pool = model->pool, .threads = model->threads, .count = run->count, .path = lab_path,
        .imgsz = options->predict.imgsz, .rect = options->predict.rect, .detect = det_predict_options(&options->predict),
        .keep_images = options->save_images || options->save_crop, .work = lab_work, .result = lab_result, .user = run};
    run->meter = log_meter_start(&options->log, options->progress, options->labels_subfolder ? "predict" : "label", "Progress", run->count);
    log_meter_step(&run->meter, 0);
    yolo_status status = run->count ? pipe_run(&job, error) : YOLO_OK;
    yolo_label_report *report = run->report;
    int64_t done = report->labelled + report->empty;
    report->speed_preprocess_ms /= (double)YOLO_MAX(done, 1);
    report->speed_inference_ms /= (double)YOLO_MAX(done, 1);
    report->speed_postprocess_ms /= (double)YOLO_MAX(done, 1);
    if (status == YOLO_ERROR_INTERRUPTED)
        err_set(error, status, "interrupted after %lld of %lld pictures%s", (long long)(done + report->damaged), (long long)run->count,
                options->existing == YOLO_EXISTING_SKIP && !options->labels_subfolder ? "; their labels are kept, the same command continues" : "");
    return status;
}

static yolo_status lab_start(lab_run *run, yolo_error *error) {
    const yolo_label_options *options = run->options;
    yolo_label_report *report = run->report;
    if (!options->source || !*options->source) return err_set(error, YOLO_ERROR_USAGE, "source: expected a picture, folder, pattern or .txt list");
    if (!options->out && (options->save_images || options->save_crop || (options->labels_subfolder && options->save_labels)))
        return err_set(error, YOLO_ERROR_USAGE, "out: expected a folder for annotated pictures, crops and labels/");
    report->class_count = run->model->checkpoint.net.class_count;
    report->boxes_per_class = mem_array((uint64_t)report->class_count, sizeof *report->boxes_per_class);
    if (!report->boxes_per_class) return err_memory(error, (uint64_t)report->class_count * 8);
    yolo_status status = lab_collect(run, error);
    if (status != YOLO_OK) return status;
    report->pictures = run->pictures.count;
    char *classes_path = options->classes_file ? path_join(options->out ? options->out : run->root, "classes.txt") : NULL;
    if (options->classes_file && !classes_path) return err_memory(error, 4096);
    status = lab_plan(run, classes_path, error);
    if (status == YOLO_OK) status = lab_make_folders(run, error);
    if (status == YOLO_OK && classes_path) status = lab_write_classes(run, classes_path, error);
    mem_free(classes_path);
    return status;
}

/* Labels everything; the report is filled in on error too. */
static yolo_status lab_label(const yolo_model *model, const yolo_label_options *options, yolo_label_report *report, yolo_error *error) {
    lab_run run = {.model = model, .options = options, .report = report};
    double start = os_clock();
    yolo_status status = lab_start(&run, error);
    if (status == YOLO_OK) status = lab_look(&run, error);
    report->seconds = os_clock() - start;
    mem_free(run.root);
    data_list_free(&run.pictures);
    arena_free(&run.memory);
    return status;
}

/* ==== 25 tr_: trainer ===========================================================================================
   The phases of a run: options -> data and start weights -> memory plan -> epochs of steps, validation and checkpoint
   -> charts. REF ultralytics/engine/trainer.py for the rules.

   1. A run is a function of its options, data and seed: every random number is keyed by (seed, epoch, picture), and no sum
      depends on the number of threads.
   2. weights/last.pt always holds a whole state: before the first epoch, and after each one, weights, moving average, optimizer,
      unused gradients and counters. Everything else in the folder can be rebuilt from there: on `resume` the rows of
      results.csv that are younger go, and the epoch that was under way begins anew. So a kill at any moment costs at most
      an epoch and changes no bit.
   3. Within an epoch: results.csv, then best.pt, then last.pt.
   4. A loss that is not finite ends the epoch: the state of last.pt comes back, with half the learning rate, three times
      at most. */

enum { TR_ATTEMPTS = 3, TR_SHEETS = 3, TR_MAX_BATCH = 1024 };

/* The options as they are called in args.yaml and in checkpoints. */
typedef enum tr_kind {
    TR_TEXT, TR_TRUTH_OR_TEXT, TR_LAYERS, TR_INT, TR_SEED, TR_NUMBER, TR_BATCH /* a number, whole where it can be */,
    TR_HOURS /* 0 = none */, TR_BOOL
} tr_kind;
typedef struct tr_argument {
    const char *name;
    tr_kind kind;
    size_t field;
    bool free; /* may differ on resume */
} tr_argument;

#define TR_AT(field) offsetof(yolo_train_options, field)
static const tr_argument tr_arguments[] = {
    {"model", TR_TEXT, TR_AT(model), false}, {"data", TR_TEXT, TR_AT(data), true}, {"epochs", TR_INT, TR_AT(epochs), true},
    {"time", TR_HOURS, TR_AT(time), true}, {"patience", TR_INT, TR_AT(patience), true}, {"batch", TR_BATCH, TR_AT(batch), true},
    {"imgsz", TR_INT, TR_AT(imgsz), true}, {"save", TR_BOOL, TR_AT(save), true}, {"save_period", TR_INT, TR_AT(save_period), true},
    {"cache", TR_TRUTH_OR_TEXT, TR_AT(cache), true}, {"device", TR_TEXT, TR_AT(device), true}, {"workers", TR_INT, TR_AT(workers), true},
    {"project", TR_TEXT, TR_AT(project), false}, {"name", TR_TEXT, TR_AT(name), false}, {"exist_ok", TR_BOOL, TR_AT(exist_ok), false},
    {"pretrained", TR_TRUTH_OR_TEXT, TR_AT(pretrained), false}, {"optimizer", TR_TEXT, TR_AT(optimizer), false},
    {"seed", TR_SEED, TR_AT(seed), false}, {"single_cls", TR_BOOL, TR_AT(single_cls), false}, {"rect", TR_BOOL, TR_AT(rect), false},
    {"cos_lr", TR_BOOL, TR_AT(cos_lr), false}, {"close_mosaic", TR_INT, TR_AT(close_mosaic), true},
    {"amp", TR_BOOL, TR_AT(amp), false}, {"fraction", TR_NUMBER, TR_AT(fraction), false}, {"freeze", TR_LAYERS, TR_AT(freeze), true},
    {"multi_scale", TR_NUMBER, TR_AT(multi_scale), false}, {"val", TR_BOOL, TR_AT(val), true}, {"iou", TR_NUMBER, TR_AT(iou), false},
    {"max_det", TR_INT, TR_AT(max_det), false}, {"plots", TR_BOOL, TR_AT(plots), true}, {"lr0", TR_NUMBER, TR_AT(lr0), false},
    {"lrf", TR_NUMBER, TR_AT(lrf), false}, {"momentum", TR_NUMBER, TR_AT(momentum), false},
    {"weight_decay", TR_NUMBER, TR_AT(weight_decay), false}, {"warmup_epochs", TR_NUMBER, TR_AT(warmup_epochs), false},
    {"warmup_momentum", TR_NUMBER, TR_AT(warmup_momentum), false}, {"warmup_bias_lr", TR_NUMBER, TR_AT(warmup_bias_lr), false},
    {"box", TR_NUMBER, TR_AT(box), false}, {"cls", TR_NUMBER, TR_AT(cls), false}, {"dfl", TR_NUMBER, TR_AT(dfl), false},
    {"nbs", TR_INT, TR_AT(nbs), false}, {"hsv_h", TR_NUMBER, TR_AT(hsv_h), false}, {"hsv_s", TR_NUMBER, TR_AT(hsv_s), false},
    {"hsv_v", TR_NUMBER, TR_AT(hsv_v), false}, {"degrees", TR_NUMBER, TR_AT(degrees), false},
    {"translate", TR_NUMBER, TR_AT(translate), false}, {"scale", TR_NUMBER, TR_AT(scale), false}, {"shear", TR_NUMBER, TR_AT(shear), false},
    {"perspective", TR_NUMBER, TR_AT(perspective), false}, {"flipud", TR_NUMBER, TR_AT(flipud), false},
    {"fliplr", TR_NUMBER, TR_AT(fliplr), false}, {"bgr", TR_NUMBER, TR_AT(bgr), false}, {"mosaic", TR_NUMBER, TR_AT(mosaic), false},
    {"mixup", TR_NUMBER, TR_AT(mixup), false}, {"cutmix", TR_NUMBER, TR_AT(cutmix), false},
};

static yolo_train_options tr_defaults(void) {
    return (yolo_train_options){
        .patience = 100, .batch = 16, .imgsz = 640, .save = true, .save_period = -1, .cache = "ram", .workers = 8,
        .project = "runs/detect", .name = "train", .pretrained = "true", .optimizer = "auto", .close_mosaic = 10, .amp = true,
        .fraction = 1, .lr0 = 0.01, .lrf = 0.01, .momentum = 0.937, .weight_decay = 0.0005, .warmup_epochs = 3,
        .warmup_momentum = 0.8, .warmup_bias_lr = 0.1, .box = 7.5, .cls = 0.5, .dfl = 1.5, .nbs = 64, .hsv_h = 0.015, .hsv_s = 0.7,
        .hsv_v = 0.4, .translate = 0.1, .scale = 0.5, .fliplr = 0.5, .mosaic = 1, .iou = 0.7, .max_det = 300, .plots = true,
        .val = true, .device = "auto", .isa = "auto"};
}

static const char *tr_text_at(const yolo_train_options *o, size_t field) {
    const char *text;
    memcpy(&text, (const char *)o + field, sizeof text);
    return text;
}

static double tr_number_at(const yolo_train_options *o, size_t field) {
    double number;
    memcpy(&number, (const char *)o + field, sizeof number);
    return number;
}

static bool tr_is_truth(const char *text, bool *truth) {
    *truth = str_equal_fold(text, "true");
    return *truth || str_equal_fold(text, "false");
}

/* "10" -> 10 layers from the first on; "0,3,5" or "[0,3,5]" -> those. False when it is neither. */
static bool tr_parse_layers(const char *text, int layer_count, bool *frozen) {
    bool list = *text == '[' || strchr(text, ',');
    for (const char *p = text + (*text == '['); *p;) {
        char *end;
        long layer = strtol(p, &end, 10);
        if (end == p || layer < 0 || layer > layer_count) return false;
        for (long i = list ? layer : 0; i < layer + list && i < layer_count; i++) frozen[i] = true;
        for (p = end; *p == ',' || *p == ' ' || *p == ']';) p++;
        if (!list && *p) return false;
    }
    return true;
}

static val *tr_layers_val(arena *a, const char *text) {
    bool list = *text == '[' || strchr(text, ',');
    val *layers = val_new(a, VAL_LIST);
    for (const char *p = text + (*text == '['); layers && *p;) {
        char *end;
        long layer = strtol(p, &end, 10);
        if (end == p || !list) return end == p ? val_string(a, text, strlen(text)) : val_int(a, layer);
        if (!val_add(a, layers, NULL, val_int(a, layer))) return NULL;
        for (p = end; *p == ',' || *p == ' ' || *p == ']';) p++;
    }
    return layers;
}

/* An option as args.yaml and checkpoints have it; NULL for want of memory. */
static val *tr_argument_val(arena *a, const tr_argument *argument, const yolo_train_options *o) {
    const char *at = (const char *)o + argument->field, *text;
    int integer;
    bool truth;
    uint64_t seed;
    double number;
    switch (argument->kind) {
    case TR_TEXT: case TR_TRUTH_OR_TEXT: case TR_LAYERS:
        text = tr_text_at(o, argument->field);
        if (!text || !*text) return val_new(a, VAL_NULL);
        if (argument->kind == TR_LAYERS) return tr_layers_val(a, text);
        if (argument->kind == TR_TRUTH_OR_TEXT && tr_is_truth(text, &truth)) return val_bool(a, truth);
        return val_string(a, text, strlen(text));
    case TR_INT: memcpy(&integer, at, sizeof integer); return val_int(a, integer);
    case TR_SEED: memcpy(&seed, at, sizeof seed); return val_int(a, (int64_t)seed);
    case TR_BOOL: memcpy(&truth, at, sizeof truth); return val_bool(a, truth);
    default: break;
    }
    number = tr_number_at(o, argument->field);
    if (argument->kind == TR_HOURS && number == 0) return val_new(a, VAL_NULL);
    return argument->kind == TR_BATCH && number == floor(number) ? val_int(a, (int64_t)number) : val_float(a, number);
}

/* The texts of a list, "0,3,5". */
static char *tr_list_text(arena *a, const val *list) {
    str s = {0};
    for (int64_t i = 0; i < list->count; i++) str_format(&s, "%s%lld", i ? "," : "", (long long)val_integer(list->items[i], 0));
    char *text = s.failed || !s.text ? NULL : arena_text(a, s.text, (size_t)s.length);
    str_free(&s);
    return text;
}

/* Sets an option from a checkpoint's value; a value of the wrong kind leaves it as it is. */
static void tr_set_argument(arena *a, const tr_argument *argument, const val *v, yolo_train_options *o) {
    char *at = (char *)o + argument->field, number_text[24];
    const char *text = NULL;
    if (!v || v->kind == VAL_NULL) return;
    if (argument->kind <= TR_LAYERS) {
        if (v->kind == VAL_STRING) text = arena_text(a, v->text, v->length);
        else if (v->kind == VAL_BOOL) text = v->integer ? "true" : "false";
        else if (v->kind == VAL_LIST) text = tr_list_text(a, v);
        else if (v->kind == VAL_INT) {
            snprintf(number_text, sizeof number_text, "%lld", (long long)v->integer);
            text = arena_text(a, number_text, strlen(number_text));
        }
        if (text) memcpy(at, &text, sizeof text);
    } else if (val_is_number(v)) {
        int integer = (int)YOLO_CLAMP(val_number(v, 0), -1e9, 1e9);
        bool truth = v->integer != 0;
        uint64_t seed = (uint64_t)v->integer;
        double number = val_number(v, 0);
        if (argument->kind == TR_INT) memcpy(at, &integer, sizeof integer);
        else if (argument->kind == TR_BOOL) memcpy(at, &truth, sizeof truth);
        else if (argument->kind == TR_SEED) memcpy(at, &seed, sizeof seed);
        else memcpy(at, &number, sizeof number);
    }
}

static size_t tr_field_size(tr_kind kind) {
    return kind <= TR_LAYERS ? sizeof(char *) : kind == TR_INT ? sizeof(int) : kind == TR_SEED ? sizeof(uint64_t) :
           kind == TR_BOOL ? sizeof(bool) : sizeof(double);
}

static bool tr_is_same(const tr_argument *argument, const yolo_train_options *a, const yolo_train_options *b) {
    if (argument->kind > TR_LAYERS) return !memcmp((const char *)a + argument->field, (const char *)b + argument->field, tr_field_size(argument->kind));
    const char *one = tr_text_at(a, argument->field), *other = tr_text_at(b, argument->field);
    return !strcmp(one ? one : "", other ? other : "");
}

/* Is the option as it is by default, or a text that says nothing? */
static bool tr_is_default(const tr_argument *argument, const yolo_train_options *o) {
    const yolo_train_options standard = tr_defaults();
    const char *text = argument->kind <= TR_LAYERS ? tr_text_at(o, argument->field) : NULL;
    return tr_is_same(argument, o, &standard) || (argument->kind <= TR_LAYERS && (!text || !*text));
}

/* ---- a run ---- */

typedef struct tr_run {
    yolo_train_options options; /* as they take effect */
    yolo_log outside;           /* the caller's */
    yolo_log log;               /* to log.txt and outside */
    FILE *log_file;
    arena memory;               /* holds texts */
    char *folder;
    op_isa isa;
    thr_pool *pool;
    data_set data;
    const data_list *train, *validation; /* validation NULL = none */
    int class_count;
    char **names, *single[1], item[8]; /* the latter two for single_cls */
    pt_model model;             /* graph, live weights, and what checkpoints carry */
    bool *frozen;               /* an entry a layer */
    dl_loader *loader;
    grad_pass *grad;
    opt_state *opt;
    float *gradients;
    void *loss_memory; size_t loss_bytes;
    loss_target *scaled; int64_t scaled_capacity; /* of a batch at another size */
    ev_set validation_set;
    run_weights *weights;       /* for validation */
    int batch, imgsz, largest;  /* pictures a step; side of the input, the largest with multi_scale */
    const char *last;           /* the checkpoint that is resumed */
    double initial_lr[OPT_MAX_GROUPS]; /* of the optimizer's groups at rate 1 */
    /* What last.pt keeps beside the blocks; doubles, for tr_number. */
    double done, epochs;        /* whole epochs trained, to train */
    double best_fitness;        /* -1 = none yet */
    double best_epoch;          /* that best.pt is of, from 1; 0 = none */
    double patience_epoch;      /* from which the patience is counted */
    double seconds;             /* of the epochs done */
    double rate;                /* what the learning rates are multiplied with, after lost epochs */
    double pictures;            /* of the training set */
    /* Of the epoch in hand. */
    int attempts;               /* lost in a row */
    loss_parts losses;          /* means of its batches */
    ev_outcome outcome;
    bool checked;               /* outcome is of this epoch */
    double epoch_start;
    /* Of this call. */
    double start, first_epoch, shown;
    double trained_seconds; int64_t trained; /* in steps, data included; pictures stepped */
    log_meter meter;
} tr_run;

static void tr_log_line(void *user, yolo_log_level level, const char *text) {
    tr_run *run = user;
    if (run->log_file && level != YOLO_LOG_PROGRESS) {
        fprintf(run->log_file, "%s%s\n", level == YOLO_LOG_WARNING ? "warning: " : "", text);
        fflush(run->log_file);
    }
    if (run->outside.write) run->outside.write(run->outside.user, level, text);
}

/* "folder/name", in the arena; NULL for want of memory. */
static const char *tr_path(tr_run *run, const char *name) {
    char *joined = path_join(run->folder, name);
    const char *kept = joined ? arena_text(&run->memory, joined, strlen(joined)) : NULL;
    mem_free(joined);
    return kept ? kept : "";
}

/* ---- options and folder ---- */

static yolo_status tr_check_range(const char *name, double value, double low, double high, yolo_error *error) {
    if (value >= low && value <= high) return YOLO_OK;
    return err_set(error, YOLO_ERROR_USAGE, "%s=%g: expected %g to %g", name, value, low, high);
}

static yolo_status tr_check_options(const yolo_train_options *o, yolo_error *error) {
    const struct { const char *name; double value, low, high; } ranges[] = {
        {"epochs", o->epochs, 1, 1000000}, {"time", o->time, 0, 100000}, {"patience", o->patience, 0, 1000000000},
        {"imgsz", o->imgsz, 32, 8192}, {"workers", o->workers, 0, 256}, {"cache_gb", o->cache_gb, 0, 100000},
        {"batch", o->batch, -1, TR_MAX_BATCH}, {"close_mosaic", o->close_mosaic, 0, 1000000}, {"fraction", o->fraction, 1e-9, 1},
        {"multi_scale", o->multi_scale, 0, 0.95}, {"lr0", o->lr0, 0, 1000}, {"lrf", o->lrf, 0, 1000}, {"momentum", o->momentum, 0, 0.9999},
        {"weight_decay", o->weight_decay, 0, 100}, {"warmup_epochs", o->warmup_epochs, 0, 1000000},
        {"warmup_momentum", o->warmup_momentum, 0, 0.9999}, {"warmup_bias_lr", o->warmup_bias_lr, 0, 1000}, {"box", o->box, 0, 1e6},
        {"cls", o->cls, 0, 1e6}, {"dfl", o->dfl, 0, 1e6}, {"nbs", o->nbs, 1, 1000000}, {"hsv_h", o->hsv_h, 0, 1}, {"hsv_s", o->hsv_s, 0, 1},
        {"hsv_v", o->hsv_v, 0, 1}, {"degrees", o->degrees, 0, 180}, {"translate", o->translate, 0, 1}, {"scale", o->scale, 0, 1},
        {"shear", o->shear, -180, 180}, {"perspective", o->perspective, 0, 0.001}, {"flipud", o->flipud, 0, 1}, {"fliplr", o->fliplr, 0, 1},
        {"bgr", o->bgr, 0, 1}, {"mosaic", o->mosaic, 0, 1}, {"mixup", o->mixup, 0, 1}, {"cutmix", o->cutmix, 0, 1}, {"iou", o->iou, 0, 1},
        {"max_det", o->max_det, 1, 30000}, {"threads", o->threads, 0, 256}};
    yolo_status status = YOLO_OK;
    for (int i = 0; i < YOLO_COUNT(ranges) && status == YOLO_OK; i++)
        status = tr_check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high, error);
    if (status == YOLO_OK && (o->batch > 1 || o->batch == 0) && (o->batch != floor(o->batch) || o->batch == 0))
        return err_set(error, YOLO_ERROR_USAGE, "batch=%g: expected a whole number of pictures, -1, or a share of the memory", o->batch);
    opt_kind kind;
    if (status == YOLO_OK && o->optimizer && !opt_kind_of(o->optimizer, &kind))
        return err_set(error, YOLO_ERROR_USAGE, "optimizer=%.40s: expected auto, SGD, MuSGD, Adam, Adamax, AdamW, NAdam, RAdam or RMSProp", o->optimizer);
    return status;
}

/* Opens the run folder, new or as it is, and its log. */
static yolo_status tr_open_folder(tr_run *run, yolo_error *error) {
    yolo_status status = path_make_directories(tr_path(run, "weights"), error);
    if (status != YOLO_OK) return status;
    run->log_file = os_open(tr_path(run, "log.txt"), run->options.resume ? "ab" : "wb");
    return run->log_file ? YOLO_OK : err_os(error, tr_path(run, "log.txt"), "create");
}

typedef struct tr_search { const char *project; char *newest; double time; } tr_search;

static bool tr_search_entry(void *user, const char *name, os_kind kind) {
    tr_search *search = user;
    str path = {0};
    double time;
    str_format(&path, "%s/%s/weights/last.pt", search->project, name);
    if (kind != OS_FILE && !path.failed && os_modified(path.text, &time) && (!search->newest || time > search->time)) {
        mem_free(search->newest);
        search->newest = str_copy(path.text);
        search->time = time;
    }
    str_free(&path);
    return true;
}

/* The checkpoint to go on from: the model that was named, else the newest last.pt below the project folder. */
static yolo_status tr_find_last(tr_run *run, const char **last, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    if (o->model && str_ends_with(o->model, ".pt")) {
        *last = o->model;
        return YOLO_OK;
    }
    tr_search search = {.project = o->project};
    os_list_directory(o->project, tr_search_entry, &search);
    if (!search.newest)
        return err_set(error, YOLO_ERROR_USAGE, "resume: no run with weights/last.pt in %s; name one with model=PATH/weights/last.pt", o->project);
    *last = arena_text(&run->memory, search.newest, strlen(search.newest));
    mem_free(search.newest);
    return *last ? YOLO_OK : err_memory(error, 4096);
}

/* The classes that the resumed run trains on. False: others were asked for. */
static bool tr_take_classes(tr_run *run, const val *list) {
    yolo_train_options *o = &run->options;
    const int *asked = o->classes;
    int count = list && list->kind == VAL_LIST ? (int)YOLO_MIN(list->count, NET_MAX_CHANNELS) : 0, asked_count = asked ? o->class_count : 0;
    int *classes = count ? arena_array(&run->memory, (uint64_t)count, sizeof *classes) : NULL;
    for (int i = 0; classes && i < count; i++) classes[i] = (int)YOLO_CLAMP(val_integer(list->items[i], -1), -1, INT32_MAX);
    o->classes = classes;
    o->class_count = classes ? count : 0;
    return !asked || (asked_count == o->class_count && !memcmp(asked, classes, (size_t)count * sizeof *asked));
}

/* Takes the options of the run that `last` is of, but for those that may change and that the caller set. */
static void tr_take_options(tr_run *run, const pt_model *last) {
    const yolo_train_options asked = run->options, standard = tr_defaults();
    str ignored = {0};
    for (int i = 0; i < YOLO_COUNT(tr_arguments); i++) {
        const tr_argument *a = &tr_arguments[i];
        const bool set = a->field != TR_AT(model) && !tr_is_default(a, &asked);
        if (a->free && set) continue;
        memcpy((char *)&run->options + a->field, (const char *)&standard + a->field, tr_field_size(a->kind));
        tr_set_argument(&run->memory, a, val_get(last->train_args, a->name), &run->options);
        if (set && !tr_is_same(a, &asked, &run->options)) str_format(&ignored, "%s%s", ignored.length ? ", " : "", a->name);
    }
    if (!tr_take_classes(run, val_get(last->train_args, "classes"))) str_format(&ignored, "%sclasses", ignored.length ? ", " : "");
    if (ignored.length && !ignored.failed)
        log_write(&run->outside, YOLO_LOG_WARNING, "resume goes on as the run began, without the new %s; start a new run for that", ignored.text);
    str_free(&ignored);
}

/* ---- data and model ---- */

static yolo_status tr_open_data(tr_run *run, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    yolo_error reason;
    if (!o->data || !*o->data) return err_set(error, YOLO_ERROR_USAGE, "data= is missing: the data.yaml of the pictures to train on; `yolo prepare` makes one");
    yolo_status status = data_open(&run->data, o->data, error);
    if (status == YOLO_OK) status = data_split(&run->data, "train", &run->train, error);
    if (status != YOLO_OK) return status;
    run->class_count = o->single_cls ? 1 : run->data.class_count;
    run->single[0] = run->item;
    run->names = o->single_cls ? run->single : run->data.names;
    if (data_split(&run->data, "val", &run->validation, &reason) != YOLO_OK) {
        run->validation = NULL;
        log_write(&run->log, YOLO_LOG_WARNING, "%s; training goes on without validation, best.pt is the last epoch's", reason.message);
    }
    return YOLO_OK;
}

/* Makes `model` a new network like `like` for the classes of the data; `weights` (NULL = none) will come into it. */
static yolo_status tr_build(tr_run *run, const pt_model *like, const pt_model *weights, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    net_activation activation = NET_SILU;
    double slope;
    const bool named = o->activation && *o->activation;
    if (named && !net_parse_activation(o->activation, &activation, &slope))
        return err_set(error, YOLO_ERROR_USAGE, "activation=%.40s: expected silu, relu, leakyrelu or mish", o->activation);
    return pt_create(&run->model, like, run->class_count, run->names, named ? (int)activation : -1, o->seed, weights, error);
}

/* A new network with the weights to start from: those of the model, of another checkpoint, or none. */
static yolo_status tr_start(tr_run *run, const pt_model *start, yolo_error *error) {
    const char *wanted = run->options.pretrained;
    const yolo_open_options open = {.seed = run->options.seed};
    bool truth = true;
    pt_model other = {0};
    const pt_model *weights = start->built ? NULL : start;
    yolo_status status = YOLO_OK;
    if (wanted && *wanted && !tr_is_truth(wanted, &truth)) {
        status = pt_load(wanted, &open, &other, error);
        weights = &other;
    } else if (!truth) weights = NULL;
    if (status == YOLO_OK) status = tr_build(run, start, weights, error);
    if (status == YOLO_OK && weights) status = pt_transfer(&run->model, weights, &run->log, NULL, error);
    pt_free(&other);
    return status;
}

/* The network: of the run that `last` is of, or a new one. */
static yolo_status tr_open_model(tr_run *run, const pt_model *last, yolo_error *error) {
    yolo_open_options open = {.seed = run->options.seed};
    pt_model start;
    if (last->state && last->net.class_count != run->class_count)
        return err_set(error, YOLO_ERROR_USAGE, "%s: %d classes, but the run to be resumed has %d", run->options.data, run->class_count, last->net.class_count);
    if (last->state) return tr_build(run, last, last, error);
    if (!run->options.model || !*run->options.model)
        return err_set(error, YOLO_ERROR_USAGE, "model= is missing: a checkpoint such as best.pt, or a description such as yolov8n.yaml");
    yolo_status status = pt_load(run->options.model, &open, &start, error);
    if (status == YOLO_OK) status = tr_start(run, &start, error);
    pt_free(&start);
    return status;
}

static yolo_status tr_freeze(tr_run *run, yolo_error *error) {
    const char *freeze = run->options.freeze;
    const net *net = &run->model.net;
    run->frozen = mem_array((uint64_t)net->layer_count, sizeof *run->frozen);
    if (!run->frozen) return err_memory(error, (uint64_t)net->layer_count);
    if (!freeze || !*freeze) return YOLO_OK;
    if (!tr_parse_layers(freeze, net->layer_count, run->frozen))
        return err_set(error, YOLO_ERROR_USAGE, "freeze=%.60s: expected a number of layers (10) or their numbers (0,3,5), at most %d", freeze, net->layer_count);
    int frozen = 0, learning = 0;
    for (int i = 0; i < net->layer_count; i++) {
        frozen += run->frozen[i];
        learning += !run->frozen[i] && net->layers[i].param_count;
    }
    if (!learning) return err_set(error, YOLO_ERROR_USAGE, "freeze=%.60s leaves no layer that could learn", freeze);
    log_write(&run->log, YOLO_LOG_INFO, "%d of %d layers are frozen", frozen, net->layer_count);
    return YOLO_OK;
}

/* ---- memory ---- */

typedef struct tr_memory { grad_memory pass; uint64_t blocks, validation, total; } tr_memory; /* bytes */

/* What training on `batch` pictures takes. Counted as for an optimizer of two moments; validation is an estimate. */
static yolo_status tr_measure(const tr_run *run, int batch, tr_memory *memory, yolo_error *error) {
    const net *net = &run->model.net;
    const uint64_t block = (uint64_t)net->param_elements * sizeof(float);
    yolo_status status = grad_measure(net, run->isa, thr_pool_size(run->pool), batch, run->largest, run->largest, &memory->pass, error);
    if (status == YOLO_ERROR_MEMORY) memory->total = MEM_CAP; /* beyond every limit */
    if (status != YOLO_OK) return status == YOLO_ERROR_MEMORY ? YOLO_OK : status;
    memory->blocks = 5 * block;
    memory->validation = run->validation ? 4 * block + (uint64_t)thr_pool_size(run->pool) * memory->pass.activations / (uint64_t)batch / 2 : 0;
    memory->total = memory->blocks + memory->validation + memory->pass.activations + memory->pass.gradients + memory->pass.weights +
                    memory->pass.workspace;
    return YOLO_OK;
}

/* The largest batch that takes no more than `limit` bytes; 0 = none. */
static yolo_status tr_fitting_batch(const tr_run *run, uint64_t limit, int *batch, yolo_error *error) {
    int low = 0, high = TR_MAX_BATCH;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        tr_memory memory;
        yolo_status status = tr_measure(run, middle, &memory, error);
        if (status != YOLO_OK) return status;
        if (memory.total <= limit) low = middle;
        else high = middle - 1;
    }
    *batch = low;
    return YOLO_OK;
}

static void tr_log_memory(const tr_run *run, const tr_memory *memory, uint64_t cache, uint64_t available) {
    const struct { const char *what; uint64_t bytes; } rows[] = {
        {"weights, gradients, optimizer, moving average", memory->blocks}, {"activations", memory->pass.activations},
        {"gradients of activations", memory->pass.gradients}, {"packed weights", memory->pass.weights},
        {"workspace", memory->pass.workspace}, {"validation (about)", memory->validation}, {"picture cache (at most)", cache},
        {"together", memory->total + cache}, {"available", available}};
    log_write(&run->log, YOLO_LOG_INFO, "memory for batch %d at %d                                  MiB", run->batch, run->largest);
    for (int i = 0; i < YOLO_COUNT(rows); i++)
        log_write(&run->log, YOLO_LOG_INFO, "  %-46s %10.1f", rows[i].what, (double)rows[i].bytes / 1048576.0);
}

/* Settles the batch and the cache's budget by the memory there is. */
static yolo_status tr_plan(tr_run *run, uint64_t *cache, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    const uint64_t available = os_memory_available();
    const double share = o->batch < 0 ? 0.6 : o->batch < 1 ? o->batch : 1;
    const int64_t pictures = YOLO_MAX(run->train->count, 1);
    tr_memory memory = {0};
    int fitting;
    yolo_status status = tr_fitting_batch(run, (uint64_t)((double)available * share), &fitting, error);
    if (status != YOLO_OK) return status;
    run->batch = o->batch >= 1 ? (int)o->batch : (int)YOLO_MIN(fitting, pictures);
    if ((status = tr_measure(run, YOLO_MAX((int)YOLO_MIN(run->batch, pictures), 1), &memory, error)) != YOLO_OK) return status;
    if (available && (run->batch < 1 || memory.total > available)) {
        if (!fitting)
            return err_set(error, YOLO_ERROR_MEMORY, "not even one picture of %d fits: %.0f MiB needed, %.0f MiB available; use a smaller imgsz or model",
                           run->largest, (double)memory.total / 1048576.0, (double)available / 1048576.0);
        return err_set(error, YOLO_ERROR_MEMORY, "batch=%d at %d needs %.0f MiB, %.0f MiB are available; the largest batch that fits is %d",
                       run->batch, run->largest, (double)memory.total / 1048576.0, (double)available / 1048576.0, fitting);
    }
    const bool none = o->cache && str_equal_fold(o->cache, "false");
    *cache = none ? 0 : o->cache_gb > 0 ? (uint64_t)(o->cache_gb * 1073741824.0) : YOLO_MIN(available / 4, available - YOLO_MIN(memory.total, available));
    tr_log_memory(run, &memory, *cache, available);
    return YOLO_OK;
}

/* ---- state: what last.pt keeps ---- */

enum { TR_NUMBERS = 8 };
typedef struct tr_range { const char *name; double low, high; bool whole; } tr_range;

/* The trainer's own numbers, each by name and what it can be; the optimizer's are in opt_number. */
static double *tr_number(tr_run *run, int index, tr_range *range) {
    static const tr_range ranges[TR_NUMBERS] = {
        {"epochs_done", 0, 1e6, true}, {"epochs", 1, 1e6, true}, {"best_fitness", -1, 10, false}, {"best_epoch", 0, 1e6, true},
        {"patience_epoch", 0, 1e6, true}, {"seconds", 0, 1e10, false}, {"rate", 1e-9, 1, false}, {"pictures", 0, 1e9, true}};
    double *numbers[TR_NUMBERS] = {&run->done, &run->epochs, &run->best_fitness, &run->best_epoch, &run->patience_epoch, &run->seconds,
                                   &run->rate, &run->pictures};
    *range = ranges[index];
    return numbers[index];
}

/* Gathers the state; the blocks stay where they are. The moving average, block 0, is the checkpoint's model. */
static yolo_status tr_gather(tr_run *run, pt_state *state, yolo_error *error) {
    const int64_t count = run->model.net.param_elements;
    const char *name;
    tr_range range;
    bool good = true;
    for (int i = 0; i < TR_NUMBERS && good; i++) {
        const double number = *tr_number(run, i, &range);
        good = pt_state_set(state, range.name, val_float(&state->memory, number));
    }
    for (int i = 0; i < OPT_NUMBERS && good; i++) {
        const double number = *opt_number(run->opt, i, &name);
        good = pt_state_set(state, name, val_float(&state->memory, number));
    }
    if (!good) return err_memory(error, state->memory.total);
    pt_state_add(state, "weights", run->model.params, count);
    for (int i = 1; i < opt_block_count(run->opt); i++) {
        float *block = opt_block(run->opt, i, &name);
        pt_state_add(state, name, block, count);
    }
    if (run->opt->batch > run->opt->last && run->done > 0) pt_state_add(state, "gradients", run->gradients, count);
    return YOLO_OK;
}

static yolo_status tr_no_state(const char *path, yolo_error *error) {
    return err_set(error, YOLO_ERROR_FORMAT, "%s holds no training state; resume needs the weights/last.pt of a run", path);
}

/* A number of the state, which has to be one that a training can have. */
static yolo_status tr_take_number(const pt_state *state, const char *path, const tr_range *range, double *number, yolo_error *error) {
    const double value = val_number(val_get(state->numbers, range->name), NAN);
    if (!(value >= range->low && value <= range->high) || (range->whole && value != floor(value)))
        return err_set(error, YOLO_ERROR_FORMAT, "%s: damaged training state: %s is %g; start a new training with model=%s", path, range->name, value, path);
    *number = value;
    return YOLO_OK;
}

static yolo_status tr_take_numbers(tr_run *run, const pt_state *state, const char *path, yolo_error *error) {
    yolo_status status = YOLO_OK;
    tr_range range;
    for (int i = 0; i < TR_NUMBERS && status == YOLO_OK; i++) {
        double *number = tr_number(run, i, &range);
        status = tr_take_number(state, path, &range, number, error);
    }
    for (int i = 0; i < OPT_NUMBERS && status == YOLO_OK; i++) {
        range = (tr_range){.low = -1, .high = 1e15};
        double *number = opt_number(run->opt, i, &range.name);
        status = tr_take_number(state, path, &range, number, error);
    }
    return status;
}

static yolo_status tr_restore(tr_run *run, const pt_model *from, const char *path, yolo_error *error) {
    const int64_t count = run->model.net.param_elements;
    const pt_state *state = from->state;
    const char *name;
    if (!state) return tr_no_state(path, error);
    yolo_status status = tr_take_numbers(run, state, path, error);
    if (status == YOLO_OK) status = pt_state_take(state, path, "weights", run->model.params, count, error);
    if (from->net.param_elements != count) status = tr_no_state(path, error);
    else memcpy(run->opt->ema, from->params, (size_t)count * sizeof *from->params);
    for (int i = 1; i < opt_block_count(run->opt) && status == YOLO_OK; i++) {
        float *block = opt_block(run->opt, i, &name);
        status = pt_state_take(state, path, name, block, count, error);
    }
    memset(run->gradients, 0, (size_t)count * sizeof *run->gradients);
    if (status == YOLO_OK && pt_state_block(state, "gradients")) status = pt_state_take(state, path, "gradients", run->gradients, count, error);
    for (int i = 0; i < run->opt->group_count; i++) run->opt->groups[i].initial_lr = run->initial_lr[i] * run->rate;
    return status;
}

/* last.pt with everything, and epochN.pt where wanted. */
static yolo_status tr_save_last(tr_run *run, yolo_error *error) {
    pt_state state = {0};
    pt_model average = run->model;
    average.params = run->opt->ema;
    average.epoch = (int64_t)run->done - 1;
    yolo_status status = tr_gather(run, &state, error);
    if (status == YOLO_OK) status = pt_write_training(tr_path(run, "weights/last.pt"), &average, &state, error);
    arena_free(&state.memory);
    return status;
}

static yolo_status tr_save_average(tr_run *run, const char *name, yolo_error *error) {
    pt_model average = run->model;
    average.params = run->opt->ema;
    return pt_write(tr_path(run, name), &average, true, error);
}

/* ---- results.csv, args.yaml ---- */

static const char tr_csv_head[] = "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),metrics/recall(B),"
                                  "metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,val/dfl_loss";

/* Starts results.csv, or keeps the rows of the epochs that are done. */
static yolo_status tr_csv_begin(tr_run *run, yolo_error *error) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    str out = {0};
    yolo_error ignored;
    if (run->done > 0 && path_read(tr_path(run, "results.csv"), 64 << 20, &bytes, &size, &ignored) == YOLO_OK) {
        const char *at = (const char *)bytes, *end = at + size;
        for (int64_t line = 0; at < end && line <= (int64_t)run->done; line++) {
            const char *next = memchr(at, '\n', (size_t)(end - at));
            next = next ? next + 1 : end;
            str_append(&out, at, (size_t)(next - at));
            at = next;
        }
    } else {
        str_add(&out, tr_csv_head);
        for (int i = 0; i < run->opt->group_count; i++) str_format(&out, ",lr/pg%d", i);
        str_add(&out, "\n");
    }
    yolo_status status = out.failed ? err_memory(error, size) : path_write(tr_path(run, "results.csv"), out.text, (size_t)out.length, false, error);
    str_free(&out);
    mem_free(bytes);
    return status;
}

static void tr_csv_number(str *row, double number, int decimals) {
    char text[40];
    double scale = pow(10, decimals);
    str_from_number(text, decimals ? rint(number * scale) / scale : number, 6);
    str_format(row, ",%s", text);
}

static yolo_status tr_csv_row(tr_run *run, yolo_error *error) {
    const yolo_metrics *m = &run->outcome.metrics;
    const loss_parts *v = &run->outcome.losses;
    const double numbers[] = {run->losses.box, run->losses.cls, run->losses.dfl, m->precision, m->recall, m->map50, m->map50_95, v->box, v->cls, v->dfl};
    const char *path = tr_path(run, "results.csv");
    str row = {0};
    str_format(&row, "%d", (int)run->done);
    tr_csv_number(&row, run->seconds, 0);
    for (int i = 0; i < YOLO_COUNT(numbers); i++) tr_csv_number(&row, numbers[i], 5);
    for (int i = 0; i < run->opt->group_count; i++) tr_csv_number(&row, run->opt->groups[i].lr, 0);
    str_add(&row, "\n");
    FILE *file = row.failed ? NULL : os_open(path, "ab");
    bool good = file && fwrite(row.text, 1, (size_t)row.length, file) == (size_t)row.length && os_flush(file);
    yolo_status status = good ? YOLO_OK : err_os(error, path, "write");
    if (file) fclose(file);
    str_free(&row);
    return status;
}

static bool tr_add_arg(arena *a, val *map, const char *name, val *value) {
    return val_add(a, map, val_string(a, name, strlen(name)), value);
}

/* The options as they take effect, for args.yaml and the checkpoints. */
static yolo_status tr_make_args(tr_run *run, yolo_error *error) {
    arena *a = &run->model.memory;
    const yolo_train_options *o = &run->options;
    val *map = val_new(a, VAL_MAP), *classes = o->classes ? val_new(a, VAL_LIST) : val_new(a, VAL_NULL);
    bool good = map && classes && tr_add_arg(a, map, "task", val_string(a, "detect", 6)) && tr_add_arg(a, map, "mode", val_string(a, "train", 5));
    for (int i = 0; i < YOLO_COUNT(tr_arguments) && good; i++)
        good = tr_add_arg(a, map, tr_arguments[i].name, tr_argument_val(a, &tr_arguments[i], o));
    for (int i = 0; i < o->class_count && good && o->classes; i++) good = val_add(a, classes, NULL, val_int(a, o->classes[i]));
    good = good && tr_add_arg(a, map, "classes", classes) && tr_add_arg(a, map, "deterministic", val_bool(a, true)) &&
           tr_add_arg(a, map, "split", val_string(a, "val", 3)) && tr_add_arg(a, map, "save_dir", val_string(a, run->folder, strlen(run->folder)));
    run->model.train_args = map;
    return good ? YOLO_OK : err_memory(error, a->total);
}

static yolo_status tr_write_args(tr_run *run, yolo_error *error) {
    str out = {0};
    yaml_write(&out, run->model.train_args);
    yolo_status status = out.failed ? err_memory(error, (uint64_t)out.length) : path_write(tr_path(run, "args.yaml"), out.text, (size_t)out.length, false, error);
    str_free(&out);
    return status;
}

/* ---- charts ---- */

static const char *const *tr_names(const tr_run *run) { return (const char *const *)run->names; }

static yolo_box tr_box(const loss_target *t) { return (yolo_box){t->box[0], t->box[1], t->box[2], t->box[3], -1, t->class_id}; }

/* A chart that cannot be drawn is told of; the training goes on. */
static void tr_excuse(const tr_run *run, yolo_status status, const yolo_error *error) {
    if (status != YOLO_OK) log_write(&run->log, YOLO_LOG_WARNING, "%s", error->message);
}

static void tr_draw_sheet(tr_run *run, const char *name, const plot_picture *pictures, int count, float confidence) {
    const plot_sheet sheet = {pictures, count, tr_names(run), run->class_count, confidence};
    yolo_error error;
    tr_excuse(run, plot_batch(tr_path(run, name), &sheet, &error), &error);
}

/* train_batchN.jpg: what the network is shown. */
static void tr_sheet(tr_run *run, const dl_batch *batch, int64_t number) {
    plot_picture pictures[PLOT_SHEET];
    const int count = YOLO_MIN(batch->n, PLOT_SHEET);
    const size_t bytes = (size_t)batch->h * (size_t)batch->w * 3;
    char name[48];
    yolo_box *boxes = mem_array((uint64_t)batch->first[batch->n], sizeof *boxes);
    if (!boxes) return;
    for (int i = 0; i < batch->first[batch->n]; i++) boxes[i] = tr_box(&batch->targets[i]);
    for (int i = 0; i < count; i++)
        pictures[i] = (plot_picture){{batch->pixels + (size_t)i * bytes, batch->w, batch->h}, boxes + batch->first[i],
                                     batch->first[i + 1] - batch->first[i], path_name(run->loader->items[batch->pictures[i]].path)};
    snprintf(name, sizeof name, "train_batch%lld.jpg", (long long)number);
    tr_draw_sheet(run, name, pictures, count, -1);
    mem_free(boxes);
}

/* val_batchN_labels.jpg and val_batchN_pred.jpg. */
static void tr_validation_sheet(void *user, const ev_sheet *sheet) {
    tr_run *run = user;
    plot_picture pictures[EV_SHEET];
    const size_t bytes = (size_t)sheet->h * (size_t)sheet->w * 3;
    int64_t total = 0, at = 0;
    char name[48];
    for (int i = 0; i < sheet->count; i++) total += sheet->target_counts[i];
    yolo_box *boxes = mem_array((uint64_t)total, sizeof *boxes);
    if (!boxes) return;
    for (int i = 0; i < sheet->count; i++) {
        pictures[i] = (plot_picture){{sheet->pixels + (size_t)i * bytes, sheet->w, sheet->h}, boxes + at, (int)sheet->target_counts[i], path_name(sheet->paths[i])};
        for (int64_t k = 0; k < sheet->target_counts[i]; k++) boxes[at++] = tr_box(&sheet->targets[i][k]);
    }
    snprintf(name, sizeof name, "val_batch%d_labels.jpg", sheet->batch);
    tr_draw_sheet(run, name, pictures, sheet->count, -1);
    for (int i = 0; i < sheet->count; i++) {
        pictures[i].boxes = sheet->boxes[i].items;
        pictures[i].box_count = sheet->boxes[i].count;
    }
    snprintf(name, sizeof name, "val_batch%d_pred.jpg", sheet->batch);
    tr_draw_sheet(run, name, pictures, sheet->count, 0.25f);
    mem_free(boxes);
}

/* labels.jpg: where the training boxes lie, how large they are, how many there are of each class. */
static void tr_plot_labels(tr_run *run) {
    const dl_loader *loader = run->loader;
    yolo_error error;
    yolo_box *boxes = mem_array((uint64_t)loader->label_count, sizeof *boxes);
    if (!boxes) return;
    for (int64_t i = 0; i < loader->label_count; i++) {
        const aug_label *l = &loader->labels[i];
        boxes[i] = (yolo_box){l->x - l->w / 2, l->y - l->h / 2, l->x + l->w / 2, l->y + l->h / 2, 1, l->class_id};
    }
    tr_excuse(run, plot_labels(tr_path(run, "labels.jpg"), boxes, loader->label_count, loader->instances, tr_names(run), run->class_count, &error), &error);
    mem_free(boxes);
}

/* The curves of the last look. */
static yolo_status tr_plot_curves(tr_run *run, const int *ids, yolo_error *error) {
    const ev_curve *curves = run->outcome.curves;
    const int rows = run->outcome.metrics.class_count;
    const size_t stride = sizeof *curves / sizeof(double);
    const struct { const char *file, *metric; const double *y; const double *ap; } charts[] = {
        {"BoxPR_curve.png", "Precision", curves->envelope, curves->ap}, {"BoxF1_curve.png", "F1", curves->f1, NULL},
        {"BoxP_curve.png", "Precision", curves->precision, NULL}, {"BoxR_curve.png", "Recall", curves->recall, NULL}};
    yolo_status status = YOLO_OK;
    for (int i = 0; i < YOLO_COUNT(charts) && status == YOLO_OK; i++) {
        const plot_curve_set set = {charts[i].metric, charts[i].y, stride, rows, EV_POINTS, ids, charts[i].ap, stride, tr_names(run), run->class_count};
        status = plot_curves(tr_path(run, charts[i].file), &set, error);
    }
    return status;
}

/* Curves and confusion matrices of the last look, and the course of the run. */
static void tr_plot_outcome(tr_run *run) {
    const yolo_metrics *m = &run->outcome.metrics;
    const ev_matrix *matrix = &run->outcome.matrix;
    yolo_error error;
    int *ids = mem_array((uint64_t)YOLO_MAX(m->class_count, 1), sizeof *ids);
    if (!ids) return;
    for (int i = 0; i < m->class_count; i++) ids[i] = m->classes[i].class_id;
    if (m->class_count) tr_excuse(run, tr_plot_curves(run, ids, &error), &error);
    mem_free(ids);
    tr_excuse(run, plot_confusion(tr_path(run, "confusion_matrix.png"), matrix->cells, tr_names(run), run->class_count, false, &error), &error);
    tr_excuse(run, plot_confusion(tr_path(run, "confusion_matrix_normalized.png"), matrix->cells, tr_names(run), run->class_count, true, &error), &error);
}

/* ---- steps ---- */

static bool tr_mosaic(const tr_run *run) {
    const int close = run->options.close_mosaic;
    return !close || run->done < run->epochs - close;
}

/* The input's size for a batch: its own, or drawn anew with multi_scale; then *targets are copies at that size.
   REF ultralytics/models/yolo/detect/train.py preprocess_batch */
static yolo_status tr_input_size(tr_run *run, const dl_batch *batch, int64_t number, int *h, int *w, const loss_target **targets, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    const int stride = run->model.net.max_stride;
    *h = batch->h;
    *w = batch->w;
    *targets = batch->targets;
    if (o->multi_scale <= 0) return YOLO_OK;
    if (!mem_grow(&run->scaled, &run->scaled_capacity, batch->first[batch->n], sizeof *run->scaled)) return err_memory(error, sizeof *run->scaled);
    dl_scaled_size(batch, dl_scale(o->seed, (int)run->done, number, run->imgsz, o->multi_scale, stride), stride, h, w);
    dl_scaled_targets(batch, run->scaled, *h, *w);
    *targets = run->scaled;
    return YOLO_OK;
}

/* Forward, loss and backward of one batch. */
static yolo_status tr_batch(tr_run *run, const dl_batch *batch, int64_t number, loss_parts *losses, yolo_error *error) {
    const net *net = &run->model.net;
    const yolo_train_options *o = &run->options;
    ten heads[NET_MAX_LEVELS], gradients[NET_MAX_LEVELS];
    const loss_target *targets;
    int h, w;
    yolo_status status = tr_input_size(run, batch, number, &h, &w, &targets, error);
    if (status == YOLO_OK) status = grad_shape(run->grad, batch->n, h, w, error);
    if (status != YOLO_OK) return status;
    dl_floats(batch, grad_input(run->grad), h, w, run->pool);
    for (int l = 0; l < net->level_count; l++) {
        heads[l] = grad_head(run->grad, l);
        gradients[l] = grad_head_gradient(run->grad, l);
    }
    const size_t bytes = loss_workspace(net, heads, batch->first[batch->n]);
    if (!run_reserve(&run->loss_memory, run->loss_bytes, bytes)) return err_memory(error, bytes);
    run->loss_bytes = YOLO_MAX(run->loss_bytes, bytes);
    grad_forward(run->grad, run->model.params);
    *losses = loss_detect(net, heads, gradients, targets, batch->first, (loss_gains){(float)o->box, (float)o->cls, (float)o->dfl},
                          run->loss_memory, run->pool);
    grad_backward(run->grad, run->gradients);
    return YOLO_OK;
}

static void tr_log_head(const tr_run *run) {
    log_write(&run->log, YOLO_LOG_INFO, "%11s%11s%11s%11s%11s%11s%11s%9s%10s", "Epoch", "GPU_mem", "box_loss", "cls_loss", "dfl_loss", "Instances", "Size", "img/s", "left");
}

/* The line of an epoch after `done` of its batches. */
static void tr_log_line_of(const tr_run *run, yolo_log_level level, const dl_batch *batch, int64_t done, int64_t batches) {
    char epoch[32], left[32];
    const loss_parts *mean = &run->losses;
    double now = os_clock() - run->start, share = (run->done - run->first_epoch + (double)done / (double)batches) / (run->epochs - run->first_epoch);
    snprintf(epoch, sizeof epoch, "%d/%d", (int)run->done + 1, (int)run->epochs);
    log_duration(share > 0 ? now / share * (1 - share) : 0, left, sizeof left);
    log_write(&run->log, level, "%11s%11s%11.4g%11.4g%11.4g%11d%11d%9.1f%10s", epoch, "0G", mean->box, mean->cls, mean->dfl, batch->first[batch->n],
              YOLO_MAX(batch->h, batch->w), run->trained_seconds > 0 ? (double)run->trained / run->trained_seconds : 0, left);
}

/* Tells how far the epoch is: a line that rewrites itself, or percent of the whole run. */
static void tr_progress(tr_run *run, const dl_batch *batch, int64_t done, int64_t batches) {
    if (run->options.progress == YOLO_PROGRESS_PLAIN) {
        log_meter_step(&run->meter, (int64_t)(run->done - run->first_epoch) * batches + done);
    } else if (run->options.progress == YOLO_PROGRESS_BAR && (os_clock() - run->shown > 0.1)) {
        run->shown = os_clock();
        tr_log_line_of(run, YOLO_LOG_PROGRESS, batch, done, batches);
    }
}

static bool tr_is_finite(const loss_parts *losses) { return isfinite(losses->box) && isfinite(losses->cls) && isfinite(losses->dfl); }

/* Is the batch one of those that train_batchN.jpg shows: the first three, and the first three without mosaic? */
static bool tr_wants_sheet(const tr_run *run, int64_t number, int64_t batches) {
    const int64_t closed = ((int64_t)run->epochs - run->options.close_mosaic) * batches;
    return run->options.plots && (number < TR_SHEETS || (run->options.close_mosaic && number >= closed && number < closed + TR_SHEETS));
}

/* All batches of an epoch. *lost: a loss was not finite. */
static yolo_status tr_train_epoch(tr_run *run, bool *lost, yolo_error *error) {
    const int64_t batches = dl_batch_count(run->loader);
    dl_batch *batch, *last = NULL;
    *lost = false;
    run->losses = (loss_parts){0, 0, 0};
    yolo_status status = dl_start(run->loader, (int)run->done, tr_mosaic(run));
    for (int64_t i = 0; i < batches && status == YOLO_OK && !*lost; i++) {
        const int64_t number = (int64_t)run->done * batches + i;
        const double start = os_clock();
        loss_parts losses = {0, 0, 0};
        opt_schedule(run->opt, number, (int)run->done);
        if (err_interrupted) return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted in epoch %d of %d", (int)run->done + 1, (int)run->epochs);
        if ((status = dl_next(run->loader, &batch, error)) != YOLO_OK || !batch) break;
        if (tr_wants_sheet(run, number, batches)) tr_sheet(run, batch, number);
        if ((status = tr_batch(run, batch, number, &losses, error)) != YOLO_OK) break;
        *lost = !tr_is_finite(&losses);
        run->losses.box += (losses.box - run->losses.box) / (double)(i + 1);
        run->losses.cls += (losses.cls - run->losses.cls) / (double)(i + 1);
        run->losses.dfl += (losses.dfl - run->losses.dfl) / (double)(i + 1);
        if (!*lost && opt_due(run->opt)) opt_step(run->opt, run->model.params, run->gradients, run->pool);
        run->trained += batch->n;
        run->trained_seconds += os_clock() - start;
        tr_progress(run, batch, i + 1, batches);
        last = batch;
    }
    if (status == YOLO_OK && !*lost && last) tr_log_line_of(run, YOLO_LOG_INFO, last, batches, batches);
    return status;
}

/* ---- validation ---- */

static void tr_log_metrics_head(const tr_run *run) {
    log_write(&run->log, YOLO_LOG_INFO, "%22s%11s%11s%11s%11s%11s%11s", "Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)");
}

static void tr_log_metrics(const tr_run *run, const char *name, int images, int instances, double p, double r, double map50, double map) {
    log_write(&run->log, YOLO_LOG_INFO, "%22.60s%11d%11d%11.3g%11.3g%11.3g%11.3g", name, images, instances, p, r, map50, map);
}

/* Looks at the validation pictures with the weights `params`. */
static yolo_status tr_look(tr_run *run, const float *params, const ev_extra *extra, ev_outcome *out, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    yolo_val_options options = {.imgsz = run->imgsz, .batch = run->batch * 2, .conf = 0.001f, .iou = (float)o->iou, .max_det = o->max_det, .rect = true,
                                .single_cls = o->single_cls, .progress = o->progress == YOLO_PROGRESS_BAR ? YOLO_PROGRESS_BAR : YOLO_PROGRESS_NONE, .log = run->log};
    yolo_status status = run->weights ? run_weights_refresh(run->weights, params, run->pool, error)
                                      : run_weights_create(&run->weights, &run->model.net, params, run->isa, error);
    if (status != YOLO_OK) return status;
    pipe_job job = {.net = &run->model.net, .weights = run->weights, .pool = run->pool, .threads = thr_pool_size(run->pool)};
    return ev_check(&job, &run->validation_set, &options, extra, out, error);
}

/* Validation of an epoch: metrics, losses, fitness. */
static yolo_status tr_validate(tr_run *run, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    const loss_gains gains = {(float)o->box, (float)o->cls, (float)o->dfl};
    const ev_extra extra = {.gains = &gains};
    ev_outcome_free(&run->outcome);
    run->checked = false;
    yolo_status status = tr_look(run, run->opt->ema, &extra, &run->outcome, error);
    if (status != YOLO_OK) return status;
    const yolo_metrics *m = &run->outcome.metrics;
    run->checked = true;
    tr_log_metrics_head(run);
    tr_log_metrics(run, "all", m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95);
    return YOLO_OK;
}

/* ---- epochs ---- */

/* Brings back the state of last.pt after a loss that is not finite, with half the learning rate. */
static yolo_status tr_recover(tr_run *run, yolo_error *error) {
    const char *last = tr_path(run, "weights/last.pt");
    double rate = run->rate / 2;
    pt_model model;
    if (++run->attempts > TR_ATTEMPTS)
        return err_set(error, YOLO_ERROR_FORMAT, "the loss of epoch %d is not finite for the %dth time; last.pt holds epoch %d: check the labels, or use a lower lr0",
                       (int)run->done + 1, run->attempts, (int)run->done);
    log_write(&run->log, YOLO_LOG_WARNING, "the loss is not finite: epoch %d begins anew from last.pt with the learning rate times %g", (int)run->done + 1, rate);
    yolo_status status = pt_read(last, &model, error);
    if (status == YOLO_OK) {
        run->rate = rate;
        status = tr_restore(run, &model, last, error);
        run->rate = rate;
        for (int i = 0; i < run->opt->group_count; i++) run->opt->groups[i].initial_lr = run->initial_lr[i] * rate;
    }
    pt_free(&model);
    return status;
}

/* Is the epoch just done the best so far? Keeps count of the epochs without improvement. */
static bool tr_is_best(tr_run *run) {
    const double fitness = run->outcome.fitness;
    if (!run->checked) return run->best_fitness < 0;
    if (fitness > run->best_fitness || run->best_fitness <= 0) run->patience_epoch = run->done;
    if (fitness < run->best_fitness) return false;
    run->best_fitness = fitness;
    return true;
}

/* With time= the number of epochs follows the time they take. */
static bool tr_time_is_up(tr_run *run) {
    const double hours = run->options.time;
    if (hours <= 0) return false;
    run->epochs = YOLO_MAX(ceil(hours * 3600 / (run->seconds / run->done)), run->done);
    opt_set_epochs(run->opt, (int)run->epochs);
    return run->seconds > hours * 3600 || run->done >= run->epochs;
}

/* Everything after the last batch of an epoch. *stop: it was the last epoch. */
static yolo_status tr_end_epoch(tr_run *run, bool *stop, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    char name[64];
    run->attempts = 0;
    run->checked = false;
    const bool final = run->done + 1 >= run->epochs;
    yolo_status status = run->validation && (o->val || final) ? tr_validate(run, error) : YOLO_OK;
    if (status != YOLO_OK) return status;
    run->done++;
    run->seconds += os_clock() - run->epoch_start;
    run->epoch_start = os_clock();
    status = tr_csv_row(run, error);
    *stop = final;
    if (tr_is_best(run)) {
        run->best_epoch = run->done;
        if (status == YOLO_OK && o->save) status = tr_save_average(run, "weights/best.pt", error);
    }
    if (run->checked && o->patience && run->done - run->patience_epoch >= o->patience) {
        *stop = true;
        log_write(&run->log, YOLO_LOG_INFO, "no improvement in %d epochs: stopped early, the best is epoch %d", o->patience, (int)run->best_epoch);
    }
    *stop |= tr_time_is_up(run);
    snprintf(name, sizeof name, "weights/epoch%d.pt", (int)run->done - 1);
    if (status == YOLO_OK && o->save_period > 0 && ((int)run->done - 1) % o->save_period == 0) status = tr_save_average(run, name, error);
    if (status == YOLO_OK && (o->save || *stop)) status = tr_save_last(run, error);
    return status;
}

static yolo_status tr_epochs(tr_run *run, yolo_error *error) {
    yolo_status status = YOLO_OK;
    bool stop = run->done >= run->epochs, lost;
    run->first_epoch = run->done;
    run->start = run->epoch_start = os_clock();
    run->meter = log_meter_start(&run->log, run->options.progress, "train", "Progress", (int64_t)(run->epochs - run->done) * dl_batch_count(run->loader));
    while (!stop && status == YOLO_OK) {
        tr_log_head(run);
        status = tr_train_epoch(run, &lost, error);
        if (status == YOLO_OK) status = lost ? tr_recover(run, error) : tr_end_epoch(run, &stop, error);
    }
    return status;
}

/* ---- a whole run ---- */

static yolo_status tr_make_loader(tr_run *run, uint64_t cache, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    dl_options options = {.imgsz = run->imgsz, .batch = run->batch, .stride = run->model.net.max_stride, .workers = YOLO_MIN(o->workers, os_core_count()), .pool = run->pool, .rect = o->rect,
        .shuffle = !o->rect, .augment = true, .single_cls = o->single_cls, .seed = o->seed, .cache_bytes = cache, .fraction = o->fraction,
        .classes = o->classes, .class_count = o->class_count, .log = run->log,
        .augmentation = {.hsv_h = o->hsv_h, .hsv_s = o->hsv_s, .hsv_v = o->hsv_v, .degrees = o->degrees, .translate = o->translate,
            .scale = o->scale, .shear = o->shear, .perspective = o->perspective, .flipud = o->flipud, .fliplr = o->fliplr, .bgr = o->bgr,
            .mosaic = o->mosaic, .mixup = o->mixup, .cutmix = o->cutmix}};
    yolo_status status = dl_create(&run->loader, run->train, run->data.class_count, &options, error);
    if (status == YOLO_OK) run->pictures = (double)run->loader->pictures;
    return status;
}

static yolo_status tr_make_optimizer(tr_run *run, yolo_error *error) {
    yolo_train_options *o = &run->options;
    opt_settings settings = {.kind = OPT_AUTO, .lr0 = o->lr0, .lrf = o->lrf, .momentum = o->momentum, .weight_decay = o->weight_decay,
        .warmup_epochs = o->warmup_epochs, .warmup_momentum = o->warmup_momentum, .warmup_bias_lr = o->warmup_bias_lr, .cos_lr = o->cos_lr,
        .timed = o->time > 0, .epochs = (int)run->epochs, .batch = run->batch, .nbs = o->nbs, .batches = dl_batch_count(run->loader),
        .pictures = run->loader->pictures, .class_count = run->class_count};
    if (o->optimizer && *o->optimizer) opt_kind_of(o->optimizer, &settings.kind);
    const bool automatic = settings.kind == OPT_AUTO;
    yolo_status status = opt_create(&run->opt, &run->model.net, &settings, run->frozen, error);
    if (status != YOLO_OK) return status;
    const opt_settings *chosen = &run->opt->settings;
    o->optimizer = opt_kind_name(chosen->kind);
    o->lr0 = chosen->lr0;
    o->warmup_bias_lr = chosen->warmup_bias_lr;
    opt_begin(run->opt, run->model.params);
    for (int i = 0; i < run->opt->group_count; i++) run->initial_lr[i] = run->opt->groups[i].initial_lr;
    log_write(&run->log, YOLO_LOG_INFO, "optimizer: %s%s, lr0 %g, momentum %g, weight decay %g, a step every %d batches after the warm-up", o->optimizer,
              automatic ? " (chosen by auto)" : "", o->lr0, run->opt->start_momentum, o->weight_decay, run->opt->nominal);
    return YOLO_OK;
}

static yolo_status tr_make_pass(tr_run *run, yolo_error *error) {
    const net *net = &run->model.net;
    const int pictures = (int)YOLO_CLAMP(run->loader->pictures, 1, run->batch);
    yolo_status status = grad_create(&run->grad, net, run->isa, run->pool, run->frozen, pictures, run->largest, run->largest, error);
    if (status != YOLO_OK) return status;
    run->gradients = mem_array((uint64_t)net->param_elements, sizeof *run->gradients);
    return run->gradients ? YOLO_OK : err_memory(error, (uint64_t)net->param_elements * sizeof *run->gradients);
}

static yolo_status tr_open_validation(tr_run *run, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    if (!run->validation) return YOLO_OK;
    const ev_labels labels = {.data_classes = run->data.class_count, .net_classes = run->class_count, .single_cls = o->single_cls,
                              .classes = o->classes, .class_count = o->class_count};
    yolo_status status = ev_set_open(&run->validation_set, run->validation, &labels, true, &run->log, error);
    if (status == YOLO_OK && !run->validation_set.count) {
        log_write(&run->log, YOLO_LOG_WARNING, "none of the %lld validation pictures can be read; training goes on without validation", (long long)run->validation->count);
        run->validation = NULL;
    }
    return status;
}

static void tr_log_start(const tr_run *run) {
    static const char *const isas[] = {"portable", "AVX2", "AVX-512"};
    const yolo_train_options *o = &run->options;
    log_write(&run->log, YOLO_LOG_INFO, "yolo " YOLO_VERSION ", CPU (%s), %d thread%s; model %s, data %s", isas[run->isa], thr_pool_size(run->pool),
              thr_pool_size(run->pool) > 1 ? "s" : "", o->model, o->data);
}

/* The summary of the network, a line of the log each. */
static yolo_status tr_log_network(const tr_run *run, yolo_error *error) {
    str text = {0};
    net_summary(&run->model.net, &text);
    if (text.failed) {
        str_free(&text);
        return err_memory(error, 65536);
    }
    for (char *line = text.text, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end) *end++ = 0;
        else end = line + strlen(line);
        log_write(&run->log, YOLO_LOG_INFO, "%s", line);
    }
    str_free(&text);
    return YOLO_OK;
}

/* The checkpoint to go on from: its options, and its folder as the run's. */
static yolo_status tr_prepare_resume(tr_run *run, pt_model *last, yolo_error *error) {
    const char *path;
    yolo_status status = tr_find_last(run, &path, error);
    if (status == YOLO_OK) status = pt_read(path, last, error);
    if (status != YOLO_OK) return status;
    if (!last->state) return tr_no_state(path, error);
    tr_take_options(run, last);
    run->last = path;
    char *weights = path_parent(path);
    run->folder = weights ? path_parent(weights) : NULL;
    mem_free(weights);
    return run->folder ? YOLO_OK : err_memory(error, 4096);
}

/* Number of epochs: as asked for, as before, or 100. */
static yolo_status tr_settle_epochs(tr_run *run, const pt_model *last, yolo_error *error) {
    double before = last->state ? val_number(val_get(last->state->numbers, "epochs"), 0) : 0;
    double done = last->state ? val_number(val_get(last->state->numbers, "epochs_done"), 0) : 0;
    if (!run->options.epochs) run->options.epochs = before >= 1 && before < 1e6 ? (int)before : 100;
    run->epochs = run->options.epochs;
    if (!last->state || done < run->epochs) return YOLO_OK;
    return err_set(error, YOLO_ERROR_USAGE, "%s: all of its %d epochs are done; to go on, give more with epochs=", run->last, (int)done);
}

static yolo_status tr_new_folder(tr_run *run, yolo_error *error) {
    const yolo_train_options *o = &run->options;
    return path_run_folder(o->project && *o->project ? o->project : "runs/detect", o->name && *o->name ? o->name : "train", o->exist_ok, &run->folder, error);
}

/* Everything before the first epoch. */
static yolo_status tr_set_up(tr_run *run, pt_model *last, yolo_error *error) {
    uint64_t cache = 0;
    const yolo_train_options *o = &run->options;
    yolo_status status = tr_open_data(run, error);
    if (status == YOLO_OK) status = tr_open_model(run, last, error);
    const int stride = status == YOLO_OK ? run->model.net.max_stride : 32;
    run->imgsz = (o->imgsz + stride - 1) / stride * stride;
    run->largest = (int)(run->imgsz * (1 + o->multi_scale) + stride - 1) / stride * stride;
    if (status == YOLO_OK) status = tr_log_network(run, error);
    if (status == YOLO_OK) status = tr_freeze(run, error);
    if (status == YOLO_OK) status = tr_plan(run, &cache, error);
    if (status == YOLO_OK) status = tr_make_loader(run, cache, error);
    if (status == YOLO_OK) status = tr_open_validation(run, error);
    if (status == YOLO_OK) status = tr_make_optimizer(run, error);
    if (status == YOLO_OK) status = tr_make_pass(run, error);
    if (status == YOLO_OK && last->state) status = tr_restore(run, last, run->last, error);
    if (o->time <= 0) run->epochs = o->epochs;
    if (status == YOLO_OK) opt_set_epochs(run->opt, (int)run->epochs);
    if (status == YOLO_OK) status = tr_make_args(run, error);
    if (status == YOLO_OK) status = tr_write_args(run, error);
    if (status == YOLO_OK) status = tr_csv_begin(run, error);
    if (status == YOLO_OK && o->plots) tr_plot_labels(run);
    return status;
}

/* The last look, with the weights of best.pt as they are in the file: table, charts and sheets. */
static yolo_status tr_final(tr_run *run, yolo_train_report *report, yolo_error *error) {
    const char *best = tr_path(run, "weights/best.pt");
    const ev_extra extra = {.curves = run->options.plots, .sheet = run->options.plots ? tr_validation_sheet : NULL, .user = run};
    pt_model model;
    ev_outcome_free(&run->outcome);
    if (!run->validation || !run->options.save) return YOLO_OK;
    log_write(&run->log, YOLO_LOG_INFO, "validating %s", best);
    yolo_status status = pt_read(best, &model, error);
    if (status == YOLO_OK) status = tr_look(run, model.params, &extra, &run->outcome, error);
    pt_free(&model);
    if (status != YOLO_OK) return status;
    const yolo_metrics *m = &run->outcome.metrics;
    tr_log_metrics_head(run);
    tr_log_metrics(run, "all", m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95);
    for (int i = 0; i < m->class_count && m->class_count > 1; i++) {
        const yolo_class_metrics *c = &m->classes[i];
        tr_log_metrics(run, run->names[c->class_id], c->images, c->instances, c->precision, c->recall, c->map50, c->map50_95);
    }
    report->precision = m->precision;
    report->recall = m->recall;
    report->map50 = m->map50;
    report->map50_95 = m->map50_95;
    if (run->options.plots) tr_plot_outcome(run);
    return YOLO_OK;
}

static void tr_report(const tr_run *run, yolo_train_report *report) {
    snprintf(report->folder, sizeof report->folder, "%s", run->folder ? run->folder : "");
    report->epochs = (int)run->done;
    report->best_epoch = (int)run->best_epoch;
    report->seconds = run->seconds;
    report->pictures_per_second = run->trained_seconds > 0 ? (double)run->trained / run->trained_seconds : 0;
}

static void tr_close(tr_run *run) {
    dl_destroy(run->loader);
    grad_destroy(run->grad);
    run_weights_destroy(run->weights);
    opt_destroy(run->opt);
    ev_outcome_free(&run->outcome);
    ev_set_close(&run->validation_set);
    data_close(&run->data);
    mem_free(run->gradients);
    mem_free(run->loss_memory);
    mem_free(run->scaled);
    mem_free(run->frozen);
    thr_pool_destroy(run->pool);
    pt_free(&run->model);
    if (run->log_file) fclose(run->log_file);
    mem_free(run->folder);
    arena_free(&run->memory);
}

/* From the folder to the last chart. `last` is the checkpoint to go on from, empty for a new run. */
static yolo_status tr_train_run(tr_run *run, pt_model *last, yolo_train_report *report, yolo_error *error) {
    yolo_error reason;
    yolo_status status = tr_settle_epochs(run, last, error);
    if (status == YOLO_OK) status = tr_check_options(&run->options, error);
    if (status == YOLO_OK) status = tr_open_folder(run, error);
    if (status != YOLO_OK) return status;
    tr_log_start(run);
    status = tr_set_up(run, last, error);
    pt_free(last);
    if (status == YOLO_OK && !run->done && run->options.save) status = tr_save_last(run, error);
    if (status == YOLO_OK) status = tr_epochs(run, error);
    if (status == YOLO_OK) status = tr_final(run, report, error);
    if (status == YOLO_OK && run->options.plots) tr_excuse(run, plot_results(tr_path(run, "results.csv"), tr_path(run, "results.png"), &reason), &reason);
    if (status == YOLO_ERROR_INTERRUPTED && run->done > 0)
        log_write(&run->log, YOLO_LOG_INFO, "%d epochs are saved; to go on: yolo train resume=true model=%s", (int)run->done, tr_path(run, "weights/last.pt"));
    return status;
}

/* The whole of yolo_train; options.device has been checked. */
static yolo_status tr_train(const yolo_train_options *options, op_isa isa, yolo_train_report *report, yolo_error *error) {
    tr_run *run = mem_array(1, sizeof *run);
    pt_model last = {0};
    memset(report, 0, sizeof *report);
    if (!run) return err_memory(error, sizeof *run);
    *run = (tr_run){.options = *options, .outside = options->log, .isa = isa, .item = "item", .best_fitness = -1, .rate = 1};
    run->log = (yolo_log){tr_log_line, run};
    run->pool = thr_pool_create(options->threads ? options->threads : os_core_count());
    yolo_status status = run->pool ? YOLO_OK : err_memory(error, sizeof *run->pool);
    if (status == YOLO_OK)
        status = options->resume ? tr_prepare_resume(run, &last, error) : tr_new_folder(run, error);
    if (status == YOLO_OK) status = tr_train_run(run, &last, report, error);
    tr_report(run, report);
    pt_free(&last);
    tr_close(run);
    mem_free(run);
    return status;
}

/* ==== 26 dev_ bench_: devices and benchmark =====================================================================
   Looking at devices changes none of them. A GPU that is not there is reported with those that are. */

/* GPUs, or -1 with the reason. */
static int dev_gpu_count(char *reason, size_t size) {
    *reason = 0;
#ifdef YOLO_NO_CUDA
    snprintf(reason, size, "this program was built without CUDA");
    return -1;
#else
    return yg_device_count(reason, size);
#endif
}

static bool dev_gpu_get(int index, yg_device *device, char *reason, size_t size) {
#ifdef YOLO_NO_CUDA
    (void)index;
    (void)device;
    (void)reason;
    (void)size;
    return false;
#else
    return !yg_device_get(index, device, reason, size);
#endif
}

/* "no GPU detected (why)", or "2 GPU(s) detected (0: NVIDIA ..., 1: ...)". */
static void dev_describe_gpus(str *out) {
    char reason[512];
    int count = dev_gpu_count(reason, sizeof reason);
    if (count <= 0) str_format(out, "no GPU detected%s%s%s", *reason ? " (" : "", reason, *reason ? ")" : "");
    else str_format(out, "%d GPU(s) detected (", count);
    for (int i = 0; i < count; i++) {
        yg_device device;
        str_format(out, "%s%d: %s", i ? ", " : "", i, dev_gpu_get(i, &device, reason, sizeof reason) ? device.name : reason);
    }
    if (count > 0) str_add(out, ")");
}

/* Can a model run where device= says ("auto", "cpu", "0", "0,1", "cuda:0"; NULL = auto)? */
static yolo_status dev_check(const char *device, yolo_error *error) {
    if (!device || !*device || str_equal_fold(device, "auto") || str_equal_fold(device, "cpu")) return YOLO_OK;
    char reason[512];
    int count = dev_gpu_count(reason, sizeof reason);
    const char *p = !strncmp(device, "cuda:", 5) ? device + 5 : device;
    bool bracket = *p == '[';
    for (p += bracket; *p;) {
        char *end;
        long index = strtol(p, &end, 10);
        if (end == p || index < 0 || index > 9999 || (*end && *end != ',' && *end != ' ' && !(bracket && !strcmp(end, "]"))))
            return err_set(error, YOLO_ERROR_USAGE, "device=%s: expected auto, cpu, or GPU numbers such as 0 or 0,1", device);
        if (index >= YOLO_MAX(count, 0)) {
            str gpus = {0};
            dev_describe_gpus(&gpus);
            err_set(error, YOLO_ERROR_DEVICE, "GPU %ld not available: %s", index, gpus.failed ? reason : gpus.text);
            str_free(&gpus);
            return YOLO_ERROR_DEVICE;
        }
        for (p = end; *p == ',' || *p == ' ' || *p == ']';) p++;
    }
    return err_set(error, YOLO_ERROR_UNSUPPORTED, "device=%s: this version computes on the CPU only, use device=cpu", device);
}

static const char *dev_isa_name(op_isa isa) {
    static const char *const names[] = {"portable", "avx2", "avx512"};
    return names[isa];
}

static void dev_describe_cpu(str *out) {
    char brand[49] = "unknown CPU";
#ifdef YOLO_X86
    enum { EAX, EBX, ECX, EDX };
    unsigned r[4], base[4], more[4] = {0};
    op_cpuid(0, r);
    if (r[EAX] >= 7) op_cpuid(7, more);
    op_cpuid(1, base);
    op_cpuid(0x80000000u, r);
    for (unsigned i = 0; r[EAX] >= 0x80000004u && i < 3; i++) {
        unsigned words[4];
        op_cpuid(0x80000002u + i, words);
        memcpy(brand + 16 * i, words, 16);
    }
    brand[48] = 0;
#endif
    const char *start = brand;
    while (*start == ' ') start++;
    str_format(out, "CPU      %s, %d core(s) usable, %.1f GiB memory\n", start, os_core_count(), (double)os_memory_total() / 1073741824.0);
#ifdef YOLO_X86
    str_format(out, "         SSE2 %s, AVX2 %s, FMA %s, AVX-512 %s\n", base[EDX] >> 26 & 1 ? "yes" : "no", more[EBX] >> 5 & 1 ? "yes" : "no",
               base[ECX] >> 12 & 1 ? "yes" : "no", more[EBX] >> 16 & 1 ? "yes" : "no");
#endif
    str_format(out, "         kernels: %s\n", dev_isa_name(op_isa_best()));
}

static void dev_describe_nccl(str *out) {
#ifdef _WIN32
    const char *name = "nccl.dll";
#else
    const char *name = "libnccl.so.2";
#endif
    int version = 0;
    void *library = os_library_open(name), *symbol = library ? os_library_symbol(library, "ncclGetVersion") : NULL;
    int (*get_version)(int *);
    memcpy(&get_version, &symbol, sizeof symbol);
    if (!library) str_format(out, "NCCL     not found: %s is not on this system's library path\n", name);
    else if (!symbol || get_version(&version)) str_format(out, "NCCL     %s found, but it does not tell its version\n", name);
    else str_format(out, "NCCL     %s, version %d.%d.%d\n", name, version / 10000, version / 100 % 100, version % 100);
    if (library) os_library_close(library);
}

static void dev_describe_gpu(str *out, int index) {
    yg_device device;
    char reason[512];
    if (!dev_gpu_get(index, &device, reason, sizeof reason)) {
        str_format(out, "GPU %-4d %s\n", index, reason);
        return;
    }
    str_format(out, "GPU %-4d %s, %.1f GiB memory (%.1f free), compute capability %d.%d, %d multiprocessors", index, device.name,
               (double)device.memory_total / 1073741824.0, (double)device.memory_free / 1073741824.0, device.compute_major,
               device.compute_minor, device.multiprocessors);
    for (int peer = 0, first = 1; peer < 64; peer++)
        if (device.peer_access >> peer & 1) str_format(out, "%s%d", first ? ", reads directly: GPU " : ", ", peer), first = 0;
    str_add(out, "\n");
}

yolo_status yolo_devices(char **text, yolo_error *error) {
    str out = {0};
    char reason[512];
    *text = NULL;
    dev_describe_cpu(&out);
    int count = dev_gpu_count(reason, sizeof reason);
    if (count <= 0) str_format(&out, "GPU      none%s%s\n", *reason ? ": " : "", reason);
    for (int i = 0; i < count; i++) dev_describe_gpu(&out, i);
#ifndef YOLO_NO_CUDA
    int driver = 0, runtime = 0;
    yg_versions(&driver, &runtime);
    if (driver) str_format(&out, "Driver   CUDA %d.%d; this program was built with CUDA %d.%d\n", driver / 1000, driver % 1000 / 10,
                           runtime / 1000, runtime % 1000 / 10);
    else str_format(&out, "Driver   none; this program was built with CUDA %d.%d\n", runtime / 1000, runtime % 1000 / 10);
#endif
    dev_describe_nccl(&out);
    if (out.failed) {
        str_free(&out);
        return err_memory(error, 4096);
    }
    *text = out.text;
    return YOLO_OK;
}

yolo_bench_options yolo_bench_defaults(void) { return (yolo_bench_options){.imgsz = 640, .batch = 1, .repeats = 20}; }

static int bench_compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double bench_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, bench_compare);
    return count & 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* A line an operator: the median of each over the runs. */
static void bench_layers(const run_lane *lane, double *ms, int repeats, str *out) {
    const net *net = lane->net;
    double total = 0;
    for (int i = 0; i < net->op_count; i++) total += bench_median(ms + (size_t)i * (size_t)repeats, repeats);
    str_format(out, "%4s %5s  %-9s %-8s %16s %16s %9s %9s %6s\n", "op", "layer", "kind", "kernel", "in", "out", "ms", "GFLOP/s", "share");
    for (int i = 0; i < net->op_count; i++) {
        static const char *const kinds[] = {"conv", "maxpool", "upsample", "copy"};
        const net_op *op = &net->ops[i];
        double each = bench_median(ms + (size_t)i * (size_t)repeats, repeats), flops = net_op_flops(net, op, lane->n, lane->h, lane->w);
        ten in = run_view(lane, op->in), to = run_view(lane, op->out);
        char kernel[32] = "", from[32], into[32], rate[32] = "-";
        if (op->kernel) snprintf(kernel, sizeof kernel, "%dx%d/%d", op->kernel, op->kernel, op->stride);
        snprintf(from, sizeof from, "%dx%dx%d", in.h, in.w, in.c);
        snprintf(into, sizeof into, "%dx%dx%d", to.h, to.w, to.c);
        if (flops > 0 && each > 0) snprintf(rate, sizeof rate, "%.1f", flops / each * 1e-6);
        str_format(out, "%4d %5d  %-9s %-8s %16s %16s %9.3f %9s %5.1f%%\n", i, op->layer, kinds[op->kind], kernel, from, into, each, rate,
                   total > 0 ? 100 * each / total : 0);
    }
}

/* Runs `repeats` passes after one that is not counted; ms holds a row of repeats an operator and one for the whole. */
static yolo_status bench_run(run_lane *lane, int repeats, bool layers, double *ms, double *one, yolo_error *error) {
    int ops = lane->net->op_count;
    for (int i = -1; i < repeats; i++) {
        if (err_interrupted) return err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted after %d of %d runs", YOLO_MAX(i, 0), repeats);
        double start = os_clock();
        if (layers) run_forward_timed(lane, one);
        else run_forward(lane);
        if (i < 0) continue;
        ms[(size_t)ops * (size_t)repeats + (size_t)i] = (os_clock() - start) * 1000;
        for (int k = 0; layers && k < ops; k++) ms[(size_t)k * (size_t)repeats + (size_t)i] = one[k];
    }
    return YOLO_OK;
}

static void bench_report(const yolo_model *model, const run_lane *lane, const yolo_bench_options *options, double *ms, str *out) {
    const net *net = lane->net;
    double *whole = ms + (size_t)net->op_count * (size_t)options->repeats, flops = 0;
    double median = bench_median(whole, options->repeats); /* sorts */
    for (int i = 0; i < net->op_count; i++) flops += net_op_flops(net, &net->ops[i], lane->n, lane->h, lane->w);
    char size[32];
    snprintf(size, sizeof size, "%dx%d", lane->h, lane->w);
    if (options->layers) bench_layers(lane, ms, options->repeats, out);
    str_format(out, "%11s %6s %8s %9s %10s %9s %9s %8s %8s %9s\n", "size", "batch", "threads", "isa", "median ms", "min ms", "max ms", "img/s", "GFLOP/s", "peak MiB");
    str_format(out, "%11s %6d %8d %9s %10.2f %9.2f %9.2f %8.2f %8.1f %9.1f\n", size, lane->n, thr_pool_size(model->pool), dev_isa_name(model->isa), median,
               whole[0], whole[options->repeats - 1], 1000.0 * lane->n / median, flops / median * 1e-6, (double)os_peak_memory() / 1048576.0);
}

yolo_status yolo_bench(yolo_model *model, yolo_bench_options options, char **text, yolo_error *error) {
    const net *net = &model->checkpoint.net;
    int stride = net->max_stride, width = options.width ? options.width : options.imgsz;
    run_lane *lane = NULL;
    rng noise = {1, 0};
    str out = {0};
    *text = NULL;
    if (options.imgsz < 1 || width < 1 || options.batch < 1 || options.repeats < 1 || options.imgsz > 16384 || width > 16384)
        return err_set(error, YOLO_ERROR_USAGE, "bench: expected imgsz, width, batch and repeats of 1 or more, and at most 16384 pixels");
    int h = (options.imgsz + stride - 1) / stride * stride, w = (width + stride - 1) / stride * stride;
    double *ms = mem_array((uint64_t)(net->op_count + 1) * (uint64_t)options.repeats, sizeof *ms), *one = mem_array((uint64_t)net->op_count, sizeof *one);
    yolo_status status = ms && one ? run_lane_create(&lane, model->weights, net, model->pool, options.batch, h, w, error) : err_memory(error, 1 << 20);
    if (status == YOLO_OK) {
        float *input = run_lane_input(lane);
        for (int64_t i = 0; i < (int64_t)options.batch * h * w * 3; i++) input[i] = (float)rng_uniform(&noise);
        status = bench_run(lane, options.repeats, options.layers, ms, one, error);
    }
    if (status == YOLO_OK) bench_report(model, lane, &options, ms, &out);
    if (status == YOLO_OK && out.failed) status = err_memory(error, 1 << 16);
    if (status == YOLO_OK) *text = out.text;
    else str_free(&out);
    run_lane_destroy(lane);
    mem_free(ms);
    mem_free(one);
    return status;
}

/* ==== 27 demo_: drawn data set =====================================================================================
   Pictures of shapes with their labels: picture n is a function of seed and n alone. Only operations that IEEE 754
   rounds exactly are used (no sine, no power), so every machine draws the same bytes. What is labelled is circle,
   square, triangle, star, cross and ring, turned, of any size and colour, plain, framed or shaded; what is not, and
   makes it hard: uneven light, stripes, thin lines behind and in front, crumbs, noise, shapes that hide a part of each
   other or leave the picture by a part. */

static const char *const demo_names[] = {"circle", "square", "triangle", "star", "cross", "ring"};
enum { DEMO_CIRCLE, DEMO_SQUARE, DEMO_TRIANGLE, DEMO_STAR, DEMO_CROSS, DEMO_RING, DEMO_KINDS, DEMO_MOST_SHAPES = 6, DEMO_GRID = 4 };

/* Corners on a circle of radius 1. */
static const struct { int count; double at[12][2]; } demo_corners[DEMO_KINDS] = {
    [DEMO_SQUARE] = {4, {{-0.75, -0.75}, {0.75, -0.75}, {0.75, 0.75}, {-0.75, 0.75}}},
    [DEMO_TRIANGLE] = {3, {{0, -1}, {0.8660, 0.5}, {-0.8660, 0.5}}},
    [DEMO_STAR] = {10, {{0, -1}, {0.2469, -0.3398}, {0.9511, -0.3090}, {0.3994, 0.1298}, {0.5878, 0.8090}, {0, 0.42},
                        {-0.5878, 0.8090}, {-0.3994, 0.1298}, {-0.9511, -0.3090}, {-0.2469, -0.3398}}},
    [DEMO_CROSS] = {12, {{-0.3, -0.95}, {0.3, -0.95}, {0.3, -0.3}, {0.95, -0.3}, {0.95, 0.3}, {0.3, 0.3}, {0.3, 0.95}, {-0.3, 0.95},
                         {-0.3, 0.3}, {-0.95, 0.3}, {-0.95, -0.3}, {-0.3, -0.3}}},
};

typedef struct demo_shape {
    int kind;
    double x, y, radius, turn_x, turn_y; /* centre and size in pixels; the direction of its own x axis, length 1 */
    double light;                        /* how much brighter its one end is than its other */
    bool framed;
    uint8_t colour[3], frame[3];
    yolo_box box;
} demo_shape;

static double demo_between(rng *r, double low, double high) { return low + (high - low) * rng_uniform(r); }
static int demo_below(rng *r, int count) { return (int)(rng_uniform(r) * count); }
static uint8_t demo_byte(double value) { return (uint8_t)(YOLO_CLAMP(value, 0.0, 255.0) + 0.5); }

static void demo_colour(rng *r, uint8_t colour[3]) {
    for (int c = 0; c < 3; c++) colour[c] = (uint8_t)(rng_next(r) >> 56);
}

static int demo_contrast(const uint8_t a[3], const uint8_t b[3]) {
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2]);
}

/* A colour that stands out from `other`: the first good one of eight draws, else the best of them. */
static void demo_other_colour(rng *r, const uint8_t other[3], uint8_t colour[3]) {
    uint8_t drawn[3];
    int best = -1;
    for (int i = 0; i < 8 && best < 160; i++) {
        demo_colour(r, drawn);
        if (demo_contrast(drawn, other) <= best) continue;
        best = demo_contrast(drawn, other);
        memcpy(colour, drawn, 3);
    }
}

/* A direction: (1 - t^2, 2 t) / (1 + t^2) runs over half the circle for t in -1..1. */
static void demo_direction(rng *r, double *x, double *y) {
    double t = demo_between(r, -1, 1), sign = rng_next(r) & 1 ? 1 : -1;
    *x = sign * (1 - t * t) / (1 + t * t);
    *y = sign * 2 * t / (1 + t * t);
}

/* Is a point of the shape's own coordinates (radius 1, not turned) inside? */
static bool demo_inside(int kind, double u, double v) {
    double square = u * u + v * v;
    if (kind == DEMO_CIRCLE) return square <= 1;
    if (kind == DEMO_RING) return square <= 1 && square >= 0.55 * 0.55;
    bool inside = false;
    int count = demo_corners[kind].count;
    for (int i = 0, j = count - 1; i < count; j = i++) {
        const double *a = demo_corners[kind].at[i], *b = demo_corners[kind].at[j];
        if ((a[1] > v) != (b[1] > v) && u < (b[0] - a[0]) * (v - a[1]) / (b[1] - a[1]) + a[0]) inside = !inside;
    }
    return inside;
}

/* The box around a shape, within the picture. */
static yolo_box demo_box(const demo_shape *s, int width, int height) {
    double reach[4] = {-1, -1, 1, 1}; /* of circle and ring; left, top, right, bottom */
    int count = demo_corners[s->kind].count;
    for (int i = 0; i < count; i++) {
        const double *corner = demo_corners[s->kind].at[i];
        double x = corner[0] * s->turn_x - corner[1] * s->turn_y, y = corner[0] * s->turn_y + corner[1] * s->turn_x;
        reach[0] = i ? YOLO_MIN(reach[0], x) : x;
        reach[1] = i ? YOLO_MIN(reach[1], y) : y;
        reach[2] = i ? YOLO_MAX(reach[2], x) : x;
        reach[3] = i ? YOLO_MAX(reach[3], y) : y;
    }
    return (yolo_box){(float)YOLO_MAX(s->x + s->radius * reach[0], 0), (float)YOLO_MAX(s->y + s->radius * reach[1], 0),
                      (float)YOLO_MIN(s->x + s->radius * reach[2], width), (float)YOLO_MIN(s->y + s->radius * reach[3], height), 1, s->kind};
}

/* Does the box hide, or is it hidden by, too much of one placed before? */
static bool demo_crowded(const demo_shape *shapes, int count, const yolo_box *box) {
    for (int i = 0; i < count; i++) {
        const yolo_box *other = &shapes[i].box;
        float w = YOLO_MIN(box->x2, other->x2) - YOLO_MAX(box->x1, other->x1), h = YOLO_MIN(box->y2, other->y2) - YOLO_MAX(box->y1, other->y1);
        float area = YOLO_MIN((box->x2 - box->x1) * (box->y2 - box->y1), (other->x2 - other->x1) * (other->y2 - other->y1));
        if (w > 0 && h > 0 && w * h > 0.25f * area) return true;
    }
    return false;
}

/* Up to DEMO_MOST_SHAPES shapes with room for each; returns how many. */
static int demo_place(rng *r, demo_shape *shapes, const uint8_t ground[3], int width, int height) {
    int wanted = 1 + demo_below(r, DEMO_MOST_SHAPES), count = 0, side = YOLO_MIN(width, height);
    for (int tries = 0; count < wanted && tries < 40; tries++) {
        demo_shape *s = &shapes[count];
        double size = rng_uniform(r);
        s->kind = demo_below(r, DEMO_KINDS);
        s->radius = side * (0.075 + 0.2 * size * size);
        s->x = demo_between(r, 0.7 * s->radius, width - 0.7 * s->radius);
        s->y = demo_between(r, 0.7 * s->radius, height - 0.7 * s->radius);
        demo_direction(r, &s->turn_x, &s->turn_y);
        s->light = demo_between(r, 0, 70);
        s->framed = demo_below(r, 3) == 0;
        demo_other_colour(r, ground, s->colour);
        demo_other_colour(r, s->colour, s->frame);
        s->box = demo_box(s, width, height);
        if (!demo_crowded(shapes, count, &s->box)) count++;
    }
    return count;
}

static void demo_blend(uint8_t *pixel, const uint8_t colour[3], double light, double cover) {
    for (int c = 0; c < 3; c++) pixel[c] = demo_byte(pixel[c] + cover * (colour[c] + light - pixel[c]));
}

/* Sixteen points of each pixel decide how much of it is frame and how much is filling. */
static void demo_shape_draw(yolo_image *image, const demo_shape *s) {
    int left = YOLO_MAX((int)(s->x - s->radius) - 1, 0), right = YOLO_MIN((int)(s->x + s->radius) + 2, image->width);
    int top = YOLO_MAX((int)(s->y - s->radius) - 1, 0), bottom = YOLO_MIN((int)(s->y + s->radius) + 2, image->height);
    bool framed = s->framed && s->kind != DEMO_RING;
    for (int y = top; y < bottom; y++)
        for (int x = left; x < right; x++) {
            int whole = 0, inner = 0;
            for (int i = 0; i < DEMO_GRID * DEMO_GRID; i++) {
                double px = (x + (i % DEMO_GRID + 0.5) / DEMO_GRID - s->x) / s->radius, py = (y + (i / DEMO_GRID + 0.5) / DEMO_GRID - s->y) / s->radius;
                double u = px * s->turn_x + py * s->turn_y, v = py * s->turn_x - px * s->turn_y;
                whole += demo_inside(s->kind, u, v);
                inner += framed && demo_inside(s->kind, u * 1.35, v * 1.35);
            }
            uint8_t *pixel = image->pixels + ((size_t)y * (size_t)image->width + (size_t)x) * 3;
            double light = s->light * (x - s->x) / s->radius;
            if (whole) demo_blend(pixel, framed ? s->frame : s->colour, light, whole / (double)(DEMO_GRID * DEMO_GRID));
            if (inner) demo_blend(pixel, s->colour, light, inner / (double)(DEMO_GRID * DEMO_GRID));
        }
}

/* Light from corner to corner, soft blotches, and on every third picture stripes; *ground is its colour on average. */
static void demo_ground(rng *r, yolo_image *image, uint8_t ground[3]) {
    enum { CELLS = 6 };
    double corners[4], blotches[CELLS + 1][CELLS + 1], step_x, step_y;
    int stripes = demo_below(r, 3) ? 0 : 4 + demo_below(r, 20);
    demo_colour(r, ground);
    demo_direction(r, &step_x, &step_y);
    for (int i = 0; i < 4; i++) corners[i] = demo_between(r, -45, 45);
    for (int i = 0; i < (CELLS + 1) * (CELLS + 1); i++) blotches[i / (CELLS + 1)][i % (CELLS + 1)] = demo_between(r, -18, 18);
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            double a = (double)x / image->width, b = (double)y / image->height;
            double light = (corners[0] * (1 - a) + corners[1] * a) * (1 - b) + (corners[2] * (1 - a) + corners[3] * a) * b;
            int i = (int)(a * CELLS), j = (int)(b * CELLS);
            double u = a * CELLS - i, v = b * CELLS - j;
            light += (blotches[j][i] * (1 - u) + blotches[j][i + 1] * u) * (1 - v) + (blotches[j + 1][i] * (1 - u) + blotches[j + 1][i + 1] * u) * v;
            if (stripes && (int)(x * step_x + y * step_y + 10000) % stripes < stripes / 2) light += 22;
            uint8_t *pixel = image->pixels + ((size_t)y * (size_t)image->width + (size_t)x) * 3;
            for (int c = 0; c < 3; c++) pixel[c] = demo_byte(ground[c] + light);
        }
}

/* What is nothing: thin lines and crumbs, fewer than so many. */
static void demo_clutter(rng *r, yolo_image *image, int most_lines, int most_crumbs) {
    int lines = demo_below(r, most_lines), crumbs = demo_below(r, most_crumbs);
    uint8_t colour[3];
    for (int i = 0; i < lines + crumbs; i++) {
        float x = (float)demo_between(r, 0, image->width), y = (float)demo_between(r, 0, image->height);
        bool line = i < lines;
        float to_x = line ? (float)demo_between(r, 0, image->width) : x, to_y = line ? (float)demo_between(r, 0, image->height) : y;
        demo_colour(r, colour);
        img_draw_stroke(image, x, y, to_x, to_y, (float)demo_between(r, 1, line ? 2.5 : 5), colour);
    }
}

static void demo_noise(rng *r, yolo_image *image) {
    double strength = demo_between(r, 0, 24);
    for (size_t i = 0; i < (size_t)image->width * (size_t)image->height * 3; i++) {
        uint64_t bits = rng_next(r);
        double bell = (double)(bits & 0xffff) + (double)(bits >> 16 & 0xffff) - 65535.0; /* two dice: a triangle */
        image->pixels[i] = demo_byte(image->pixels[i] + strength * bell / 65535.0);
    }
}

/* Picture `index` of a seed, with its boxes (room for DEMO_MOST_SHAPES). yolo_image_free the picture. */
static yolo_status demo_picture(uint64_t seed, int64_t index, yolo_image *image, yolo_box *boxes, int *count, yolo_error *error) {
    uint64_t key[2] = {seed, (uint64_t)index};
    rng r = {hash_bytes(key, sizeof key, 0), 0};
    demo_shape shapes[DEMO_MOST_SHAPES];
    uint8_t ground[3];
    image->width = 160 + 16 * demo_below(&r, 7);
    image->height = 160 + 16 * demo_below(&r, 5);
    image->pixels = mem_alloc((size_t)image->width * (size_t)image->height * 3);
    if (!image->pixels) return err_memory(error, (uint64_t)image->width * (uint64_t)image->height * 3);
    demo_ground(&r, image, ground);
    demo_clutter(&r, image, 8, 24);
    *count = demo_place(&r, shapes, ground, image->width, image->height);
    for (int i = 0; i < *count; i++) {
        demo_shape_draw(image, &shapes[i]);
        boxes[i] = shapes[i].box;
    }
    demo_clutter(&r, image, 3, 6);
    demo_noise(&r, image);
    return YOLO_OK;
}

/* Writes FOLDER/NNNNN.jpg and .txt of one picture. */
static yolo_status demo_write(const char *folder, uint64_t seed, int64_t index, yolo_error *error) {
    yolo_image image = {0};
    yolo_box boxes[DEMO_MOST_SHAPES];
    yolo_boxes list = {.items = boxes};
    str path = {0};
    yolo_status status = demo_picture(seed, index, &image, boxes, &list.count, error);
    str_format(&path, "%s/%05lld.jpg", folder, (long long)index);
    if (status == YOLO_OK && path.failed) status = err_memory(error, (uint64_t)strlen(folder));
    if (status == YOLO_OK) status = codec_write(path.text, &image, error);
    if (status == YOLO_OK) {
        memcpy(path.text + path.length - 3, "txt", 3);
        status = lbl_write(path.text, &list, image.width, image.height, false, error);
    }
    str_free(&path);
    mem_free(image.pixels);
    return status;
}

/* Pictures first .. first + count - 1 of a seed with their labels into a folder, which is made, and the names of the
   classes: classes.txt for prepare, data.yaml to validate on the folder as it is. */
static yolo_status demo_draw(const char *folder, uint64_t seed, int64_t first, int64_t count, yolo_error *error) {
    str names = {0}, yaml = {0};
    char *names_path = path_join(folder, "classes.txt"), *yaml_path = path_join(folder, "data.yaml");
    yolo_status status = path_make_directories(folder, error);
    for (int64_t i = first; i < first + count && status == YOLO_OK; i++)
        status = err_interrupted ? err_set(error, YOLO_ERROR_INTERRUPTED, "interrupted while pictures were drawn")
                                 : demo_write(folder, seed, i, error);
    str_add(&yaml, "train: .\nval: .\nnames:\n");
    for (int i = 0; i < DEMO_KINDS; i++) {
        str_format(&names, "%s\n", demo_names[i]);
        str_format(&yaml, "  %d: %s\n", i, demo_names[i]);
    }
    if (status == YOLO_OK && (!names_path || !yaml_path || names.failed || yaml.failed)) status = err_memory(error, 4096);
    if (status == YOLO_OK) status = path_write(names_path, names.text, (size_t)names.length, false, error);
    if (status == YOLO_OK) status = path_write(yaml_path, yaml.text, (size_t)yaml.length, false, error);
    mem_free(names_path);
    mem_free(yaml_path);
    str_free(&names);
    str_free(&yaml);
    return status;
}

/* ==== 28 yolo_: public interface ================================================================================ */

yolo_status yolo_image_read(yolo_image *image, const char *path, yolo_error *error) { return codec_read(path, image, error); }

yolo_status yolo_image_write(const yolo_image *image, const char *path, yolo_error *error) { return codec_write(path, image, error); }

void yolo_image_free(yolo_image *image) {
    mem_free(image->pixels);
    *image = (yolo_image){0};
}

void yolo_boxes_free(yolo_boxes *boxes) {
    mem_free(boxes->items);
    *boxes = (yolo_boxes){0};
}

/* The surest box is drawn last, on top. */
void yolo_image_draw_boxes(yolo_image *image, const yolo_model *model, const yolo_boxes *boxes, int line_width) {
    if (line_width <= 0) line_width = img_line_width(image);
    for (int i = boxes->count - 1; i >= 0; i--)
        img_draw_box(image, &boxes->items[i], model ? yolo_class_name(model, boxes->items[i].class_id) : NULL, line_width);
}

yolo_open_options yolo_open_defaults(void) { return (yolo_open_options){.device = "auto", .isa = "auto"}; }

static yolo_status yolo_choose_isa(const char *name, op_isa *isa, yolo_error *error) {
    static const char *const names[] = {"portable", "avx2", "avx512"};
    op_isa best = op_isa_best();
    *isa = best;
    if (!name || !strcmp(name, "auto")) return YOLO_OK;
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        if (strcmp(name, names[i])) continue;
        *isa = (op_isa)i;
        if (i <= (int)best) return YOLO_OK;
        return err_set(error, YOLO_ERROR_UNSUPPORTED, "this processor has no %s: the best it has is %s", name, names[best]);
    }
    return err_set(error, YOLO_ERROR_USAGE, "instruction set '%.40s': expected auto, portable, avx2 or avx512", name);
}

void yolo_model_close(yolo_model *model) {
    if (!model) return;
    run_lane_destroy(model->lane);
    run_weights_destroy(model->weights);
    thr_pool_destroy(model->pool);
    pt_free(&model->checkpoint);
    mem_free(model);
}

yolo_status yolo_model_open(yolo_model **out, const char *path, yolo_open_options options, yolo_error *error) {
    yolo_model *model = mem_array(1, sizeof *model);
    *out = NULL;
    if (!model) return err_memory(error, sizeof *model);
    yolo_status status = dev_check(options.device, error);
    if (status == YOLO_OK) status = yolo_choose_isa(options.isa, &model->isa, error);
    if (status == YOLO_OK && options.threads < 0)
        status = err_set(error, YOLO_ERROR_USAGE, "%d threads: expected 0 (all cores) or more", options.threads);
    if (status == YOLO_OK)
        status = pt_load(path, &options, &model->checkpoint, error);
    if (status == YOLO_OK) {
        model->pool = thr_pool_create(options.threads ? options.threads : os_core_count());
        if (!model->pool) status = err_memory(error, sizeof *model->pool);
        else model->threads = thr_pool_size(model->pool);
    }
    if (status == YOLO_OK) status = run_weights_create(&model->weights, &model->checkpoint.net, model->checkpoint.params, model->isa, error);
    if (status == YOLO_OK) *out = model;
    else yolo_model_close(model);
    return status;
}

int yolo_class_count(const yolo_model *model) { return model->checkpoint.net.class_count; }

const char *yolo_class_name(const yolo_model *model, int class_id) {
    return class_id >= 0 && class_id < model->checkpoint.net.class_count ? model->checkpoint.net.names[class_id] : "";
}

yolo_predict_options yolo_predict_defaults(void) {
    return (yolo_predict_options){.imgsz = 640, .conf = 0.25f, .iou = 0.7f, .max_det = 300, .rect = true};
}

yolo_status yolo_predict(yolo_model *model, const yolo_image *image, yolo_predict_options options, yolo_boxes *boxes, yolo_error *error) {
    const net *net = &model->checkpoint.net;
    det_options detect = det_predict_options(&options);
    *boxes = (yolo_boxes){0};
    yolo_status status = det_check(net, &options.imgsz, &detect, error);
    if (status != YOLO_OK) return status;
    if (!image->pixels || image->width < 1 || image->height < 1 || image->width > YOLO_MAX_DIM || image->height > YOLO_MAX_DIM)
        return err_set(error, YOLO_ERROR_USAGE, "a picture of %d x %d pixels, expected 1 to %d each way", image->width, image->height, YOLO_MAX_DIM);
    pipe_picture picture = {.width = image->width, .height = image->height};
    picture.letterbox = img_letterbox_plan(image->width, image->height, options.imgsz, options.rect, net->max_stride);
    if (!model->lane) status = run_lane_create(&model->lane, model->weights, net, model->pool, 1, picture.letterbox.height, picture.letterbox.width, error);
    pipe_lane lane = {.run = model->lane};
    if (status == YOLO_OK) status = pipe_infer(&lane, net, image, &detect, false, &picture, error);
    if (status == YOLO_OK) *boxes = picture.boxes;
    return status;
}

yolo_val_options yolo_val_defaults(void) {
    return (yolo_val_options){.split = "val", .imgsz = 640, .batch = 16, .conf = EV_CONF, .iou = 0.7f, .max_det = EV_MAX_DET, .rect = true};
}

yolo_status yolo_val(yolo_model *model, yolo_val_options options, yolo_metrics *metrics, yolo_error *error) {
    *metrics = (yolo_metrics){0};
    if (!options.data) return err_set(error, YOLO_ERROR_USAGE, "no data set given: expected the path of a data.yaml");
    pipe_job job = {.net = &model->checkpoint.net, .weights = model->weights, .pool = model->pool};
    yolo_status status = ev_val(&job, &options, metrics, error);
    if (status != YOLO_OK) yolo_metrics_free(metrics);
    return status;
}

void yolo_metrics_free(yolo_metrics *metrics) {
    mem_free(metrics->classes);
    *metrics = (yolo_metrics){0};
}

yolo_status yolo_model_save(const yolo_model *model, const char *path, bool half, yolo_error *error) {
    return pt_write(path, &model->checkpoint, half, error);
}

yolo_status yolo_info(const char *path, char **text, yolo_error *error) {
    pt_model checkpoint = {0};
    yolo_open_options options = yolo_open_defaults();
    str out = {0};
    *text = NULL;
    yolo_status status = pt_load(path, &options, &checkpoint, error);
    if (status == YOLO_OK) status = pt_info(&checkpoint, path, &out, error);
    if (status == YOLO_OK) *text = out.text;
    else str_free(&out);
    pt_free(&checkpoint);
    return status;
}

yolo_label_options yolo_label_defaults(void) {
    return (yolo_label_options){.predict = yolo_predict_defaults(), .save_labels = true, .empty_labels = true, .classes_file = true};
}

void yolo_label_report_free(yolo_label_report *report) {
    mem_free(report->boxes_per_class);
    memset(report, 0, sizeof *report);
}

yolo_status yolo_label(yolo_model *model, yolo_label_options options, yolo_label_report *report, yolo_error *error) {
    det_options detect = det_predict_options(&options.predict);
    memset(report, 0, sizeof *report);
    yolo_status status = det_check(&model->checkpoint.net, &options.predict.imgsz, &detect, error);
    return status == YOLO_OK ? lab_label(model, &options, report, error) : status;
}

yolo_status yolo_run_folder(const char *project, const char *name, bool exist_ok, char **path, yolo_error *error) {
    return path_run_folder(project, name, exist_ok, path, error);
}

void yolo_text_free(char *text) { mem_free(text); }

yolo_train_options yolo_train_defaults(void) { return tr_defaults(); }

/* A checkpoint that ultralytics would download by its name. */
static yolo_status yolo_find_checkpoint(const char *path, yolo_error *error) {
    if (!path || !str_equal_fold(path_extension(path), ".pt") || os_path_kind(path) != OS_NOTHING) return YOLO_OK;
    return err_set(error, YOLO_ERROR_IO, "%s: no such file, and nothing is downloaded here: copy it to this place, or train from scratch "
                   "with model=yolov8n.yaml (or s, m, l, x)", path);
}

yolo_status yolo_train(yolo_train_options options, yolo_train_report *report, yolo_error *error) {
    memset(report, 0, sizeof *report);
    yolo_status status = yolo_find_checkpoint(options.model, error);
    if (status == YOLO_OK) status = yolo_find_checkpoint(options.pretrained, error);
    op_isa isa;
    if (status == YOLO_OK) status = dev_check(options.device, error);
    if (status == YOLO_OK) status = yolo_choose_isa(options.isa, &isa, error);
    return status == YOLO_OK ? tr_train(&options, isa, report, error) : status;
}

yolo_demo_options yolo_demo_defaults(void) {
    return (yolo_demo_options){.out = "runs/demo", .pictures = 400, .epochs = 40, .imgsz = 160, .isa = "auto"};
}

/* The folders of a demo. */
typedef struct yolo_demo_run {
    const yolo_demo_options *options;
    char *folder, *drawn, *held_out, *set, *data, *held_data, *labels, *best;
    double start;
} yolo_demo_run;

static void yolo_demo_end(yolo_demo_run *run) {
    char *const texts[] = {run->folder, run->drawn, run->held_out, run->set, run->data, run->held_data, run->labels, run->best};
    for (int i = 0; i < YOLO_COUNT(texts); i++) mem_free(texts[i]);
}

static yolo_status yolo_demo_begin(yolo_demo_run *run, yolo_error *error) {
    yolo_status status = yolo_run_folder("", run->options->out, false, &run->folder, error);
    if (status != YOLO_OK) return status;
    run->drawn = path_join(run->folder, "drawn");
    run->held_out = path_join(run->folder, "held-out");
    run->set = path_join(run->folder, "set");
    run->data = path_join(run->folder, "set/data.yaml");
    run->held_data = path_join(run->folder, "held-out/data.yaml");
    run->labels = path_join(run->folder, "labelled");
    run->best = path_join(run->folder, "train/weights/best.pt");
    bool good = run->drawn && run->held_out && run->set && run->data && run->held_data && run->labels && run->best;
    return good ? YOLO_OK : err_memory(error, 4096);
}

/* Pictures to learn from and, of other numbers, pictures that nothing but the last step sees. */
static yolo_status yolo_demo_pictures(const yolo_demo_run *run, yolo_error *error) {
    const yolo_demo_options *options = run->options;
    int held = YOLO_MAX(options->pictures / 4, 1);
    yolo_prepare_report prepared;
    yolo_prepare_options prepare = yolo_prepare_defaults();
    log_write(&options->log, YOLO_LOG_INFO, "1. %d pictures of shapes are drawn into %s, %d more are held out in %s", options->pictures,
              run->drawn, held, run->held_out);
    yolo_status status = demo_draw(run->drawn, options->seed, 0, options->pictures, error);
    if (status == YOLO_OK) status = demo_draw(run->held_out, options->seed, options->pictures, held, error);
    prepare.source = run->drawn;
    prepare.out = run->set;
    prepare.mode = "link";
    prepare.seed = options->seed;
    prepare.progress = options->progress;
    prepare.log = options->log;
    if (status == YOLO_OK) status = yolo_prepare(prepare, &prepared, error);
    if (status == YOLO_OK)
        log_write(&options->log, YOLO_LOG_INFO, "2. %s: %lld pictures to train on, %lld to validate on, %lld boxes", run->data,
                  (long long)prepared.train, (long long)prepared.val, (long long)prepared.boxes);
    return status;
}

static yolo_status yolo_demo_train(const yolo_demo_run *run, yolo_train_report *report, yolo_error *error) {
    const yolo_demo_options *options = run->options;
    yolo_train_options train = yolo_train_defaults();
    train.model = "yolov8n.yaml";
    train.data = run->data;
    train.epochs = options->epochs;
    train.imgsz = options->imgsz;
    train.project = run->folder;
    train.seed = options->seed;
    train.threads = options->threads;
    train.isa = options->isa;
    train.progress = options->progress;
    train.log = options->log;
    log_write(&options->log, YOLO_LOG_INFO, "3. A network that knows nothing is trained for %d epochs", options->epochs);
    return yolo_train(train, report, error);
}

/* The pictures that were held out: labelled, and the labels compared with what was drawn. */
static yolo_status yolo_demo_measure(const yolo_demo_run *run, yolo_train_report *report, yolo_error *error) {
    const yolo_demo_options *options = run->options;
    yolo_model *model = NULL;
    yolo_open_options open = yolo_open_defaults();
    yolo_label_options label = yolo_label_defaults();
    yolo_label_report labelled = {0};
    yolo_val_options val = yolo_val_defaults();
    yolo_metrics metrics = {0};
    open.threads = options->threads;
    open.isa = options->isa;
    label.source = run->held_out;
    label.out = run->labels;
    label.predict.imgsz = val.imgsz = options->imgsz;
    label.save_images = true;
    label.progress = val.progress = options->progress;
    label.log = val.log = options->log;
    val.data = run->held_data;
    log_write(&options->log, YOLO_LOG_INFO, "4. %s labels the pictures that were held out; copies with its boxes go to %s", run->best, run->labels);
    yolo_status status = yolo_model_open(&model, run->best, open, error);
    if (status == YOLO_OK) status = yolo_label(model, label, &labelled, error);
    if (status == YOLO_OK) status = yolo_val(model, val, &metrics, error);
    if (status == YOLO_OK) {
        report->precision = metrics.precision;
        report->recall = metrics.recall;
        report->map50 = metrics.map50;
        report->map50_95 = metrics.map50_95;
    }
    yolo_label_report_free(&labelled);
    yolo_metrics_free(&metrics);
    yolo_model_close(model);
    return status;
}

yolo_status yolo_demo(yolo_demo_options options, yolo_train_report *report, yolo_error *error) {
    yolo_demo_run run = {.options = &options, .start = os_clock()};
    memset(report, 0, sizeof *report);
    if (options.pictures < 8 || options.epochs < 0)
        return err_set(error, YOLO_ERROR_USAGE, "%d pictures, %d epochs: expected 8 or more, 0 or more", options.pictures, options.epochs);
    yolo_status status = yolo_demo_begin(&run, error);
    if (status == YOLO_OK) status = yolo_demo_pictures(&run, error);
    if (status == YOLO_OK && options.epochs) status = yolo_demo_train(&run, report, error);
    if (status == YOLO_OK && options.epochs) status = yolo_demo_measure(&run, report, error);
    if (run.folder) snprintf(report->folder, sizeof report->folder, "%s", run.folder);
    report->seconds = os_clock() - run.start;
    yolo_demo_end(&run);
    return status;
}

/* ==== 29 cli_: command line =====================================================================================
   A caller of yolo.h like any other; of the sections above it uses os_ for the terminal and the helpers of err_,
   log_ and str_. One table of options a verb: parsing, defaults, ranges and `yolo help VERB` all come from it.
   Results go to stdout, logs and progress to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. */

#if !defined(YOLO_NO_MAIN) || defined(YOLO_TESTING)

/* NOTHING: accepted because ultralytics users type it; the log says that it has no effect. */
typedef enum cli_kind { CLI_TEXT, CLI_CHOICE, CLI_WHOLE, CLI_NUMBER, CLI_BOOL, CLI_CLASSES, CLI_NOTHING } cli_kind;

enum { CLI_MAX_CLASSES = 1000 };
typedef struct cli_classes { int count, ids[CLI_MAX_CLASSES]; } cli_classes;

/* What a command line says. A verb reads the fields that its table names; texts are "" where nothing was said. */
typedef struct cli_values {
    yolo_train_options train;
    yolo_demo_options demo;
    const char *model, *source, *data, *out, *names, *split, *mode, *existing, *save_json, *device, *isa, *project, *name, *progress, *resume;
    int imgsz, width, batch, max_det, repeats, line_width, threads, seed;
    double conf, iou, share;
    bool rect, agnostic_nms, single_cls, save, save_txt, save_conf, save_crop, exist_ok, layers, verbose;
    cli_classes classes;
} cli_values;

typedef struct cli_option {
    const char *name;
    cli_kind kind;
    size_t field;         /* offset into cli_values */
    const char *standard; /* the default, as it would be typed */
    double low, high;     /* of WHOLE and NUMBER */
    const char *values;   /* TEXT: what it is; CHOICE: "skip|replace"; WHOLE, NUMBER: the unit */
    const char *help;
} cli_option;

#define CLI_AT(field) offsetof(cli_values, field)
#define CLI_ROW_MODEL {"model", CLI_TEXT, CLI_AT(model), "", 0, 0, "FILE", "checkpoint (.pt), or description (.yaml: untrained)"}
#define CLI_ROW_SOURCE {"source", CLI_TEXT, CLI_AT(source), "", 0, 0, "PATH", "picture, folder (any depth), pattern (a/*.jpg) or .txt list"}
#define CLI_ROW_IMGSZ {"imgsz", CLI_WHOLE, CLI_AT(imgsz), "640", 32, 8192, "pixels", "longer side of the network's input"}
#define CLI_ROW_CONF(standard) {"conf", CLI_NUMBER, CLI_AT(conf), standard, 0, 1, "", "lowest confidence of a box"}
#define CLI_ROW_IOU {"iou", CLI_NUMBER, CLI_AT(iou), "0.7", 0, 1, "", "overlap above which the weaker box goes (NMS)"}
#define CLI_ROW_MAX_DET {"max_det", CLI_WHOLE, CLI_AT(max_det), "300", 1, 30000, "", "most boxes of a picture"}
#define CLI_ROW_CLASSES {"classes", CLI_CLASSES, CLI_AT(classes), "", 0, 0, "0,2,5", "keep these classes only; nothing = all"}
#define CLI_ROW_AGNOSTIC {"agnostic_nms", CLI_BOOL, CLI_AT(agnostic_nms), "false", 0, 0, "", "boxes of different classes suppress each other"}
#define CLI_ROW_RECT {"rect", CLI_BOOL, CLI_AT(rect), "true", 0, 0, "", "pad to a multiple of the stride, not to a square"}
#define CLI_ROW_DEVICE {"device", CLI_TEXT, CLI_AT(device), "auto", 0, 0, "auto|cpu|0,1", "this version computes on the CPU only"}
#define CLI_ROW_THREADS {"threads", CLI_WHOLE, CLI_AT(threads), "0", 0, 256, "", "compute threads; 0 = all cores"}
#define CLI_ROW_ISA {"isa", CLI_CHOICE, CLI_AT(isa), "auto", 0, 0, "auto|portable|avx2|avx512", "instructions to use"}
#define CLI_ROW_PROGRESS {"progress", CLI_CHOICE, CLI_AT(progress), "auto", 0, 0, "auto|bar|plain|none", "plain: Progress:N% lines; auto: a bar on a terminal"}
#define CLI_ROW_NOTHING(name, standard) {name, CLI_NOTHING, 0, standard, 0, 0, "", "without effect"}
#define CLI_ROW_SAVE_CONF {"save_conf", CLI_BOOL, CLI_AT(save_conf), "false", 0, 0, "", "confidence as sixth column of the labels"}

static const cli_option cli_prepare_options[] = {
    {"source", CLI_TEXT, CLI_AT(source), "", 0, 0, "DIR", "pictures and YOLO .txt labels, any depth"},
    {"classes", CLI_TEXT, CLI_AT(names), "", 0, 0, "FILE", "class names, one a line; nothing = source/classes.txt"},
    {"out", CLI_TEXT, CLI_AT(out), "", 0, 0, "DIR", "folder to make: images/, labels/, data.yaml"},
    {"val", CLI_NUMBER, CLI_AT(share), "20", 0, 100, "", "share of validation pictures: 0..1, or percent above 1"},
    {"mode", CLI_CHOICE, CLI_AT(mode), "copy", 0, 0, "copy|link|list", "copy, hard link, or text files of paths"},
    {"seed", CLI_WHOLE, CLI_AT(seed), "0", 0, INT_MAX, "", "another seed, another split"},
    CLI_ROW_PROGRESS,
};

static const cli_option cli_train_options[] = {
    {"data", CLI_TEXT, CLI_AT(train.data), "", 0, 0, "FILE", "data.yaml"},
    {"model", CLI_TEXT, CLI_AT(train.model), "", 0, 0, "FILE", "checkpoint (.pt) to go on from, or description (.yaml)"},
    {"epochs", CLI_WHOLE, CLI_AT(train.epochs), "0", 0, 1000000, "", "times through the pictures; 0 = 100, or what a resumed run had"},
    {"imgsz", CLI_WHOLE, CLI_AT(train.imgsz), "640", 32, 8192, "pixels", "side of the network's square input"},
    {"batch", CLI_NUMBER, CLI_AT(train.batch), "16", -1, 1024, "pictures", "a step; -1 = what fits 60 % of memory, 0.x = that share"},
    {"resume", CLI_TEXT, CLI_AT(resume), "false", 0, 0, "true|false|FILE", "go on from model=, FILE or the newest last.pt of project"},
    {"time", CLI_NUMBER, CLI_AT(train.time), "0", 0, 100000, "hours", "train so long instead of by epochs; 0 = by epochs"},
    {"patience", CLI_WHOLE, CLI_AT(train.patience), "100", 0, 1000000, "epochs", "stop when so long without improvement; 0 = never"},
    {"cache", CLI_TEXT, CLI_AT(train.cache), "ram", 0, 0, "ram|false", "keep decoded pictures in memory, as far as cache_gb goes"},
    {"cache_gb", CLI_NUMBER, CLI_AT(train.cache_gb), "0", 0, 100000, "GiB", "memory for pictures; 0 = a quarter of what is free"},
    {"workers", CLI_WHOLE, CLI_AT(train.workers), "8", 0, 256, "threads", "for loading; never more than there are cores"},
    {"project", CLI_TEXT, CLI_AT(train.project), "runs/detect", 0, 0, "DIR", "folder of the run folders"},
    {"name", CLI_TEXT, CLI_AT(train.name), "train", 0, 0, "NAME", "run folder; where taken, name2, name3, ..."},
    {"exist_ok", CLI_BOOL, CLI_AT(train.exist_ok), "false", 0, 0, "", "use the run folder even if it exists"},
    {"save", CLI_BOOL, CLI_AT(train.save), "true", 0, 0, "", "write last.pt and best.pt"},
    {"save_period", CLI_WHOLE, CLI_AT(train.save_period), "-1", -1, 1000000, "epochs", "epochN.pt as well, so often; -1 = never"},
    {"pretrained", CLI_TEXT, CLI_AT(train.pretrained), "true", 0, 0, "true|false|FILE", "start from model's weights, from none, or from FILE's"},
    {"freeze", CLI_TEXT, CLI_AT(train.freeze), "", 0, 0, "10 or 0,3,5", "layers that do not learn: the first 10, or those"},
    {"activation", CLI_TEXT, CLI_AT(train.activation), "", 0, 0, "silu|relu|leakyrelu|mish", "for a description; nothing = as it says"},
    {"classes", CLI_CLASSES, CLI_AT(classes), "", 0, 0, "0,2,5", "train on these classes only; nothing = all"},
    {"single_cls", CLI_BOOL, CLI_AT(train.single_cls), "false", 0, 0, "", "all classes as one"},
    {"fraction", CLI_NUMBER, CLI_AT(train.fraction), "1", 0, 1, "", "share of the training pictures to use"},
    {"rect", CLI_BOOL, CLI_AT(train.rect), "false", 0, 0, "", "batches of like shapes, not squares; without mosaic"},
    {"multi_scale", CLI_NUMBER, CLI_AT(train.multi_scale), "0", 0, 1, "", "the input's side varies by this share of imgsz"},
    {"optimizer", CLI_TEXT, CLI_AT(train.optimizer), "auto", 0, 0, "auto|SGD|MuSGD|Adam|Adamax|AdamW|NAdam|RAdam|RMSProp", "auto: by the steps"},
    {"lr0", CLI_NUMBER, CLI_AT(train.lr0), "0.01", 0, 1, "", "first learning rate; optimizer=auto chooses its own"},
    {"lrf", CLI_NUMBER, CLI_AT(train.lrf), "0.01", 0, 1, "", "last one, as a share of the first"},
    {"cos_lr", CLI_BOOL, CLI_AT(train.cos_lr), "false", 0, 0, "", "from one to the other along a cosine, not a line"},
    {"momentum", CLI_NUMBER, CLI_AT(train.momentum), "0.937", 0, 1, "", "of SGD; the first beta of the Adams"},
    {"weight_decay", CLI_NUMBER, CLI_AT(train.weight_decay), "0.0005", 0, 1, "", "of the convolutions' weights"},
    {"warmup_epochs", CLI_NUMBER, CLI_AT(train.warmup_epochs), "3", 0, 100000, "epochs", "in which the rates rise from 0"},
    {"warmup_momentum", CLI_NUMBER, CLI_AT(train.warmup_momentum), "0.8", 0, 1, "", "momentum at the start of it"},
    {"warmup_bias_lr", CLI_NUMBER, CLI_AT(train.warmup_bias_lr), "0.1", 0, 1, "", "rate of the biases at the start of it"},
    {"nbs", CLI_WHOLE, CLI_AT(train.nbs), "64", 1, 65536, "pictures", "nominal batch: gradients of smaller ones add up to it"},
    {"box", CLI_NUMBER, CLI_AT(train.box), "7.5", 0, 1000, "", "gain of the box loss"},
    {"cls", CLI_NUMBER, CLI_AT(train.cls), "0.5", 0, 1000, "", "gain of the class loss"},
    {"dfl", CLI_NUMBER, CLI_AT(train.dfl), "1.5", 0, 1000, "", "gain of the distribution focal loss"},
    {"hsv_h", CLI_NUMBER, CLI_AT(train.hsv_h), "0.015", 0, 1, "", "hue varies by this share"},
    {"hsv_s", CLI_NUMBER, CLI_AT(train.hsv_s), "0.7", 0, 1, "", "saturation varies by this share"},
    {"hsv_v", CLI_NUMBER, CLI_AT(train.hsv_v), "0.4", 0, 1, "", "brightness varies by this share"},
    {"degrees", CLI_NUMBER, CLI_AT(train.degrees), "0", 0, 180, "degrees", "turned by up to this, either way"},
    {"translate", CLI_NUMBER, CLI_AT(train.translate), "0.1", 0, 1, "", "moved by up to this share of the side"},
    {"scale", CLI_NUMBER, CLI_AT(train.scale), "0.5", 0, 0.99, "", "made larger or smaller by up to this share"},
    {"shear", CLI_NUMBER, CLI_AT(train.shear), "0", -180, 180, "degrees", "sheared by up to this"},
    {"perspective", CLI_NUMBER, CLI_AT(train.perspective), "0", 0, 0.1, "", "seen aslant; 0.001 is much"},
    {"flipud", CLI_NUMBER, CLI_AT(train.flipud), "0", 0, 1, "", "probability of up for down"},
    {"fliplr", CLI_NUMBER, CLI_AT(train.fliplr), "0.5", 0, 1, "", "probability of left for right"},
    {"bgr", CLI_NUMBER, CLI_AT(train.bgr), "0", 0, 1, "", "probability of red for blue"},
    {"mosaic", CLI_NUMBER, CLI_AT(train.mosaic), "1", 0, 1, "", "probability of four pictures in one"},
    {"mixup", CLI_NUMBER, CLI_AT(train.mixup), "0", 0, 1, "", "probability of another picture shining through"},
    {"cutmix", CLI_NUMBER, CLI_AT(train.cutmix), "0", 0, 1, "", "probability of a piece of another picture"},
    {"close_mosaic", CLI_WHOLE, CLI_AT(train.close_mosaic), "10", 0, 1000000, "epochs", "at the end without mosaic, mixup and cutmix"},
    {"val", CLI_BOOL, CLI_AT(train.val), "true", 0, 0, "", "validate after each epoch"},
    {"iou", CLI_NUMBER, CLI_AT(train.iou), "0.7", 0, 1, "", "of the validation: overlap above which the weaker box goes"},
    {"max_det", CLI_WHOLE, CLI_AT(train.max_det), "300", 1, 30000, "", "of the validation: most boxes of a picture"},
    {"plots", CLI_BOOL, CLI_AT(train.plots), "true", 0, 0, "", "draw charts and sheets of pictures into the run folder"},
    {"seed", CLI_WHOLE, CLI_AT(seed), "0", 0, INT_MAX, "", "of first weights, order and augmentation"},
    {"amp", CLI_BOOL, CLI_AT(train.amp), "true", 0, 0, "", "half precision on a GPU; without effect on the CPU"},
    CLI_ROW_DEVICE,
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
    CLI_ROW_PROGRESS,
    /* Of other tasks, other verbs, or a framework's own. */
    CLI_ROW_NOTHING("task", "detect"), CLI_ROW_NOTHING("mode", "train"), CLI_ROW_NOTHING("verbose", "true"),
    CLI_ROW_NOTHING("deterministic", "true"), CLI_ROW_NOTHING("cls_remap", "true"), CLI_ROW_NOTHING("cls_pw", "0"),
    CLI_ROW_NOTHING("label_smoothing", "0"), CLI_ROW_NOTHING("dropout", "0"), CLI_ROW_NOTHING("copy_paste", "0"),
    CLI_ROW_NOTHING("copy_paste_mode", "flip"), CLI_ROW_NOTHING("auto_augment", "randaugment"), CLI_ROW_NOTHING("erasing", "0.4"),
    CLI_ROW_NOTHING("augment", "false"), CLI_ROW_NOTHING("overlap_mask", "true"), CLI_ROW_NOTHING("mask_ratio", "4"),
    CLI_ROW_NOTHING("pose", "12"), CLI_ROW_NOTHING("kobj", "1"), CLI_ROW_NOTHING("split", "val"), CLI_ROW_NOTHING("conf", ""),
    CLI_ROW_NOTHING("half", "false"), CLI_ROW_NOTHING("int8", "false"), CLI_ROW_NOTHING("dnn", "false"),
    CLI_ROW_NOTHING("agnostic_nms", "false"), CLI_ROW_NOTHING("save_json", "false"), CLI_ROW_NOTHING("save_txt", "false"),
    CLI_ROW_NOTHING("show", "false"), CLI_ROW_NOTHING("profile", "false"), CLI_ROW_NOTHING("compile", "false"),
    CLI_ROW_NOTHING("channels_last", "false"),
};

static const cli_option cli_demo_options[] = {
    {"out", CLI_TEXT, CLI_AT(demo.out), "runs/demo", 0, 0, "DIR", "folder to make; where taken, runs/demo2, runs/demo3, ..."},
    {"pictures", CLI_WHOLE, CLI_AT(demo.pictures), "400", 8, 100000, "", "drawn to train on; a quarter as many are held out"},
    {"epochs", CLI_WHOLE, CLI_AT(demo.epochs), "40", 0, 10000, "", "times through them; 0 = draw and prepare only"},
    {"imgsz", CLI_WHOLE, CLI_AT(demo.imgsz), "160", 32, 1280, "pixels", "side of the network's input"},
    {"seed", CLI_WHOLE, CLI_AT(seed), "0", 0, INT_MAX, "", "of pictures and training"},
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
    CLI_ROW_PROGRESS,
};

static const cli_option cli_val_options[] = {
    CLI_ROW_MODEL,
    {"data", CLI_TEXT, CLI_AT(data), "", 0, 0, "FILE", "data.yaml"},
    {"split", CLI_CHOICE, CLI_AT(split), "val", 0, 0, "val|train|test", "part of the data set"},
    CLI_ROW_IMGSZ,
    {"batch", CLI_WHOLE, CLI_AT(batch), "16", 1, 1024, "pictures", "pictures that share one rectangle"},
    CLI_ROW_CONF("0.001"),
    CLI_ROW_IOU,
    CLI_ROW_MAX_DET,
    CLI_ROW_RECT,
    {"single_cls", CLI_BOOL, CLI_AT(single_cls), "false", 0, 0, "", "count all classes as one"},
    {"save_json", CLI_TEXT, CLI_AT(save_json), "", 0, 0, "FILE", "write predictions as COCO json; true = predictions.json"},
    {"verbose", CLI_BOOL, CLI_AT(verbose), "true", 0, 0, "", "a line a class"},
    CLI_ROW_DEVICE,
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
    CLI_ROW_PROGRESS,
    CLI_ROW_NOTHING("half", "false"),
    CLI_ROW_NOTHING("workers", "8"),
    CLI_ROW_NOTHING("plots", "false"),
    CLI_ROW_NOTHING("project", ""),
    CLI_ROW_NOTHING("name", ""),
    CLI_ROW_NOTHING("exist_ok", "false"),
};

static const cli_option cli_label_options[] = {
    CLI_ROW_MODEL,
    CLI_ROW_SOURCE,
    {"out", CLI_TEXT, CLI_AT(out), "", 0, 0, "DIR", "mirrors the source's tree; nothing = beside the pictures"},
    {"existing", CLI_CHOICE, CLI_AT(existing), "skip", 0, 0, "skip|replace", "what to do where a label file is there already"},
    CLI_ROW_SAVE_CONF,
    CLI_ROW_CONF("0.25"),
    CLI_ROW_IOU,
    CLI_ROW_IMGSZ,
    CLI_ROW_MAX_DET,
    CLI_ROW_CLASSES,
    CLI_ROW_AGNOSTIC,
    CLI_ROW_RECT,
    {"verbose", CLI_BOOL, CLI_AT(verbose), "false", 0, 0, "", "a line a picture"},
    CLI_ROW_DEVICE,
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
    CLI_ROW_PROGRESS,
    CLI_ROW_NOTHING("batch", "1"),
    CLI_ROW_NOTHING("half", "false"),
};

static const cli_option cli_predict_options[] = {
    CLI_ROW_MODEL,
    CLI_ROW_SOURCE,
    {"save", CLI_BOOL, CLI_AT(save), "true", 0, 0, "", "write pictures with the boxes drawn in"},
    {"save_txt", CLI_BOOL, CLI_AT(save_txt), "false", 0, 0, "", "write YOLO .txt labels to labels/"},
    CLI_ROW_SAVE_CONF,
    {"save_crop", CLI_BOOL, CLI_AT(save_crop), "false", 0, 0, "", "write each box as a picture to crops/CLASS/"},
    {"project", CLI_TEXT, CLI_AT(project), "runs/detect", 0, 0, "DIR", "folder of the run folders"},
    {"name", CLI_TEXT, CLI_AT(name), "predict", 0, 0, "NAME", "run folder; where taken, name2, name3, ..."},
    {"exist_ok", CLI_BOOL, CLI_AT(exist_ok), "false", 0, 0, "", "use the run folder even if it exists"},
    CLI_ROW_CONF("0.25"),
    CLI_ROW_IOU,
    CLI_ROW_IMGSZ,
    CLI_ROW_MAX_DET,
    CLI_ROW_CLASSES,
    CLI_ROW_AGNOSTIC,
    CLI_ROW_RECT,
    {"line_width", CLI_WHOLE, CLI_AT(line_width), "0", 0, 100, "pixels", "of the drawn boxes; 0 = by picture size"},
    {"verbose", CLI_BOOL, CLI_AT(verbose), "true", 0, 0, "", "a line a picture"},
    CLI_ROW_DEVICE,
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
    CLI_ROW_PROGRESS,
    CLI_ROW_NOTHING("batch", "1"),
    CLI_ROW_NOTHING("half", "false"),
};

static const cli_option cli_info_options[] = {
    {"model", CLI_TEXT, CLI_AT(model), "", 0, 0, "FILE", "checkpoint (.pt) or description (.yaml); runs no code in it"},
};

static const cli_option cli_bench_options[] = {
    CLI_ROW_MODEL,
    {"imgsz", CLI_WHOLE, CLI_AT(imgsz), "640", 32, 8192, "pixels", "height of the network's input"},
    {"width", CLI_WHOLE, CLI_AT(width), "0", 0, 8192, "pixels", "its width; 0 = square"},
    {"batch", CLI_WHOLE, CLI_AT(batch), "1", 1, 1024, "pictures", "pictures at a time"},
    {"repeats", CLI_WHOLE, CLI_AT(repeats), "20", 1, 100000, "", "measured runs, after one that is not"},
    {"layers", CLI_BOOL, CLI_AT(layers), "false", 0, 0, "", "a line an operator as well"},
    CLI_ROW_DEVICE,
    CLI_ROW_THREADS,
    CLI_ROW_ISA,
};

/* ---- the terminal */

typedef struct cli_run cli_run;
typedef struct cli_verb {
    const char *name, *does, *example;
    const cli_option *options;
    int option_count;
    const char *needs[2];   /* options without which it cannot start */
    const char *excuse;     /* option that, when set, stands for all of them, or NULL */
    const char *positional; /* option that a bare argument is the value of, or NULL */
    int (*run)(cli_run *run);
} cli_verb;

struct cli_run { /* one command line, on its way */
    const cli_verb *verb;
    cli_values values;
    yolo_progress progress;
    int bar;             /* columns of the bar that stands on the terminal now */
    char bar_text[256];
    int last_height, last_width; /* of the network's input, for predict's last line */
};

/* Takes the bar away, so that another line can be written. */
static void cli_clear_bar(cli_run *run) {
    if (run->bar) fprintf(stderr, "\r%*s\r", YOLO_MIN(run->bar, os_terminal_columns(stderr) - 1), "");
    fflush(stderr);
    run->bar = 0;
}

/* Puts the bar's text on the terminal's last line, cut to fit. */
static void cli_show_bar(cli_run *run) {
    int columns = YOLO_MAX(1, os_terminal_columns(stderr) - 1), width = YOLO_MIN((int)strlen(run->bar_text), columns);
    run->bar = YOLO_CLAMP(run->bar, width, columns); /* a longer one before is painted over */
    fprintf(stderr, "\r%.*s%*s", width, run->bar_text, run->bar - width, "");
    fflush(stderr);
}

static void cli_log(void *user, yolo_log_level level, const char *text) {
    cli_run *run = user;
    if (level == YOLO_LOG_PROGRESS && run->progress == YOLO_PROGRESS_BAR) {
        snprintf(run->bar_text, sizeof run->bar_text, "%s", text);
        cli_show_bar(run);
        return;
    }
    bool standing = run->bar > 0;
    cli_clear_bar(run);
    fprintf(stderr, "%s%s\n", level == YOLO_LOG_WARNING ? "warning: " : "", text);
    fflush(stderr);
    if (standing) cli_show_bar(run);
}

/* Says what failed and returns the exit status. */
static int cli_fail(cli_run *run, const yolo_error *error) {
    cli_clear_bar(run);
    fprintf(stderr, "yolo %s: %s\n", run->verb ? run->verb->name : "", error->message);
    return error->status == YOLO_ERROR_USAGE ? 2 : error->status == YOLO_ERROR_INTERRUPTED ? 130 : 1;
}

/* ---- parsing */

/* Edits (insert, delete, replace, swap neighbours) that lead from one word to the other; words are cut at 40. */
static int cli_distance(const char *a, const char *b) {
    enum { CUT = 40 };
    int rows[3][CUT + 1], n = (int)YOLO_MIN(strlen(a), CUT), m = (int)YOLO_MIN(strlen(b), CUT);
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (int j = 0; j <= m; j++) above[j] = before[j] = j;
    for (int i = 1; i <= n; i++) {
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = YOLO_MIN(replaced, YOLO_MIN(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = YOLO_MIN(row[j], before[j - 2] + 1);
        }
        int *free_row = before;
        before = above;
        above = row;
        row = free_row;
    }
    return above[m];
}

/* Ultralytics writes max_det, others max-det. */
static bool cli_same_name(const char *name, const char *typed, size_t length) {
    if (strlen(name) != length) return false;
    for (size_t i = 0; i < length; i++)
        if (name[i] != (typed[i] == '-' ? '_' : typed[i])) return false;
    return true;
}

static const cli_option *cli_find(const cli_verb *verb, const char *name, size_t length) {
    for (int i = 0; i < verb->option_count; i++)
        if (cli_same_name(verb->options[i].name, name, length)) return &verb->options[i];
    return NULL;
}

static yolo_status cli_unknown(const cli_verb *verb, const char *name, size_t length, yolo_error *error) {
    char word[64];
    const char *nearest = NULL;
    int best = INT_MAX;
    snprintf(word, sizeof word, "%.*s", (int)YOLO_MIN(length, 60), name);
    for (int i = 0; i < verb->option_count; i++) {
        int distance = cli_distance(word, verb->options[i].name);
        if (distance < best) best = distance, nearest = verb->options[i].name;
    }
    if (!nearest) return err_set(error, YOLO_ERROR_USAGE, "unknown option '%s': this verb has no options", word);
    return err_set(error, YOLO_ERROR_USAGE, "unknown option '%s', did you mean '%s'? See: yolo help %s", word, nearest, verb->name);
}

/* 1 true, 0 false, -1 neither. */
static int cli_truth(const char *text) {
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};
    for (int i = 0; i < YOLO_COUNT(yes); i++) {
        if (str_equal_fold(text, yes[i])) return 1;
        if (str_equal_fold(text, no[i])) return 0;
    }
    return -1;
}

/* Is `text` one of the words of "a|b|c"? */
static bool cli_is_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    for (const char *p = choices; length; p++) {
        if (!strncmp(p, text, length) && (p[length] == '|' || !p[length])) return true;
        if (!(p = strchr(p, '|'))) return false;
    }
    return false;
}

/* "0,2,5", "[0, 2, 5]", "3", or nothing for all. */
static bool cli_parse_classes(cli_classes *classes, const char *text) {
    bool bracket = *text == '[';
    classes->count = 0;
    if (bracket) text++;
    while (*text && *text != ']') {
        char *end;
        long id = strtol(text, &end, 10);
        if (end == text || id < 0 || id > 1000000 || classes->count == CLI_MAX_CLASSES) return false;
        classes->ids[classes->count++] = (int)id;
        while (*end == ' ') end++;
        if (*end == ',') end++;
        else if (*end && *end != ']') return false;
        text = end;
        while (*text == ' ') text++;
    }
    return bracket ? !strcmp(text, "]") : !*text;
}

static yolo_status cli_parse_number(const cli_option *option, void *field, const char *text, yolo_error *error) {
    bool whole = option->kind == CLI_WHOLE;
    char *end;
    double value = whole ? (double)strtoll(text, &end, 10) : strtod(text, &end);
    if (end == text || *end || !(value >= option->low && value <= option->high))
        return err_set(error, YOLO_ERROR_USAGE, "%s=%s: expected a %s from %.10g to %.10g%s%s", option->name, text,
                       whole ? "whole number" : "number", option->low, option->high, *option->values ? " " : "", option->values);
    if (whole) *(int *)field = (int)value;
    else *(double *)field = value;
    return YOLO_OK;
}

/* Sets an option's field from its text. */
static yolo_status cli_set(cli_values *values, const cli_option *option, const char *text, yolo_error *error) {
    void *field = (char *)values + option->field;
    if (!strcmp(text, "None")) text = option->standard; /* ultralytics' word for "as if not said" */
    switch (option->kind) {
    case CLI_TEXT: *(const char **)field = text; break;
    case CLI_WHOLE:
    case CLI_NUMBER: return cli_parse_number(option, field, text, error);
    case CLI_CHOICE:
        if (!cli_is_choice(option->values, text))
            return err_set(error, YOLO_ERROR_USAGE, "%s=%s: expected %s", option->name, text, option->values);
        *(const char **)field = text;
        break;
    case CLI_BOOL:
        if (cli_truth(text) < 0)
            return err_set(error, YOLO_ERROR_USAGE, "%s=%s: expected true or false", option->name, text);
        *(bool *)field = cli_truth(text) == 1;
        break;
    case CLI_CLASSES:
        if (!cli_parse_classes(field, text))
            return err_set(error, YOLO_ERROR_USAGE, "%s=%s: expected class numbers such as %s", option->name, text, option->values);
        break;
    case CLI_NOTHING: break;
    }
    return YOLO_OK;
}

static bool cli_differs(const cli_option *option, const char *text) {
    double number, standard;
    int truth = cli_truth(option->standard);
    if (str_to_number(text, strlen(text), &number) && str_to_number(option->standard, strlen(option->standard), &standard))
        return number != standard;
    return truth >= 0 && cli_truth(text) >= 0 ? truth != cli_truth(text) : strcmp(text, option->standard) && strcmp(text, "None");
}

/* One argument, and for `--name value` the one behind it; returns how many were used, 0 for an error. */
static int cli_parse_argument(cli_run *run, char **argument, yolo_error *error) {
    const cli_verb *verb = run->verb;
    const char *word = argument[0], *name = word;
    bool dashes = !strncmp(word, "--", 2);
    if (dashes) name += 2;
    const char *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const cli_option *option = cli_find(verb, name, length);
    const char *value = equals ? equals + 1 : NULL;
    int used = 1;
    if (!option) {
        if (!dashes && verb->positional && (option = cli_find(verb, verb->positional, strlen(verb->positional)))) value = word;
        else if (!dashes && !equals)
            err_set(error, YOLO_ERROR_USAGE, "'%s': expected an option such as %s", word, verb->example);
        else cli_unknown(verb, name, length, error);
        if (!option) return 0;
    } else if (!value) {
        bool flag = option->kind == CLI_BOOL || (option->kind == CLI_NOTHING && cli_truth(option->standard) == 0);
        bool follows = dashes && argument[1] && strncmp(argument[1], "--", 2) && (!flag || cli_truth(argument[1]) >= 0);
        if (follows) value = argument[1], used = 2;
        else if (flag) value = "true";
    }
    if (!value) {
        err_set(error, YOLO_ERROR_USAGE, "%s: expected a value, as in %s=%s", option->name, option->name,
                *option->standard ? option->standard : option->values);
        return 0;
    }
    if (option->kind == CLI_NOTHING && cli_differs(option, value)) {
        fprintf(stderr, "warning: %s=%s has no effect in this version\n", option->name, value);
        fflush(stderr);
    }
    return cli_set(&run->values, option, value, error) == YOLO_OK ? used : 0;
}

/* Fills run->values for its verb: defaults, then the arguments (NULL at the end), the last one of a name counts. */
static yolo_status cli_parse(cli_run *run, char **arguments, yolo_error *error) {
    const cli_verb *verb = run->verb;
    for (int i = 0; i < verb->option_count; i++)
        YOLO_ASSERT(cli_set(&run->values, &verb->options[i], verb->options[i].standard, NULL) == YOLO_OK);
    for (int used; *arguments; arguments += used)
        if (!(used = cli_parse_argument(run, arguments, error))) return YOLO_ERROR_USAGE;
    const cli_option *excuse = verb->excuse ? cli_find(verb, verb->excuse, strlen(verb->excuse)) : NULL;
    if (excuse && cli_truth(*(const char **)((char *)&run->values + excuse->field))) return YOLO_OK;
    for (int i = 0; i < YOLO_COUNT(verb->needs) && verb->needs[i]; i++) {
        const cli_option *option = cli_find(verb, verb->needs[i], strlen(verb->needs[i]));
        if (!**(const char **)((char *)&run->values + option->field))
            return err_set(error, YOLO_ERROR_USAGE, "%s=%s is missing, for example: %s", option->name, option->values, verb->example);
    }
    return YOLO_OK;
}

/* ---- what the verbs share */

static const char *cli_or_null(const char *text) { return *text ? text : NULL; }

static yolo_status cli_open(cli_run *run, yolo_model **model, yolo_error *error) {
    yolo_open_options options = yolo_open_defaults();
    options.threads = run->values.threads;
    options.device = run->values.device;
    options.isa = run->values.isa;
    return yolo_model_open(model, run->values.model, options, error);
}

static yolo_predict_options cli_detection(const cli_values *values) {
    yolo_predict_options options = yolo_predict_defaults();
    options.imgsz = values->imgsz;
    options.conf = (float)values->conf;
    options.iou = (float)values->iou;
    options.max_det = values->max_det;
    options.agnostic_nms = values->agnostic_nms;
    options.rect = values->rect;
    options.classes = values->classes.count ? values->classes.ids : NULL;
    options.class_count = values->classes.count;
    return options;
}

static yolo_status cli_check_classes(const cli_values *values, const yolo_model *model, yolo_error *error) {
    for (int i = 0; i < values->classes.count; i++)
        if (values->classes.ids[i] >= yolo_class_count(model))
            return err_set(error, YOLO_ERROR_USAGE, "classes=%d: the model has %d classes, expected 0 to %d", values->classes.ids[i],
                           yolo_class_count(model), yolo_class_count(model) - 1);
    return YOLO_OK;
}

static yolo_log cli_logger(cli_run *run) { return (yolo_log){cli_log, run}; }

/* Prints a text that the library made, and frees it. */
static int cli_print(cli_run *run, yolo_status status, char *text, const yolo_error *error) {
    if (text) fputs(text, stdout);
    yolo_text_free(text);
    return status == YOLO_OK ? 0 : cli_fail(run, error);
}

/* ---- the verbs */

static int cli_run_prepare(cli_run *run) {
    const cli_values *values = &run->values;
    yolo_prepare_options options = yolo_prepare_defaults();
    yolo_prepare_report report = {0};
    yolo_error error;
    options.source = values->source;
    options.classes = cli_or_null(values->names);
    options.out = values->out;
    options.val = values->share;
    options.mode = values->mode;
    options.seed = (uint64_t)values->seed;
    options.progress = run->progress;
    options.log = cli_logger(run);
    if (yolo_prepare(options, &report, &error) != YOLO_OK) return cli_fail(run, &error);
    cli_clear_bar(run);
    printf("%lld train and %lld val pictures, %lld boxes -> %s/data.yaml\n", (long long)report.train, (long long)report.val,
           (long long)report.boxes, values->out);
    const struct { int64_t count; const char *what; } rows[] = {
        {report.background, "background (an empty label file)"}, {report.unlabelled, "without a label file"},
        {report.damaged, "damaged"}, {report.duplicates, "duplicates (same content)"},
        {report.skipped, "there already"}, {report.bad_lines, "bad label lines"},
    };
    for (int i = 0; i < YOLO_COUNT(rows); i++)
        if (rows[i].count) printf("%8lld %s\n", (long long)rows[i].count, rows[i].what);
    return 0;
}

/* What the words of `train` mean to the library. */
static yolo_status cli_training(cli_run *run, yolo_train_options *options, yolo_error *error) {
    const cli_values *values = &run->values;
    const char *cache = values->train.cache;
    int truth = cli_truth(cache), resume = cli_truth(values->resume);
    *options = values->train;
    if (truth < 0 && !str_equal_fold(cache, "ram") && !str_equal_fold(cache, "disk"))
        return err_set(error, YOLO_ERROR_USAGE, "cache=%s: expected ram or false", cache);
    if (str_equal_fold(cache, "disk")) cli_log(run, YOLO_LOG_WARNING, "cache=disk: decoded pictures are kept in memory, as with cache=ram");
    options->cache = truth == 0 ? "false" : "ram";
    options->resume = resume != 0;
    options->model = resume < 0 ? values->resume : cli_or_null(values->train.model);
    options->data = cli_or_null(values->train.data);
    options->freeze = cli_or_null(values->train.freeze);
    options->activation = cli_or_null(values->train.activation);
    options->seed = (uint64_t)values->seed;
    options->classes = values->classes.count ? values->classes.ids : NULL;
    options->class_count = values->classes.count;
    options->device = values->device;
    options->threads = values->threads;
    options->isa = values->isa;
    options->progress = run->progress;
    options->log = cli_logger(run);
    return YOLO_OK;
}

static void cli_print_training(const yolo_train_report *report) {
    char time[32];
    if (!*report->folder) return;
    if (report->epochs) printf("%10s%11s%11s%11s%11s%11s%11s%11s\n", "Epochs", "Best", "Box(P", "R", "mAP50", "mAP50-95)", "Time", "img/s");
    if (report->epochs)
        printf("%10d%11d%11.3g%11.3g%11.3g%11.3g%11s%11.1f\n", report->epochs, report->best_epoch, report->precision, report->recall,
           report->map50, report->map50_95, log_duration(report->seconds, time, sizeof time), report->pictures_per_second);
    printf("Results saved to %s\n", report->folder);
    fflush(stdout);
}

static int cli_run_train(cli_run *run) {
    yolo_train_options options;
    yolo_train_report report = {0};
    yolo_error error;
    yolo_status status = cli_training(run, &options, &error);
    if (status == YOLO_OK) status = yolo_train(options, &report, &error);
    cli_clear_bar(run);
    cli_print_training(&report);
    return status == YOLO_OK ? 0 : cli_fail(run, &error);
}

static void cli_print_metrics(const cli_values *values, const yolo_model *model, const yolo_metrics *m) {
    printf("%22s%11s%11s%11s%11s%11s%11s\n", "Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)");
    printf("%22s%11d%11d%11.3g%11.3g%11.3g%11.3g\n", "all", m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95);
    for (int i = 0; values->verbose && i < m->class_count && m->class_count > 1; i++) {
        const yolo_class_metrics *c = &m->classes[i];
        printf("%22s%11d%11d%11.3g%11.3g%11.3g%11.3g\n", yolo_class_name(model, c->class_id), c->images, c->instances,
               c->precision, c->recall, c->map50, c->map50_95);
    }
    printf("Speed: %.1fms preprocess, %.1fms inference, %.1fms postprocess per image\n", m->speed_preprocess_ms,
           m->speed_inference_ms, m->speed_postprocess_ms);
    if (m->damaged) printf("%d damaged pictures left out\n", m->damaged);
}

static int cli_run_val(cli_run *run) {
    const cli_values *values = &run->values;
    yolo_val_options options = yolo_val_defaults();
    yolo_metrics metrics = {0};
    yolo_model *model = NULL;
    yolo_error error;
    options.data = values->data;
    options.split = values->split;
    options.imgsz = values->imgsz;
    options.batch = values->batch;
    options.conf = (float)values->conf;
    options.iou = (float)values->iou;
    options.max_det = values->max_det;
    options.rect = values->rect;
    options.single_cls = values->single_cls;
    options.save_json = str_equal_fold(values->save_json, "true") ? "predictions.json"
                      : str_equal_fold(values->save_json, "false") ? NULL : cli_or_null(values->save_json);
    options.progress = run->progress;
    options.log = cli_logger(run);
    yolo_status status = cli_open(run, &model, &error);
    if (status == YOLO_OK) status = yolo_val(model, options, &metrics, &error);
    cli_clear_bar(run);
    if (status == YOLO_OK) cli_print_metrics(values, model, &metrics);
    yolo_metrics_free(&metrics);
    yolo_model_close(model);
    return status == YOLO_OK ? 0 : cli_fail(run, &error);
}

typedef struct cli_lines { cli_run *run; const yolo_model *model; } cli_lines;

/* "image 1/4 bus.jpg: 640x480 4 persons, 1 bus, 57.9ms" */
static void cli_picture_line(void *user, const yolo_label_picture *picture) {
    cli_lines *lines = user;
    if (picture->damage) return; /* the log has it */
    cli_run *run = lines->run;
    run->last_height = picture->network_height;
    run->last_width = picture->network_width;
    if (!run->values.verbose) return;
    bool standing = run->bar > 0;
    cli_clear_bar(run);
    printf("image %lld/%lld %s: %dx%d ", (long long)picture->index + 1, (long long)picture->total, picture->path,
           picture->network_height, picture->network_width);
    for (int id = 0; picture->boxes->count && id < yolo_class_count(lines->model); id++) {
        int count = 0;
        for (int i = 0; i < picture->boxes->count; i++) count += picture->boxes->items[i].class_id == id;
        if (count) printf("%d %s%s, ", count, yolo_class_name(lines->model, id), count > 1 ? "s" : "");
    }
    printf("%s%.1fms\n", picture->boxes->count ? "" : "(no detections), ", picture->inference_ms);
    fflush(stdout);
    if (standing) cli_show_bar(run);
}

static void cli_print_report(const yolo_model *model, const yolo_label_report *report) {
    int64_t done = report->labelled + report->empty;
    printf("%lld pictures: %lld labelled, %lld empty, %lld skipped, %lld damaged", (long long)report->pictures,
           (long long)report->labelled, (long long)report->empty, (long long)report->skipped, (long long)report->damaged);
    if (report->clashes) printf(", %lld of the same label file", (long long)report->clashes);
    printf("; %.1f s, %.1f img/s\n", report->seconds, report->seconds > 0 ? (double)done / report->seconds : 0.0);
    for (int id = 0; id < report->class_count; id++)
        if (report->boxes_per_class[id]) printf("%8lld %s\n", (long long)report->boxes_per_class[id], yolo_class_name(model, id));
    printf("%8lld boxes\n", (long long)report->boxes);
}

static int cli_run_label(cli_run *run) {
    const cli_values *values = &run->values;
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report = {0};
    yolo_model *model = NULL;
    yolo_error error;
    yolo_status status = cli_open(run, &model, &error);
    cli_lines lines = {run, model};
    options.source = values->source;
    options.out = cli_or_null(values->out);
    options.predict = cli_detection(values);
    options.existing = strcmp(values->existing, "replace") ? YOLO_EXISTING_SKIP : YOLO_EXISTING_REPLACE;
    options.save_conf = values->save_conf;
    options.on_picture = cli_picture_line;
    options.user = &lines;
    options.progress = run->progress;
    options.log = cli_logger(run);
    if (status == YOLO_OK) status = cli_check_classes(values, model, &error);
    if (status == YOLO_OK) status = yolo_label(model, options, &report, &error);
    cli_clear_bar(run);
    if (report.pictures) cli_print_report(model, &report);
    fflush(stdout);
    if (status == YOLO_OK && report.pictures == report.damaged)
        status = err_set(&error, YOLO_ERROR_FORMAT, "%s: no picture could be read", values->source);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return status == YOLO_OK ? 0 : cli_fail(run, &error);
}

static void cli_print_prediction(cli_run *run, const yolo_label_report *report, const char *folder) {
    int64_t done = report->labelled + report->empty;
    printf("Speed: %.1fms preprocess, %.1fms inference, %.1fms postprocess per image at shape (1, 3, %d, %d)\n",
           report->speed_preprocess_ms, report->speed_inference_ms, report->speed_postprocess_ms, run->last_height, run->last_width);
    printf("%lld of %lld pictures, %lld boxes, %lld damaged; %.1f s, %.1f img/s\n", (long long)done, (long long)report->pictures,
           (long long)report->boxes, (long long)report->damaged, report->seconds,
           report->seconds > 0 ? (double)done / report->seconds : 0.0);
    if (!folder) return;
    if (run->values.save_txt)
        printf("%lld label%s saved to %s/labels\n", (long long)report->labelled, report->labelled == 1 ? "" : "s", folder);
    printf("Results saved to %s\n", folder);
}

static int cli_run_predict(cli_run *run) {
    const cli_values *values = &run->values;
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report = {0};
    yolo_model *model = NULL;
    yolo_error error;
    char *folder = NULL;
    yolo_status status = cli_open(run, &model, &error);
    cli_lines lines = {run, model};
    options.source = values->source;
    options.predict = cli_detection(values);
    options.existing = YOLO_EXISTING_REPLACE;
    options.save_labels = values->save_txt;
    options.save_conf = values->save_conf;
    options.save_images = values->save;
    options.save_crop = values->save_crop;
    options.empty_labels = false;
    options.labels_subfolder = true;
    options.classes_file = false;
    options.line_width = values->line_width;
    options.on_picture = cli_picture_line;
    options.user = &lines;
    options.progress = run->progress;
    options.log = cli_logger(run);
    if (status == YOLO_OK) status = cli_check_classes(values, model, &error);
    if (status == YOLO_OK && (values->save || values->save_txt || values->save_crop))
        status = yolo_run_folder(values->project, values->name, values->exist_ok, &folder, &error);
    options.out = folder;
    if (status == YOLO_OK) status = yolo_label(model, options, &report, &error);
    cli_clear_bar(run);
    if (report.pictures) cli_print_prediction(run, &report, folder);
    fflush(stdout);
    if (status == YOLO_OK && report.pictures == report.damaged)
        status = err_set(&error, YOLO_ERROR_FORMAT, "%s: no picture could be read", values->source);
    yolo_text_free(folder);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return status == YOLO_OK ? 0 : cli_fail(run, &error);
}

static int cli_run_demo(cli_run *run) {
    yolo_demo_options options = run->values.demo;
    yolo_train_report report = {0};
    yolo_error error;
    options.seed = (uint64_t)run->values.seed;
    options.threads = run->values.threads;
    options.isa = run->values.isa;
    options.progress = run->progress;
    options.log = cli_logger(run);
    yolo_status status = yolo_demo(options, &report, &error);
    cli_clear_bar(run);
    if (status == YOLO_OK && report.epochs) printf("On the pictures that were held out:\n");
    cli_print_training(&report);
    return status == YOLO_OK ? 0 : cli_fail(run, &error);
}

static int cli_run_info(cli_run *run) {
    yolo_error error;
    char *text = NULL;
    yolo_status status = yolo_info(run->values.model, &text, &error);
    return cli_print(run, status, text, &error);
}

static int cli_run_devices(cli_run *run) {
    yolo_error error;
    char *text = NULL;
    yolo_status status = yolo_devices(&text, &error);
    return cli_print(run, status, text, &error);
}

static int cli_run_bench(cli_run *run) {
    yolo_bench_options options = yolo_bench_defaults();
    yolo_model *model = NULL;
    yolo_error error;
    char *text = NULL;
    options.imgsz = run->values.imgsz;
    options.width = run->values.width;
    options.batch = run->values.batch;
    options.repeats = run->values.repeats;
    options.layers = run->values.layers;
    yolo_status status = cli_open(run, &model, &error);
    if (status == YOLO_OK) status = yolo_bench(model, options, &text, &error);
    yolo_model_close(model);
    return cli_print(run, status, text, &error);
}

static int cli_run_version(cli_run *run) {
    (void)run;
#ifdef YOLO_NO_CUDA
    printf("yolo " YOLO_VERSION " (built without CUDA)\n");
#else
    int driver = 0, runtime = 0;
    yg_versions(&driver, &runtime);
    printf("yolo " YOLO_VERSION " (CUDA %d.%d)\n", runtime / 1000, runtime % 1000 / 10);
#endif
    return 0;
}

#define CLI_OPTIONS(table) table, YOLO_COUNT(table)
static const cli_verb cli_verbs[] = {
    {"prepare", "labelled pictures -> train and val sets and data.yaml", "yolo prepare source=photos out=dataset val=20",
     CLI_OPTIONS(cli_prepare_options), {"source", "out"}, NULL, NULL, cli_run_prepare},
    {"train", "train a detector, from scratch or from a checkpoint", "yolo train data=data.yaml model=yolov8n.pt epochs=100",
     CLI_OPTIONS(cli_train_options), {"data", "model"}, "resume", NULL, cli_run_train},
    {"val", "precision, recall, mAP50 and mAP50-95 of a model on a data set", "yolo val model=best.pt data=data.yaml",
     CLI_OPTIONS(cli_val_options), {"model", "data"}, NULL, NULL, cli_run_val},
    {"label", "write YOLO .txt labels for a tree of pictures", "yolo label model=best.pt source=photos",
     CLI_OPTIONS(cli_label_options), {"model", "source"}, NULL, NULL, cli_run_label},
    {"predict", "annotated pictures, labels and crops into runs/detect/predict", "yolo predict model=best.pt source=photos save_txt=true",
     CLI_OPTIONS(cli_predict_options), {"model", "source"}, NULL, NULL, cli_run_predict},
    {"info", "what is in a checkpoint, without running any code in it", "yolo info best.pt",
     CLI_OPTIONS(cli_info_options), {"model"}, NULL, "model", cli_run_info},
    {"devices", "CPU features, GPUs, driver and NCCL", "yolo devices", NULL, 0, {NULL}, NULL, NULL, cli_run_devices},
    {"bench", "time the forward pass", "yolo bench model=yolov8n.pt imgsz=640 threads=2",
     CLI_OPTIONS(cli_bench_options), {"model"}, NULL, NULL, cli_run_bench},
    {"demo", "draws pictures of shapes, trains on them, finds them: minutes on 2 cores", "yolo demo",
     CLI_OPTIONS(cli_demo_options), {NULL}, NULL, NULL, cli_run_demo},
    {"version", "version and kind of build", "yolo version", NULL, 0, {NULL}, NULL, NULL, cli_run_version},
};

/* ---- help and main */

static void cli_print_help(FILE *stream) {
    fprintf(stream, "yolo " YOLO_VERSION " - YOLOv8 detectors from one executable\n\n");
    for (int i = 0; i < YOLO_COUNT(cli_verbs); i++) fprintf(stream, "  %-9s %s\n", cli_verbs[i].name, cli_verbs[i].does);
    fprintf(stream, "  %-9s %s\n\n", "help VERB", "its options, with units and defaults");
    fprintf(stream, "Options are written name=value, --name=value or --name value. For example:\n");
    for (int i = 0; i < YOLO_COUNT(cli_verbs); i++)
        if (cli_verbs[i].option_count) fprintf(stream, "  %s\n", cli_verbs[i].example);
}

/* What may stand behind the `=`. */
static void cli_describe(const cli_option *option, char *text, size_t size) {
    if (option->kind == CLI_BOOL) snprintf(text, size, "true|false");
    else if (option->kind == CLI_WHOLE || option->kind == CLI_NUMBER)
        snprintf(text, size, "%.10g..%.10g%s%s", option->low, option->high, *option->values ? " " : "", option->values);
    else snprintf(text, size, "%s", option->values);
}

/* The options that have no effect, in lines. */
static void cli_print_nothing(const cli_verb *verb) {
    int column = 0;
    for (int i = 0; i < verb->option_count; i++) {
        const cli_option *option = &verb->options[i];
        if (option->kind != CLI_NOTHING) continue;
        if (!column || column + strlen(option->name) > 110) column = printf(column ? ",\n  %s" : "\n  Accepted without effect: %s", option->name) - 2;
        else column += printf(", %s", option->name);
    }
    if (column) printf("\n");
}

static void cli_print_verb_help(const cli_verb *verb) {
    char values[80];
    printf("yolo %s - %s\n\n  %s\n", verb->name, verb->does, verb->example);
    if (verb->option_count) printf("\n  %-15s %-26s %-11s %s\n", "OPTION", "VALUES", "DEFAULT", "MEANING");
    for (int i = 0; i < verb->option_count; i++) {
        const cli_option *option = &verb->options[i];
        bool needed = false;
        if (option->kind == CLI_NOTHING) continue;
        for (int j = 0; j < YOLO_COUNT(verb->needs); j++) needed |= verb->needs[j] && !strcmp(verb->needs[j], option->name);
        cli_describe(option, values, sizeof values);
        printf("  %-15s %-26s %-11s %s\n", option->name, values, needed ? "(needed)" : *option->standard ? option->standard : "-",
               option->help);
    }
    cli_print_nothing(verb);
}

/* Verbs of the whole program that this version does not have. */
static const char *const cli_absent[][2] = {
    {"export", "this version does not export yet"},
    {"ui", "this version has no page yet"},
};

/* The verb of that name, or NULL after saying which one may have been meant; *status is then the exit status. */
static const cli_verb *cli_find_verb(const char *word, int *status) {
    const char *nearest = "", *reason = NULL;
    int best = INT_MAX;
    for (int i = 0; i < YOLO_COUNT(cli_verbs); i++) {
        int distance = cli_distance(word, cli_verbs[i].name);
        if (!distance) return &cli_verbs[i];
        if (distance < best) best = distance, nearest = cli_verbs[i].name;
    }
    for (int i = 0; i < YOLO_COUNT(cli_absent); i++) {
        int distance = cli_distance(word, cli_absent[i][0]);
        if (distance < best && distance <= 2) best = distance, nearest = cli_absent[i][0], reason = cli_absent[i][1];
    }
    *status = best ? 2 : 1;
    if (!best) fprintf(stderr, "yolo %s: %s\n", word, reason);
    else if (reason) fprintf(stderr, "yolo: unknown verb '%s', did you mean '%s'? But %s\n", word, nearest, reason);
    else fprintf(stderr, "yolo: unknown verb '%s', did you mean '%s'? See: yolo help\n", word, nearest);
    return NULL;
}

static int cli_help(char **arguments) {
    int status = 0;
    if (*arguments && !strcmp(*arguments, "detect")) arguments++;
    if (!*arguments) {
        cli_print_help(stdout);
        return 0;
    }
    const cli_verb *verb = cli_find_verb(*arguments, &status);
    if (verb) cli_print_verb_help(verb);
    return status;
}

static int cli_run_verb(const cli_verb *verb, char **arguments) {
    cli_run run = {.verb = verb};
    yolo_error error;
    for (char **p = arguments; *p; p++)
        if (!strcmp(*p, "--help") || !strcmp(*p, "-h")) {
            cli_print_verb_help(verb);
            return 0;
        }
    if (cli_parse(&run, arguments, &error) != YOLO_OK) return cli_fail(&run, &error);
    const char *progress = run.values.progress ? run.values.progress : "none";
    bool bar = !strcmp(progress, "bar") || (!strcmp(progress, "auto") && os_is_terminal(stderr));
    run.progress = !strcmp(progress, "plain") ? YOLO_PROGRESS_PLAIN : bar ? YOLO_PROGRESS_BAR : YOLO_PROGRESS_NONE;
    return verb->run(&run);
}

static int cli_main(char **arguments) {
    const char *word = arguments[0];
    int status = 0;
    if (word && (!strcmp(word, "detect") || !strcmp(word, "task=detect"))) word = *++arguments; /* ultralytics' task word */
    if (word && !strncmp(word, "mode=", 5)) word += 5;
    if (!word) {
        cli_print_help(stdout);
        if (os_console_is_own()) {
            printf("\nThis is a command line program. Press Enter to close this window.\n");
            getchar();
        }
        return 0;
    }
    if (!strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h")) return cli_help(arguments + 1);
    if (!strcmp(word, "--version")) word = "version";
    const cli_verb *verb = cli_find_verb(word, &status);
    return verb ? cli_run_verb(verb, arguments + 1) : status;
}

#endif

#ifndef YOLO_NO_MAIN
static void cli_interrupted(int number) {
    (void)number;
    yolo_interrupt();
    os_note("\nfinishing what is in hand; Ctrl-C again stops at once\n");
}

int main(int argc, char **argv) {
    unsigned console = os_console_begin();
    char **arguments = os_arguments(&argc, argv);
    os_on_interrupt(cli_interrupted);
    int status = arguments ? cli_main(arguments + (argc > 0)) : 1;
    bool written = !ferror(stdout) && !fflush(stdout);
    if (!written) {
        char reason[256];
        fprintf(stderr, "yolo: cannot write the result: %s\n", os_reason(reason, sizeof reason));
        if (!status) status = 1;
    }
    os_console_end(console);
    return status;
}
#endif

#if defined(__GNUC__) && !defined(__clang__)
/* stb declares functions that it does not define; gcc asks here, at the end, whether to warn of them. */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

#endif /* OP_PASS */
