/* msvc.c - yolo.c as MSVC sees it, where there is no MSVC: no GNU C, and the branches of _MSC_VER. The headers are mingw-w64's, read
   first as what they are. Checked by clang, which knows what is an extension of GNU C:

     clang --target=x86_64-w64-mingw32 -std=c11 -fsyntax-only ... tests/msvc.c     (.ci/run has all of it) */
#define _CRT_SECURE_NO_WARNINGS
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"
#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <windows.h>
#include <direct.h>
#include <io.h>
#include <process.h>
#include <psapi.h>
#include <shellapi.h>
#include <immintrin.h>
#define __INTRIN_H /* mingw-w64 has declared it; clang would again */
#pragma clang diagnostic pop

#undef __GNUC__
#undef __clang__
#undef __MINGW32__
#undef __MINGW64__
#undef __x86_64__
#define _MSC_VER 1930
#define _M_X64 100
#undef __declspec
#undef __forceinline
#define __forceinline inline
void __cpuid(int words[4], int leaf);
void __cpuidex(int words[4], int leaf, int part);
#include "../yolo.c"
