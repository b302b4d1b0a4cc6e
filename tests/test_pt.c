/* Sections 10, 11, 13: zip archives, pickles, checkpoints. Fixtures: tests/make_pt.py. */
#ifndef _WIN32
#include <sys/mman.h>
#endif

/* ---- zip ---- */

typedef struct pt_made { const char *name; const char *data; size_t size; } pt_made;

/* An archive of stored entries, made by hand: `wide` with zip64 fields everywhere, `crc_error` added to each CRC. */
static str pt_make_zip(const pt_made *entries, int count, bool wide, uint32_t crc_error) {
    str file = {0}, directory = {0};
    zip_crc *crc = mem_alloc(sizeof *crc);
    zip_crc_init(crc);
    for (int i = 0; i < count; i++) {
        uint64_t start = (uint64_t)file.length, size = entries[i].size;
        size_t length = strlen(entries[i].name);
        uint32_t sum = zip_crc_of(crc, (const uint8_t *)entries[i].data, size) + crc_error;
        zip_put(&file, 0x04034b50, 4);
        zip_put_fields(&file, sum, size, length, 0);
        str_append(&file, entries[i].name, length);
        str_append(&file, entries[i].data, size);
        zip_put(&directory, 0x02014b50, 4);
        zip_put(&directory, 0, 2);
        zip_put_fields(&directory, sum, wide ? 0xffffffffu : size, length, wide ? 32 : 0);
        zip_put(&directory, 0, 6);
        zip_put(&directory, 0, 4);
        zip_put(&directory, wide ? 0xffffffffu : start, 4);
        str_append(&directory, entries[i].name, length);
        if (wide) {
            zip_put(&directory, 0x7777, 2); /* a field to be passed over */
            zip_put(&directory, 0, 2);
            zip_put(&directory, 1, 2);
            zip_put(&directory, 24, 2);
            zip_put(&directory, size, 8);
            zip_put(&directory, size, 8);
            zip_put(&directory, start, 8);
        }
    }
    uint64_t start = (uint64_t)file.length, length = (uint64_t)directory.length;
    str_append(&file, directory.text, (size_t)directory.length);
    if (wide) {
        uint64_t record = (uint64_t)file.length;
        zip_put(&file, 0x06064b50, 4);
        zip_put(&file, 44, 8);
        zip_put(&file, 0, 8);
        zip_put(&file, 0, 4);
        for (int i = 0; i < 2; i++) zip_put(&file, (uint64_t)count, 8);
        zip_put(&file, length, 8);
        zip_put(&file, start, 8);
        zip_put(&file, 0x07064b50, 4);
        zip_put(&file, 0, 4);
        zip_put(&file, record, 8);
        zip_put(&file, 1, 4);
    }
    zip_put(&file, 0x06054b50, 4);
    zip_put(&file, 0, 4);
    for (int i = 0; i < 2; i++) zip_put(&file, wide ? 0xffff : (uint64_t)count, 2);
    zip_put(&file, wide ? 0xffffffffu : length, 4);
    zip_put(&file, wide ? 0xffffffffu : start, 4);
    zip_put(&file, 0, 2);
    str_free(&directory);
    mem_free(crc);
    return file;
}

static void test_zip_made(void) {
    const pt_made entries[] = {{"b/two", "second", 6}, {"a", "", 0}, {"c", "third entry", 11}};
    yolo_error error;
    for (int wide = 0; wide < 2; wide++) {
        str file = pt_make_zip(entries, 3, wide, 0);
        zip_archive zip;
        const uint8_t *bytes = NULL;
        CHECK_MSG(zip_open(&zip, "z", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_OK, "%s", error.message);
        CHECK(zip.count == 3 && !zip_find(&zip, "two") && zip_find(&zip, "a"));
        zip_entry *entry = zip_find(&zip, "c");
        CHECK(entry && zip_read(&zip, entry, &bytes, &error) == YOLO_OK && entry->size == 11 && !memcmp(bytes, "third entry", 11));
        entry = zip_find(&zip, "b/two");
        CHECK(entry && zip_read(&zip, entry, &bytes, &error) == YOLO_OK && entry->size == 6 && !memcmp(bytes, "second", 6));
        zip_close(&zip);
        for (size_t cut = 0; cut < (size_t)file.length; cut++) { /* cut off anywhere: an error */
            uint8_t *part = mem_alloc(cut);
            memcpy(part, file.text, cut);
            CHECK_MSG(zip_open(&zip, "z", part, cut, &error) == YOLO_ERROR_FORMAT, "cut at %d", (int)cut);
            mem_free(part);
        }
        str_free(&file);
    }
}

static void test_zip_refused(void) {
    const pt_made twice[] = {{"a", "1", 1}, {"a", "2", 1}}, one[] = {{"a", "12345", 5}};
    zip_archive zip;
    yolo_error error;
    const uint8_t *bytes = NULL;
    str file = pt_make_zip(twice, 2, false, 0);
    CHECK(zip_open(&zip, "z", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "two zip entries are named a"), "%s", error.message);
    /* both records name the first entry: they overlap */
    cur c = cur_make(file.text, (size_t)file.length);
    cur_seek(&c, (uint64_t)file.length - 6);
    size_t directory = (size_t)cur_le(&c, 4);
    memset(file.text + directory + 47 + 42, 0, 4);
    CHECK(zip_open(&zip, "z", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "overlaps"), "%s", error.message);
    str_free(&file);
    file = pt_make_zip(one, 1, false, 1);
    CHECK(zip_open(&zip, "z", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_OK);
    CHECK(zip_read(&zip, &zip.entries[0], &bytes, &error) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "z: zip entry a: CRC-32"), "%s", error.message);
    zip_close(&zip);
    /* a bomb: five bytes that claim to be a gigabyte */
    file.text[directory = (size_t)file.length - 22 - 47 + 10] = 8;
    for (int i = 0; i < 4; i++) file.text[directory + 14 + i] = i == 3 ? 0x40 : 0;
    CHECK(zip_open(&zip, "z", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_OK);
    CHECK(zip_read(&zip, &zip.entries[0], &bytes, &error) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "refused"), "%s", error.message);
    zip_close(&zip);
    str_free(&file);
}

static void test_zip_inflate(void) {
    static const char *const names[] = {"raw_fixed", "raw_huffman", "raw_stored", "raw_best", "raw_fast"};
    uint8_t *file = NULL;
    size_t size = 0;
    yolo_error error;
    zip_archive zip;
    const uint8_t *plain = NULL, *packed = NULL;
    CHECK(path_read("tests/fixtures/pt_pickles.zip", 1 << 20, &file, &size, &error) == YOLO_OK);
    CHECK(zip_open(&zip, "z", file, size, &error) == YOLO_OK);
    zip_entry *whole = zip_find(&zip, "plain");
    CHECK(whole && zip_read(&zip, whole, &plain, &error) == YOLO_OK);
    uint8_t *out = mem_alloc((size_t)whole->size);
    zip_inflater *z = mem_alloc(sizeof *z);
    rng r = {.key = 7};
    int survived = 0;
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        zip_entry *entry = zip_find(&zip, names[i]);
        CHECK(entry && zip_read(&zip, entry, &packed, &error) == YOLO_OK);
        memset(out, 0, (size_t)whole->size);
        CHECK_MSG(zip_inflate(z, packed, entry->size, out, whole->size) && !memcmp(out, plain, (size_t)whole->size), "%s", names[i]);
        CHECK(!zip_inflate(z, packed, entry->size, out, whole->size - 1));
        CHECK(!zip_inflate(z, packed, entry->size, out, whole->size + 1));
        CHECK(!zip_inflate(z, packed, entry->size - 20, out, whole->size));
        uint8_t *copy = mem_alloc((size_t)entry->size);
        for (int round = 0; round < 200; round++) { /* damage: true or false, never outside the buffers */
            memcpy(copy, packed, (size_t)entry->size);
            for (int k = 0; k < 3; k++) copy[(size_t)(rng_uniform(&r) * (double)YOLO_MIN(entry->size, 400))] ^= (uint8_t)(1 << (round & 7));
            survived += zip_inflate(z, copy, entry->size, out, whole->size);
        }
        mem_free(copy);
    }
    CHECK(survived < 1000);
    mem_free(z);
    mem_free(out);
    zip_close(&zip);
    mem_free(file);
}

static void test_zip_write(void) {
    const char *path = test_temp("made.zip");
    zip_writer w;
    zip_archive zip;
    yolo_error error;
    uint8_t *file = NULL;
    size_t size = 0;
    const uint8_t *bytes = NULL;
    CHECK(zip_begin(&w, path, &error) == YOLO_OK);
    zip_add(&w, "archive/a", "abc", 3);
    zip_add(&w, "archive/empty", "", 0);
    zip_add(&w, "archive/b", "0123456789", 10);
    CHECK_MSG(zip_end(&w, true, &error) == YOLO_OK, "%s", error.message);
    CHECK(path_read(path, 1 << 20, &file, &size, &error) == YOLO_OK && zip_open(&zip, path, file, size, &error) == YOLO_OK);
    for (int i = 0; i < zip.count; i++) CHECK(zip.entries[i].data % 64 == 0 && zip_read(&zip, &zip.entries[i], &bytes, &error) == YOLO_OK);
    CHECK(zip.count == 3 && zip_find(&zip, "archive/b")->size == 10);
    zip_close(&zip);
    mem_free(file);
    CHECK(zip_begin(&w, path, &error) == YOLO_OK);
    zip_add(&w, "x", "y", 1);
    CHECK(zip_end(&w, false, &error) == YOLO_OK); /* given up: the old file stays */
    CHECK(path_read(path, 1 << 20, &file, &size, &error) == YOLO_OK && size > 300);
    mem_free(file);
}

/* An entry behind 4 GiB of nothing: a sparse file, mapped. And more entries than 16 bits count. */
static void test_zip_large(void) {
    const char *path = test_temp("large.zip");
    zip_writer w;
    zip_archive zip;
    yolo_error error;
    uint8_t *file = NULL;
    size_t size = 0;
    char name[16];
    CHECK(zip_begin(&w, path, &error) == YOLO_OK);
    for (int i = 0; i < 66000; i++) {
        snprintf(name, sizeof name, "%d", i);
        zip_add(&w, name, name, strlen(name));
    }
    CHECK_MSG(zip_end(&w, true, &error) == YOLO_OK, "%s", error.message);
    CHECK(path_read(path, 1 << 26, &file, &size, &error) == YOLO_OK);
    CHECK_MSG(zip_open(&zip, path, file, size, &error) == YOLO_OK && zip.count == 66000 && zip_find(&zip, "65999"), "%s", error.message);
    zip_close(&zip);
    mem_free(file);
#ifndef _WIN32
    const uint8_t *bytes = NULL;
    uint64_t far = (uint64_t)5 << 30;
    CHECK(zip_begin(&w, path, &error) == YOLO_OK);
    zip_add(&w, "archive/near", "abc", 3);
    CHECK(fseeko(w.file, (off_t)far, SEEK_SET) == 0);
    w.at = far;
    zip_add(&w, "archive/far", "0123456789", 10);
    zip_add(&w, "archive/empty", "", 0);
    CHECK_MSG(zip_end(&w, true, &error) == YOLO_OK, "%s", error.message);
    FILE *f = fopen(path, "rb");
    int64_t length = f ? os_file_size(f) : 0;
    void *map = length > (int64_t)far ? mmap(NULL, (size_t)length, PROT_READ, MAP_PRIVATE, fileno(f), 0) : MAP_FAILED;
    CHECK(map != MAP_FAILED);
    if (map != MAP_FAILED) {
        CHECK_MSG(zip_open(&zip, path, map, (size_t)length, &error) == YOLO_OK && zip.count == 3, "%s", error.message);
        for (int i = 0; i < zip.count; i++) CHECK(zip.entries[i].data % 64 == 0 && zip_read(&zip, &zip.entries[i], &bytes, &error) == YOLO_OK);
        CHECK(zip_find(&zip, "archive/far")->header == far && !memcmp(zip_find(&zip, "archive/far")->bytes, "0123456789", 10));
        zip_close(&zip);
        munmap(map, (size_t)length);
    }
    if (f) fclose(f);
#endif
    os_remove(path);
}

/* A size that needs 64 bits, in both headers: the fields alone, nothing that long is written. */
static void test_zip_wide(void) {
    str s = {0};
    zip_entry entry = {.size = 0xffffffffu, .packed = 0xffffffffu, .header = 0xffffffffu};
    zip_put_extra64(&s, (uint64_t)6 << 30, (uint64_t)7 << 30);
    zip_extra64(cur_make(s.text, (size_t)s.length), &entry);
    CHECK(s.length == 28 && entry.size == (uint64_t)6 << 30 && entry.packed == entry.size && entry.header == (uint64_t)7 << 30);
    s.length = 0;
    entry = (zip_entry){.size = 5, .packed = 5, .header = 0xffffffffu};
    zip_put_extra64(&s, 5, ZIP_FULL);
    zip_extra64(cur_make(s.text, (size_t)s.length), &entry);
    CHECK(s.length == 12 && entry.size == 5 && entry.packed == 5 && entry.header == ZIP_FULL);
    s.length = 0;
    zip_put_extra64(&s, ZIP_FULL - 1, ZIP_FULL - 1);
    CHECK(s.length == 0);
    str_free(&s);
}

/* ---- pickle ---- */

/* What the pickle stands for, as yaml; or the error. */
static const char *pt_pickle_text(const char *pickle, size_t size) {
    static char text[4000];
    pkl p;
    yolo_error error;
    uint8_t *exact = mem_alloc(size); /* so that a sanitizer sees the end */
    memcpy(exact, pickle, size);
    if (pkl_read(&p, "x.pt", exact, size, &error) != YOLO_OK) snprintf(text, sizeof text, "%s", error.message);
    else {
        arena memory = {0};
        str s = {0};
        yaml_write(&s, pkl_val(&memory, p.root));
        snprintf(text, sizeof text, "%s", s.text);
        str_free(&s);
        arena_free(&memory);
        pkl_close(&p);
    }
    mem_free(exact);
    return text;
}

static void test_pickle_protocols(void) {
    static const char expected[] =
        "none: null\ntruth: true\nlie: false\nints:\n- 0\n- 255\n- 65535\n- -1\n- 2147483647\n- -2147483648\n- 1099511627776\n"
        "- -9223372036854775808\nfloats:\n- 0.5\n- -1.0e+300\n- 1.0e-05\ntext: \"a'b\\\"c\\\\d\\te\\n\"\n"
        "korean: \"\xed\x95\x9c\xea\xb8\x80 \\U0001F600\"\npair:\n- 1\n- 2\nthree:\n- 1\n- 2\n- 3\nfour:\n- 1\n- 2\n- 3\n- 4\n"
        "empty:\n- []\n- []\n- {}\nshared:\n- - twice\n- - twice\n7: seven\nset:\n- 5\npath: /a/b\nnumpy:\n- 0.25\n- -7\n- true\n- 1.5\nmany:\n- 0\n- 1\n";
    uint8_t *file = NULL;
    size_t size = 0;
    yolo_error error;
    zip_archive zip;
    CHECK(path_read("tests/fixtures/pt_pickles.zip", 1 << 20, &file, &size, &error) == YOLO_OK);
    CHECK(zip_open(&zip, "z", file, size, &error) == YOLO_OK);
    for (int protocol = 0; protocol <= 5; protocol++) {
        char name[] = {'p', (char)('0' + protocol), 0};
        const uint8_t *bytes = NULL;
        zip_entry *entry = zip_find(&zip, name);
        CHECK(entry && zip_read(&zip, entry, &bytes, &error) == YOLO_OK);
        const char *text = pt_pickle_text((const char *)bytes, (size_t)entry->size);
        size_t same = 0;
        while (expected[same] && expected[same] == text[same]) same++;
        CHECK_MSG(!expected[same], "protocol %d: differs at %d: %.80s", protocol, (int)same, text + same);
    }
    zip_close(&zip);
    mem_free(file);
}

static void test_pickle_opcodes(void) {
    static const struct { const char *what, *pickle; size_t size; const char *expected; } cases[] = {
#define PICKLE(what, pickle, expected) {what, pickle, sizeof pickle - 1, expected}
        PICKLE("LONG4, LONG1", "]\x8b\2\0\0\0\0\x80" "a\x8a\0a.", "- -32768\n- 0\n"),
        PICKLE("long beyond 64 bits", "\x8a\x09\0\0\0\0\0\0\0\0\1.", "1.8446744073709552e+19\n"),
        PICKLE("INT, LONG, FLOAT lines", "(I12\nI01\nL-5L\nF2.5\nl.", "- 12\n- true\n- -5\n- 2.5\n"),
        PICKLE("BINFLOAT", "G\x3f\xe0\0\0\0\0\0\0.", "0.5\n"),
        PICKLE("STRING escapes", "S'a\\x41\\t\\'b'\n.", "\"aA\\t'b\"\n"),
        PICKLE("UNICODE escapes", "V\\u00e9\\U0001f600\n.", "\"\xc3\xa9\\U0001F600\"\n"),
        PICKLE("BINSTRING, SHORT_BINSTRING", "(T\2\0\0\0abU\1ct.", "- ab\n- c\n"),
        PICKLE("BINUNICODE8, SHORT_BINUNICODE", "\x8d\2\0\0\0\0\0\0\0ab\x8c\1c\x86.", "- ab\n- c\n"),
        PICKLE("BINBYTES, SHORT, 8, BYTEARRAY8", "(C\1aB\1\0\0\0b\x8e\1\0\0\0\0\0\0\0c\x96\1\0\0\0\0\0\0\0dt.", "- a\n- b\n- c\n- d\n"),
        PICKLE("DICT, SETITEM", "(K\1K\2dK\3K\4s.", "1: 2\n3: 4\n"),
        PICKLE("EMPTY_SET, ADDITEMS, FROZENSET", "\x8f(K\1K\2\x90(K\3\x91\x86.", "- - 1\n  - 2\n- - 3\n"),
        PICKLE("POP, POP_MARK, DUP", "K\1K\2" "0(K\3K\4" "12\x86.", "- 1\n- 1\n"),
        PICKLE("POP of a mark", "K\1(0.", "1\n"),
        PICKLE("PUT, GET", "]p7\ng7\n\x86.", "- []\n- []\n"),
        PICKLE("LONG_BINPUT, LONG_BINGET, MEMOIZE", "K\1r\1\0\0\0j\1\0\0\0K\2\x94\x87.", "- 1\n- 1\n- 2\n"),
        PICKLE("REDUCE of OrderedDict", "ccollections\nOrderedDict\n((K\1K\2l\x85ltR.", ""),
        PICKLE("OrderedDict, BUILD", "ccollections\nOrderedDict\n)R}X\1\0\0\0mK\1sbX\1\0\0\0aK\2s.", "a: 2\n"),
        PICKLE("INST", "(K\5icollections\nOrderedDict\n.", "{}\n"),
        PICKLE("OBJ", "(cpathlib\nPosixPath\nX\1\0\0\0aX\1\0\0\0bo.", "a/b\n"),
        PICKLE("NEWOBJ, NEWOBJ_EX, name space", "cargparse\nNamespace\n)\x81}X\1\0\0\0kK\1sbctypes\nSimpleNamespace\n)}\x92}b\x86.", "- k: 1\n- {}\n"),
        PICKLE("STACK_GLOBAL", "X\x08\0\0\0builtinsX\3\0\0\0set\x93](K\1e\x85R.", "- 1\n"),
        PICKLE("PERSID, BINPERSID", "Pid\nK\1Q\x86.", "- null\n- null\n"),
        PICKLE("FRAME, PROTO", "\x80\4\x95\2\0\0\0\0\0\0\0N.", "null\n"),
        PICKLE("torch.device, torch.Size", "ctorch\ndevice\nX\4\0\0\0cuda\x85Rctorch\nSize\n(K\2K\3t\x85R\x86.", "- cuda\n- - 2\n  - 3\n"),
        PICKLE("a list in itself", "]q\0h\0a.", NULL),
        /* what is refused, and how it is said */
        PICKLE("os.system", "\x80\2cos\nsystem\nX\2\0\0\0ls\x85R.", "x.pt: byte 2: global os.system is not allowed"),
        PICKLE("posix.system by STACK_GLOBAL", "X\5\0\0\0posixX\6\0\0\0system\x93.", "x.pt: byte 21: global posix.system is not allowed"),
        PICKLE("eval", "c__builtin__\neval\n.", "x.pt: byte 0: global __builtin__.eval is not allowed"),
        PICKLE("dotted name", "ccollections\nOrderedDict.fromkeys\n.", "x.pt: byte 0: global collections.OrderedDict.fromkeys is not allowed"),
        PICKLE("dotted name in a module allowed whole", "cultralytics.nn\ntasks.os.system\n.", "x.pt: byte 0: global ultralytics.nn.tasks.os.system is not allowed"),
        PICKLE("module with the same beginning", "cultralyticsx\ny\n.", "x.pt: byte 0: global ultralyticsx.y is not allowed"),
        PICKLE("YOLOv5", "cmodels.yolo\nModel\n.", "x.pt: byte 0: global models.yolo.Model is not allowed (a YOLOv5 checkpoint? expected YOLOv8)"),
        PICKLE("control characters", "co\x1b[2J\ns\n.", "x.pt: byte 0: global o?[2J.s is not allowed"),
        PICKLE("call of no global", "K\1)R.", "x.pt: byte 3: call of something that is not a global"),
        PICKLE("EXT1", "\x82\1.", "x.pt: byte 0: opcode 0x82 is not allowed"),
        PICKLE("empty stack", "\x80\2.", "x.pt: byte 2: nothing on the stack"),
        PICKLE("no mark", "K\1t.", "x.pt: byte 2: no mark on the stack"),
        PICKLE("below the mark", "K\1(\x85.", "x.pt: byte 3: nothing on the stack"),
        PICKLE("cut off", "K\1", "x.pt: byte 2: pickle cut off"),
        PICKLE("truncated text", "X\377\377\377\177a.", "x.pt: byte 0: opcode 0x58 truncated"),
        PICKLE("truncated frame", "\x95\377\377\377\377\377\377\377\177N.", "x.pt: byte 0: opcode 0x95 truncated"),
        PICKLE("memo never set", "h\5.", "x.pt: byte 0: memo index 5 was never set"),
        PICKLE("memo index", "Nr\377\377\377\377.", "x.pt: byte 1: memo index 4294967295, expected less than 4194304"),
        PICKLE("key without a value", "}(K\1u.", "x.pt: byte 4: a key without a value"),
        PICKLE("protocol 9", "\x80\x09N.", "x.pt: byte 0: pickle protocol 9, expected 0 to 5"),
        PICKLE("append to a number", "K\1(K\2e.", "x.pt: byte 5: appends to something that is no container"),
        PICKLE("setitem on too little", "K\1K\2s.", "x.pt: byte 4: nothing to append to"),
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *text = pt_pickle_text(cases[i].pickle, cases[i].size);
        if (cases[i].expected && cases[i].expected[0]) CHECK_MSG(!strcmp(text, cases[i].expected), "%s: %s", cases[i].what, text);
    }
}

/* Hostile shapes: deep, wide, shared. Each ends in time, in memory, without deep recursion. */
static void test_pickle_hostile(void) {
    size_t size = 10 << 20;
    char *big = mem_alloc(size);
    memset(big, '(', size);
    CHECK(strstr(pt_pickle_text(big, size), "more than 1048576 marks"));
    memset(big, ']', size);
    CHECK(strstr(pt_pickle_text(big, size), "stack deeper than"));
    for (size_t i = 0; i + 1 < size; i += 2) memcpy(big + i, "]0", 2);
    CHECK(strstr(pt_pickle_text(big, size), "objects take more than 256 MiB"));
    size = 2 << 20;
    memset(big, ']', size / 4); /* a list in a list in a list ... */
    memset(big + size / 4 - 1, 'a', size / 4);
    big[size / 2 - 3] = '.';
    CHECK_MSG(strstr(pt_pickle_text(big, size / 2 - 2), "..."), "%s", "");
    /* each list holds the one before twice: 2^30 leaves */
    size_t at = 0;
    big[at++] = ']';
    for (int i = 0; i < 30; i++) {
        memcpy(big + at, "q\0h\0\x86", 5);
        big[at + 1] = big[at + 3] = (char)i;
        at += 5;
    }
    big[at++] = '.';
    CHECK(pt_pickle_text(big, at)[0] == '-');
    mem_free(big);
}

/* ---- checkpoints ---- */

/* tests/make_pt.py's formula. */
static float pt_formula(int64_t i, int64_t j) { return (float)((7 * i + 13 * j) % 31 - 15) / 16; }

static void pt_check_formula(const pt_model *m, bool counts) {
    int wrong = 0;
    for (int j = 0; j < m->net.param_count; j++) {
        const net_param *row = &m->net.params[j];
        const float *p = m->params + row->offset;
        int inner = row->rank == 4 ? row->dims[1] : 1, plane = row->rank == 4 ? row->dims[2] * row->dims[3] : 1;
        for (int64_t i = 0; i < row->count; i++) {
            int64_t k = i % plane, c = i / plane % inner, o = i / plane / inner;
            float want = row->group == NET_FROZEN ? (float)i : str_ends_with(row->name, "num_batches_tracked") ? (float)(counts ? j : 0) : pt_formula(i, j);
            wrong += !(p[(o * plane + k) * inner + c] == want);
        }
    }
    CHECK_MSG(!wrong, "%d elements", wrong);
}

/* Are graph, rows, stored types and values of both the same? */
static void pt_check_same(const pt_model *a, const pt_model *b) {
    CHECK(a->net.param_count == b->net.param_count && a->net.param_elements == b->net.param_elements);
    if (a->net.param_count != b->net.param_count || a->net.param_elements != b->net.param_elements) return;
    CHECK(a->net.class_count == b->net.class_count && a->net.fused == b->net.fused && a->net.activation == b->net.activation &&
          a->net.slope == b->net.slope && a->net.bn_eps == b->net.bn_eps && a->net.bn_momentum == b->net.bn_momentum);
    for (int i = 0; i < a->net.class_count; i++) CHECK(!strcmp(a->net.names[i], b->net.names[i]));
    for (int i = 0; i < a->net.param_count; i++)
        CHECK(!strcmp(a->net.params[i].name, b->net.params[i].name) && a->net.params[i].stored == b->net.params[i].stored);
    CHECK(!memcmp(a->params, b->params, (size_t)a->net.param_elements * sizeof *a->params));
    CHECK(!strcmp(a->date, b->date));
    str x = {0}, y = {0};
    yaml_write(&x, a->net.yaml);
    yaml_write(&y, b->net.yaml);
    CHECK_MSG(!strcmp(x.text, y.text), "%s against %s", x.text, y.text);
    str_free(&x);
    str_free(&y);
}

/* Reads, writes, reads: the same; and writes the same bytes again. */
static void pt_check_round_trip(const char *path, const pt_model *first) {
    pt_model second;
    yolo_error error = {0};
    uint8_t *a = NULL, *b = NULL;
    size_t size_a = 0, size_b = 0;
    const char *copy = test_temp("\xed\x95\x9c\xea\xb8\x80 copy.pt"), *again = test_temp("again.pt");
    CHECK_MSG(pt_write(copy, first, false, &error) == YOLO_OK, "%s: %s", path, error.message);
    CHECK_MSG(pt_read(copy, &second, &error) == YOLO_OK, "%s: %s", path, error.message);
    if (error.message[0]) return;
    pt_check_same(first, &second);
    CHECK(!strcmp(second.version, "yolo " YOLO_VERSION) && second.epoch == -1 && !second.has_optimizer && !second.from_ema);
    CHECK(pt_write(again, &second, false, &error) == YOLO_OK);
    CHECK(path_read(copy, 1u << 30, &a, &size_a, &error) == YOLO_OK && path_read(again, 1u << 30, &b, &size_b, &error) == YOLO_OK);
    CHECK(size_a == size_b && !memcmp(a, b, size_a));
    mem_free(a);
    mem_free(b);
    pt_free(&second);
    CHECK(pt_write(copy, first, true, &error) == YOLO_OK && pt_read(copy, &second, &error) == YOLO_OK);
    for (int i = 0; i < second.net.param_count; i++)
        CHECK(second.net.params[i].stored == (first->net.params[i].stored <= TEN_F64 ? TEN_F16 : first->net.params[i].stored));
    pt_free(&second);
}

static void test_read_training(void) {
    pt_model m;
    yolo_error error;
    CHECK_MSG(pt_read("tests/fixtures/pt_training.pt", &m, &error) == YOLO_OK, "%s", error.message);
    if (!m.params) return;
    pt_check_formula(&m, true);
    CHECK(m.from_ema && m.has_optimizer && m.epoch == 3 && !m.net.fused && m.net.class_count == 2);
    CHECK(!strcmp(m.version, "8.4.190") && !strcmp(m.date, "2026-01-02T03:04:05") && !strcmp(m.net.names[1], "\xea\xb0\x9c"));
    CHECK(m.net.activation == NET_LEAKYRELU && m.net.slope == 0.1 && m.net.bn_eps == 1e-3 && m.net.bn_momentum == 0.03);
    CHECK(!strcmp(val_text(val_get(m.train_args, "data"), ""), "/data/\xea\xb0\x9c/data.yaml") && val_integer(val_get(m.train_args, "epochs"), 0) == 100);
    CHECK(!strcmp(val_text(val_get(m.train_args, "device"), ""), "cpu") && m.net.params[0].stored == TEN_F16);
    pt_check_round_trip("training", &m);
    pt_free(&m);
}

static void test_read_fused(void) {
    pt_model m;
    yolo_error error;
    CHECK_MSG(pt_read("tests/fixtures/pt_fused.pt", &m, &error) == YOLO_OK, "%s", error.message);
    if (!m.params) return;
    pt_check_formula(&m, true);
    CHECK(m.net.fused && m.net.activation == NET_MISH && m.net.class_count == 3 && !m.from_ema && m.epoch == -1);
    pt_check_round_trip("fused", &m);
    pt_free(&m);
}

static void test_read_state_dict(void) {
    pt_model m;
    yolo_error error;
    CHECK_MSG(pt_read("tests/fixtures/pt_dict.pt", &m, &error) == YOLO_OK, "%s", error.message);
    if (!m.params) return;
    pt_check_formula(&m, true);
    CHECK(m.net.class_count == 3 && m.net.params[0].stored == TEN_BF16 && m.net.params[5].stored == TEN_I32);
    pt_check_round_trip("state dict", &m);
    pt_free(&m);
}

static void test_read_tensors(void) {
    pt_reader r = {.path = "t.pt"};
    ref_file ref;
    uint8_t *file = NULL;
    size_t size = 0;
    yolo_error error;
    zip_entry *entry = NULL;
    const uint8_t *pickle = NULL;
    r.error = &error;
    CHECK(ref_open(&ref, "tests/fixtures/pt_tensors.ref") && path_read("tests/fixtures/pt_tensors.pt", 1 << 20, &file, &size, &error) == YOLO_OK);
    CHECK(zip_open(&r.zip, "t.pt", file, size, &error) == YOLO_OK && pt_find_pickle(&r, &entry) == YOLO_OK && zip_read(&r.zip, entry, &pickle, &error) == YOLO_OK);
    if (!pickle) return;
    CHECK(pkl_read(&r.pickle, "t.pt", pickle, (size_t)entry->size, &error) == YOLO_OK);
    r.root = r.pickle.root;
    CHECK_MSG(pt_add_rows(&r, "", r.root) == YOLO_OK && r.count == ref.count && r.count > 15, "%s", error.message);
    for (int i = 0; i < r.count; i++) {
        const ref_array *want = ref_get(&ref, r.rows[i].name);
        float values[64] = {0};
        bool same = want && want->count == r.rows[i].count && want->count <= 64;
        for (int d = 0; same && d < r.rows[i].rank; d++) /* the reference has no rank 0 */ same = want->dims[d] == r.rows[i].dims[d];
        CHECK_MSG(same, "shape of %s", r.rows[i].name);
        if (!same) continue;
        CHECK(pt_copy_row(&r, &r.rows[i], &r.tensors[i], values) == YOLO_OK);
        for (int64_t k = 0; k < want->count; k++) {
            int inner = want->rank == 4 ? want->dims[1] : 1, plane = want->rank == 4 ? want->dims[2] * want->dims[3] : 1;
            int64_t at = (k / plane / inner * plane + k % plane) * inner + k / plane % inner;
            CHECK_MSG(values[at] == want->data[k], "%s[%d]: %g, expected %g", r.rows[i].name, (int)k, (double)values[at], (double)want->data[k]);
        }
        /* what was read is written back as it was */
        uint8_t raw[8];
        for (int64_t k = 0; k < want->count; k++) {
            pt_put_element(raw, values[k], r.rows[i].stored);
            CHECK(pt_element(raw, r.rows[i].stored) == values[k]);
        }
    }
    pkl_close(&r.pickle);
    zip_close(&r.zip);
    mem_free(r.rows);
    mem_free(r.tensors);
    arena_free(&r.memory);
    mem_free(file);
    ref_close(&ref);
}

/* A checkpoint of one hand-made pickle. */
static const char *pt_say(const char *pickle, size_t size) {
    static yolo_error error;
    const pt_made entries[] = {{"archive/data.pkl", pickle, size}, {"archive/data/0", "\0\0\0\0\0\0\0\0", 8}};
    str file = pt_make_zip(entries, 2, false, 0);
    pt_model m;
    error.message[0] = 0;
    if (pt_read_memory("x.pt", (uint8_t *)file.text, (size_t)file.length, true, &m, &error) == YOLO_OK) pt_free(&m);
    str_free(&file);
    return error.message;
}

static void test_read_refused(void) {
#define TENSOR(offset, size, stride) "ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\2tQ" \
    offset "(" size "t(" stride "t\x89}tR"
    static const struct { const char *pickle; size_t size; const char *expected; } cases[] = {
#define SAID(pickle, expected) {pickle, sizeof pickle - 1, expected}
        SAID("\x80\2cos\nsystem\n.", "x.pt: byte 2: global os.system is not allowed"),
        SAID("}.", "x.pt: no model in it: expected 'ema' or 'model' with a model, or a state dict"),
        SAID("}X\1\0\0\0w" TENSOR("K\0", "K\2", "K\1") "s.", "not those of a YOLOv8 detection model"),
        SAID("}X\1\0\0\0w" TENSOR("K\1", "K\2", "K\1") "s.", "tensor w: needs 3 float32 elements, its storage has 8 bytes"),
        SAID("}X\1\0\0\0w" TENSOR("K\0", "K\2K\2", "K\1K\1") "s.", "needs 3 float32 elements"),
        SAID("}X\1\0\0\0w" TENSOR("J\377\377\377\377", "K\2", "K\1") "s.", "expected sizes and strides"),
        SAID("}X\1\0\0\0w" TENSOR("K\0", "J\377\377\377\377", "K\1") "s.", "impossible size or stride"),
        SAID("}X\1\0\0\0w" TENSOR("K\0", "J\377\377\377\177J\377\377\377\177J\377\377\377\177", "K\0K\0K\0") "s.", "impossible size or stride"),
        SAID("}X\1\0\0\0w" TENSOR("K\0", "J\377\377\377\177", "\x8a\5\0\0\0\0\1") "s.", "impossible size or stride"),
        SAID("}X\5\0\0\0modelcultralytics.nn.tasks\nSegmentationModel\n)\x81}X\x08\0\0\0_modules}sbs.",
             "x.pt: holds a ultralytics.nn.tasks.SegmentationModel, expected a DetectionModel of ultralytics"),
        SAID("}X\5\0\0\0modelcultralytics.nn.tasks\nDetectionModel\n)\x81q\0}X\x08\0\0\0_modules}X\1\0\0\0ah\0ssbs.", "nested deeper than"),
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *said = pt_say(cases[i].pickle, cases[i].size);
        CHECK_MSG(strstr(said, cases[i].expected), "%s, expected %s", said, cases[i].expected);
    }
    pt_model m;
    yolo_error error;
    CHECK(pt_read_memory("x.pt", (const uint8_t *)"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15, true, &m, &error) == YOLO_ERROR_UNSUPPORTED);
    CHECK_MSG(strstr(error.message, "torch before 1.6"), "%s", error.message);
    CHECK(pt_read("tests/fixtures/pt_uint16.pt", &m, &error) != YOLO_OK && strstr(error.message, "tensor short: of a type that is not supported"));
    CHECK(pt_read("tests/fixtures/pt_tensors.pt", &m, &error) != YOLO_OK && strstr(error.message, "not those of a YOLOv8"));
    CHECK(pt_read(test_temp("none.pt"), &m, &error) == YOLO_ERROR_IO && pt_read("tests", &m, &error) == YOLO_ERROR_IO);
    CHECK(pt_read("tests/fixtures/pt_tensors.ref", &m, &error) == YOLO_ERROR_FORMAT);
}

/* Reads pt_training.pt with texts of its pickle replaced: `changes` are pairs, NULL ends them. */
static yolo_status pt_read_changed(const char *const *changes, pt_model *m, yolo_error *error) {
    pt_model original;
    zip_archive zip;
    uint8_t *file = NULL;
    size_t size = 0;
    const char *path = test_temp("changed.pt");
    if (pt_read("tests/fixtures/pt_training.pt", &original, error) != YOLO_OK || pt_write(path, &original, false, error) != YOLO_OK) return error->status;
    pt_free(&original);
    if (path_read(path, 1 << 24, &file, &size, error) != YOLO_OK || zip_open(&zip, path, file, size, error) != YOLO_OK) return error->status;
    pt_made *entries = mem_array((uint64_t)zip.count, sizeof *entries);
    str pickle = {0};
    for (int i = 0; i < zip.count; i++) {
        const zip_entry *entry = &zip.entries[i];
        entries[i] = (pt_made){entry->name, (char *)file + entry->data, (size_t)entry->size};
        if (strcmp(entry->name, "archive/data.pkl")) continue;
        for (size_t at = 0; at < entry->size;) {
            const char *p = (char *)file + entry->data + at;
            int c = 0;
            while (changes[c] && (strlen(changes[c]) > entry->size - at || memcmp(p, changes[c], strlen(changes[c])))) c += 2;
            str_append(&pickle, changes[c] ? changes[c + 1] : p, changes[c] ? strlen(changes[c + 1]) : 1);
            at += changes[c] ? strlen(changes[c]) : 1;
        }
        entries[i].data = pickle.text;
        entries[i].size = (size_t)pickle.length;
    }
    str changed = pt_make_zip(entries, zip.count, true, 0);
    yolo_status status = pt_read_memory("x.pt", (uint8_t *)changed.text, (size_t)changed.length, true, m, error);
    zip_close(&zip);
    str_free(&changed);
    str_free(&pickle);
    mem_free(entries);
    mem_free(file);
    return status;
}

/* Missing, extra and mis-shaped rows and unfit models are named. Texts have to keep their length: it comes before them. */
static void test_read_rows(void) {
    static const struct { const char *changes[3]; const char *expected; } cases[] = {
        {{"running_var", "running_vax"}, "model.0.bn.running_var is missing, expected with shape (8)"},
        {{"num_batches_tracked", "num_batches_trackex"}, "model.0.bn.num_batches_trackex with shape () is not a part of the model"},
        {{"K\x08K\3K\3K\3t", "K\x04K\6K\3K\3t"}, "model.0.conv.weight has shape (4,6,3,3), expected (8,3,3,3)"},
        {{"activation\nLeakyReLU\n", "activation\nHardswish\n"}, "activation torch.nn.modules.activation.Hardswish is not supported"},
        {{"C2f](", "C3k]("}, "x.pt: model description: layer 2: module C3k is not supported"},
        {{"backbone", "backbonx"}, "x.pt: model description: expected the lists backbone and head"},
        {{"tasks\nDetectionModel\n", "tasks\nOBBModel\n"}, "holds a ultralytics.nn.tasks.OBBModel, expected a DetectionModel"},
    };
    pt_model m;
    yolo_error error;
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        error.message[0] = 0;
        if (pt_read_changed(cases[i].changes, &m, &error) == YOLO_OK) pt_free(&m);
        CHECK_MSG(strstr(error.message, cases[i].expected), "%s, expected %s", error.message, cases[i].expected);
    }
}

/* ultralytics 8.0 had its blocks in one module, and torch.nn.modules other places for some. */
static void test_read_old_names(void) {
    static const char *const changes[] = {"ultralytics.nn.modules.conv\n", "ultralytics.nn.modules\n", "ultralytics.nn.modules.block\n",
        "ultralytics.nn.modules\n", "ultralytics.nn.modules.head\n", "ultralytics.nn.modules\n", NULL};
    pt_model m;
    yolo_error error;
    CHECK_MSG(pt_read_changed(changes, &m, &error) == YOLO_OK, "%s", error.message);
    if (!m.params) return;
    pt_check_formula(&m, true);
    CHECK(m.net.activation == NET_LEAKYRELU && m.net.slope == 0.1);
    pt_free(&m);
}

static void test_read_coco(void) {
    const char *path = test_shared("data/yolov8n-coco.pt");
    if (!path) SKIP("no shared data");
    pt_model m;
    yolo_error error;
    double start = os_clock();
    CHECK_MSG(pt_read(path, &m, &error) == YOLO_OK, "%s", error.message);
    if (!m.params) return;
    printf("    read in %.0f ms\n", (os_clock() - start) * 1e3);
    CHECK(m.net.class_count == 80 && !strcmp(m.net.names[79], "toothbrush") && m.net.scale == 'n' && m.net.param_count == 355 && m.net.params[0].stored == TEN_F16);
    CHECK(val_integer(val_get(m.train_args, "epochs"), 0) == 500);
    pt_check_round_trip(path, &m);
    pt_free(&m);
    char *text;
    CHECK(yolo_info("yolov8s.yaml", &text, &error) == YOLO_OK && strstr(text, "not trained") && strstr(text, "YOLOv8s summary"));
    mem_free(text);
    CHECK(yolo_info(path, &text, &error) == YOLO_OK);
    CHECK(strstr(text, "3,157,200") && strstr(text, "7 truck") && strstr(text, "weight_decay: 0.001") && strstr(text, "22  15,18,21"));
    mem_free(text);
}

/* ---- training state ---- */

static float pt_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* A training's model and state: the fixture's graph, every number odd, every bit pattern kept. Free both. */
static bool pt_make_training(pt_model *m, pt_state *state) {
    yolo_error error;
    if (pt_read("tests/fixtures/pt_training.pt", m, &error) != YOLO_OK) return false;
    static const char *const names[] = {"weights", "exp_avg", "empty"};
    memset(state, 0, sizeof *state);
    arena *a = &state->memory;
    for (int b = 0; b < 3; b++) {
        int64_t count = b < 2 ? m->net.param_elements : 0;
        float *data = arena_array(a, (uint64_t)count, sizeof *data);
        for (int64_t i = 0; i < count; i++) data[i] = pt_bits((uint32_t)i * 2654435761u + (uint32_t)b);
        pt_state_add(state, names[b], data, count);
    }
    m->params[5] = 0x1.23456p-30f; /* no half */
    m->epoch = 6;
    return pt_state_set(state, "epoch", val_int(a, 6)) && pt_state_set(state, "best_epoch", val_int(a, 5)) && pt_state_set(state, "updates", val_int(a, -7000000000)) &&
           pt_state_set(state, "best_fitness", val_float(a, 0.1 + 0.2)) && pt_state_set(state, "optimizer", val_string(a, "AdamW", 5));
}

/* Every allocation fails once while the file is read: an error each time, nothing lost. */
static void pt_read_faults(const char *path) {
    pt_model copy;
    yolo_error error;
    bool done = false;
    int n = 0;
    while (!done && n < 20000) {
        os_atomic_set(&mem_fail_after, ++n);
        done = pt_read(path, &copy, &error) == YOLO_OK && os_atomic_get(&mem_fail_after) > 0;
        os_atomic_set(&mem_fail_after, 0);
        if (done) pt_free(&copy);
        else if (!copy.params) CHECK_MSG(error.status == YOLO_ERROR_MEMORY, "allocation %d: %s", n, error.message);
        else pt_free(&copy);
    }
    CHECK(done && n > 20);
}

static void test_read_faults(void) {
    pt_model m;
    pt_state state;
    yolo_error error;
    pt_read_faults("tests/fixtures/pt_training.pt");
    CHECK(pt_make_training(&m, &state));
    if (!m.params) return;
    const char *path = test_temp("faults.pt");
    for (int training = 0; training < 2; training++) {
        bool done = false;
        os_remove(path);
        int n = 0;
        while (!done && n < 20000) {
            os_atomic_set(&mem_fail_after, ++n);
            bool written = (training ? pt_write_training(path, &m, &state, &error) : pt_write(path, &m, false, &error)) == YOLO_OK;
            done = written && os_atomic_get(&mem_fail_after) > 0;
            os_atomic_set(&mem_fail_after, 0);
            CHECK(os_path_kind(path) == (written ? OS_FILE : OS_NOTHING));
            if (!written) CHECK_MSG(error.status == YOLO_ERROR_MEMORY, "allocation %d: %s", n, error.message);
        }
        CHECK(done && n > 20);
    }
    pt_read_faults(path);
    pt_state_free(&state);
    pt_free(&m);
}

static void test_training_state(void) {
    pt_model m, again;
    pt_state state;
    yolo_error error;
    const char *path = test_temp("last.pt"), *second = test_temp("last2.pt");
    CHECK(pt_make_training(&m, &state));
    if (!m.params) return;
    CHECK_MSG(pt_write_training(path, &m, &state, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG(pt_read(path, &again, &error) == YOLO_OK, "%s", error.message);
    if (!again.params) return;
    CHECK(!memcmp(m.params, again.params, (size_t)m.net.param_elements * sizeof *m.params) && again.net.params[0].stored == TEN_F32);
    CHECK(again.from_ema && again.has_optimizer && again.epoch == 6 && val_number(again.best_fitness, 0) == 0.1 + 0.2 && again.state);
    if (!again.state) return;
    CHECK(val_integer(val_get(again.state->numbers, "updates"), 0) == -7000000000 && val_number(val_get(again.state->numbers, "best_fitness"), 0) == 0.1 + 0.2);
    CHECK(again.state->block_count == 3 && !pt_state_block(again.state, "none"));
    for (int b = 0; b < 3; b++) {
        const pt_block *want = &state.blocks[b], *have = pt_state_block(again.state, want->name);
        CHECK(have && have->count == want->count && !memcmp(have->data, want->data, (size_t)want->count * sizeof *want->data));
    }
    float *out = mem_array((uint64_t)m.net.param_elements, sizeof *out);
    CHECK(pt_state_take(again.state, path, "weights", out, m.net.param_elements, &error) == YOLO_OK && !memcmp(out, state.blocks[0].data, (size_t)m.net.param_elements * 4));
    CHECK(pt_state_take(again.state, path, "weights", out, 3, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "floats of 'weights', expected 3: it cannot be continued"));
    CHECK(pt_state_take(again.state, path, "none", out, 3, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "has 0 floats of 'none'"));
    mem_free(out);
    CHECK(pt_write_training(second, &again, again.state, &error) == YOLO_OK);
    uint8_t *a = NULL, *b = NULL;
    size_t size_a = 0, size_b = 0;
    CHECK(path_read(path, 1u << 30, &a, &size_a, &error) == YOLO_OK && path_read(second, 1u << 30, &b, &size_b, &error) == YOLO_OK);
    CHECK(size_a == size_b && !memcmp(a, b, size_a));
    mem_free(a);
    mem_free(b);
    char *text;
    CHECK(yolo_info(path, &text, &error) == YOLO_OK);
    CHECK_MSG(strstr(text, "training     epoch 7 of 100, best fitness 0.30000 in epoch 5, moving average of the weights, with optimizer state of AdamW; "
                           "to go on with it: resume=true\n"), "%.300s", text);
    mem_free(text);
    pt_free(&again);
    yolo_open_options options = yolo_open_defaults();
    CHECK(pt_load(path, &options, &again, &error) == YOLO_OK && again.state && again.state->block_count == 3 && !again.state->blocks[0].data);
    CHECK(pt_write(path, &again, true, &error) == YOLO_OK); /* stripped: as if it had never had a state */
    pt_free(&again);
    CHECK(pt_read(path, &again, &error) == YOLO_OK && !again.state && again.epoch == -1 && !again.best_fitness && !again.has_optimizer && !again.from_ema);
    pt_free(&again);
    pt_state_free(&state);
    pt_free(&m);
}

/* Names and bytes of the archive's pickle and of its last storage change; what is refused is said, by pt_read alone. */
static void test_training_damage(void) {
    static const struct { const char *from, *to; const char *expected; } cases[] = {
        {"numbers", "numberz", "expected 'numbers', a map"},
        {"blocks", "blockz", "expected 'blocks', a map of at most 12 tensors"},
        {"exp_avg", "weights", "two blocks of the same name"},
        {"exp_avg", "exp_av\n", NULL}, /* a strange name hurts nobody */
    };
    pt_model m, again;
    pt_state state;
    yolo_error error;
    const char *path = test_temp("damaged.pt");
    uint8_t *file = NULL;
    size_t size = 0;
    CHECK(pt_make_training(&m, &state));
    if (!m.params) return;
    CHECK(pt_write_training(path, &m, &state, &error) == YOLO_OK && path_read(path, 1u << 30, &file, &size, &error) == YOLO_OK);
    for (int i = 0; i < YOLO_COUNT(cases) && file; i++) {
        zip_archive zip;
        CHECK(zip_open(&zip, path, file, size, &error) == YOLO_OK);
        pt_made *entries = mem_array((uint64_t)zip.count, sizeof *entries);
        uint8_t *copy = mem_alloc(size);
        memcpy(copy, file, size);
        for (int e = 0; e < zip.count; e++) {
            entries[e] = (pt_made){zip.entries[e].name, (char *)copy + zip.entries[e].data, (size_t)zip.entries[e].size};
            char *text = (char *)copy + zip.entries[e].data;
            for (size_t at = 0; !strcmp(zip.entries[e].name, "archive/data.pkl") && at + 20 < zip.entries[e].size; at++)
                if (!memcmp(text + at, cases[i].from, strlen(cases[i].from)) && text[at - 5] == 'X' && text[at - 4] == (char)strlen(cases[i].from))
                    memcpy(text + at, cases[i].to, strlen(cases[i].to));
        }
        str changed = pt_make_zip(entries, zip.count, false, 0);
        yolo_status status = pt_read_memory("x.pt", (uint8_t *)changed.text, (size_t)changed.length, true, &again, &error);
        CHECK_MSG((status == YOLO_OK) == !cases[i].expected, "%s", cases[i].to);
        if (status == YOLO_OK) pt_free(&again);
        else CHECK_MSG(strstr(error.message, "x.pt: damaged training state: ") && strstr(error.message, cases[i].expected), "%s", error.message);
        str_free(&changed);
        mem_free(entries);
        mem_free(copy);
        zip_close(&zip);
    }
    zip_archive zip;
    CHECK(zip_open(&zip, path, file, size, &error) == YOLO_OK);
    char name[40];
    snprintf(name, sizeof name, "archive/data/%d", m.net.param_count + 3);
    file[zip_find(&zip, name)->data + 100] ^= 1; /* a bit of a moment */
    zip_close(&zip);
    CHECK(pt_read_memory("x.pt", file, size, true, &again, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "CRC-32"));
    CHECK(pt_read_memory("x.pt", file, size, false, &again, &error) == YOLO_OK && again.state->block_count == 3); /* the model is whole */
    pt_free(&again);
    mem_free(file);
    pt_state_free(&state);
    pt_free(&m);
}

/* Twelve blocks that are all of one storage, stretched: refused before the memory is taken. */
static void test_training_bomb(void) {
    str pickle = {0};
    pt_reader r = {.path = "x.pt"};
    pt_model m = {0};
    yolo_error error;
    r.error = &error;
    r.blocks = true;
    uint8_t *zeros = mem_array(1, 4000);
    static const char head[] = "}X\x0a\0\0\0yolo_state}(X\x07\0\0\0numbers}X\6\0\0\0" "blocks}(";
    str_append(&pickle, head, sizeof head - 1);
    for (int i = 0; i < 12; i++) {
        static const char tensor[] = "ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuM\xe8\3tQK\0(M\xe8\3t(K\1t\x89}tR";
        str_append(&pickle, "X\1\0\0\0", 5);
        str_append(&pickle, &"abcdefghijkl"[i], 1);
        str_append(&pickle, tensor, sizeof tensor - 1);
    }
    str_append(&pickle, "uus.", 4); /* inner map, state, checkpoint */
    const pt_made entries[] = {{"archive/data.pkl", pickle.text, (size_t)pickle.length}, {"archive/data/0", (char *)zeros, 4000}};
    str file = pt_make_zip(entries, 2, false, 0);
    zip_entry *entry = NULL;
    CHECK(zip_open(&r.zip, "x.pt", (uint8_t *)file.text, (size_t)file.length, &error) == YOLO_OK && pt_find_pickle(&r, &entry) == YOLO_OK);
    CHECK_MSG(pkl_read(&r.pickle, "x.pt", (uint8_t *)pickle.text, (size_t)pickle.length, &error) == YOLO_OK, "%s", error.message);
    r.root = r.pickle.root;
    CHECK(pt_read_state(&r, &m) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "its blocks are larger than the file"), "%s", error.message);
    pt_free(&m);
    pkl_close(&r.pickle);
    zip_close(&r.zip);
    str_free(&file);
    str_free(&pickle);
    mem_free(zeros);
}

/* A disk that fills up, at every place: the old file stays whole, nothing is left beside it, the sentence says why. */
static void test_training_full_disk(void) {
#ifdef _WIN32
    SKIP("needs a limit on the size of files");
#else
    pt_model m, again;
    pt_state state;
    yolo_error error;
    const char *path = test_temp("full.pt"), *partial = test_temp("full.pt.partial");
    CHECK(pt_make_training(&m, &state));
    if (!m.params) return;
    CHECK(pt_write_training(path, &m, &state, &error) == YOLO_OK);
    m.epoch = 77;
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    FILE *f = fopen(path, "rb");
    int64_t size = os_file_size(f);
    fclose(f);
    int refused = 0;
    for (int64_t allowed = 0; allowed < size; allowed += size / 37) {
        limit = before;
        limit.rlim_cur = (rlim_t)allowed;
        setrlimit(RLIMIT_FSIZE, &limit);
        error.message[0] = 0;
        yolo_status status = pt_write_training(path, &m, &state, &error);
        setrlimit(RLIMIT_FSIZE, &before);
        refused += status == YOLO_ERROR_IO;
        CHECK_MSG(!strncmp(error.message, path, strlen(path)) && strstr(error.message, "cannot write") && strstr(error.message, "large"), "%s", error.message);
        CHECK(os_path_kind(partial) == OS_NOTHING && pt_read(path, &again, &error) == YOLO_OK && again.epoch == 6);
        pt_free(&again);
    }
    signal(SIGXFSZ, old);
    CHECK(refused >= 37 && pt_write_training(path, &m, &state, &error) == YOLO_OK && pt_read(path, &again, &error) == YOLO_OK && again.epoch == 77);
    pt_free(&again);
    pt_state_free(&state);
    pt_free(&m);
#endif
}

static char pt_said[600];
static void pt_note(void *user, yolo_log_level level, const char *text) {
    (void)user, (void)level;
    snprintf(pt_said + strlen(pt_said), sizeof pt_said - strlen(pt_said), "%s\n", text);
}

/* Fine-tuning of a checkpoint with these names to those: *to is made and filled; what was said is in pt_said. */
static bool pt_fine_tune(pt_model *to, const char *const *names, int count, const char *const *before, int64_t *taken) {
    pt_model from;
    yolo_error error;
    yolo_log log = {.write = pt_note};
    if (pt_read("tests/fixtures/pt_training.pt", &from, &error) != YOLO_OK) return false;
    for (int i = 0; i < from.net.class_count; i++) from.net.names[i] = (char *)(uintptr_t)before[i];
    pt_said[0] = 0;
    bool done = pt_create(to, &from, count, (char *const *)(uintptr_t)names, -1, 3, &from, &error) == YOLO_OK &&
                pt_transfer(to, &from, &log, taken, &error) == YOLO_OK;
    pt_free(&from);
    return done;
}

/* Which class of the checkpoint class `c` has the logits of, in every level; -1 = none, -2 = not the same in all. */
static int pt_origin(const pt_model *to, const pt_model *from, int c) {
    int origin = -3;
    for (int i = 0; i < to->net.param_count; i++) {
        const net_param *a = &to->net.params[i];
        if (!strstr(a->name, ".cv3.") || (!str_ends_with(a->name, ".2.weight") && !str_ends_with(a->name, ".2.bias"))) continue;
        const net_param *b = &from->net.params[net_param_find(&from->net, a->name)];
        size_t size = (size_t)(a->count / a->dims[0]);
        int found = -1;
        for (int k = 0; k < b->dims[0]; k++)
            if (!memcmp(to->params + a->offset + (size_t)c * size, from->params + b->offset + (size_t)k * size, size * 4)) found = k;
        if (origin == -3) origin = found;
        if (origin != found) origin = -2;
    }
    return origin;
}

static void test_transfer(void) {
    static const struct { const char *what, *before[2]; int count; const char *names[4]; int origins[4]; const char *said; } cases[] = {
        {"same names", {"cat", "dog"}, 2, {"cat", "dog"}, {0, 1}, "Transferred 119/119 items"},
        {"other names, as many", {"cat", "dog"}, 2, {"bus", "car"}, {0, 1}, "Transferred 119/119"},
        {"turned", {"cat", "dog"}, 2, {"dog", "cat"}, {1, 0}, "Remapped 2/2 cls head rows from pretrained weights by class name\nTransferred 119/119"},
        {"more, by name", {"cat", "dog"}, 4, {"bus", " DOG ", "car", "Cat"}, {-1, 1, -1, 0}, "Remapped 2/4"},
        {"fewer", {"cat", "dog"}, 1, {"dog"}, {1}, "Remapped 1/1"},
        {"twice the same", {"dog", "Dog"}, 3, {"dog", "x", "y"}, {1, -1, -1}, "Remapped 1/3"},
        {"none, other count", {"cat", "dog"}, 3, {"a", "b", "c"}, {-1, -1, -1}, "Transferred 117/119"},
        {"no names before", {"0", "1"}, 3, {"0", "1", "cat"}, {-1, -1, -1}, "Transferred 117/119"},
        {"no names after", {"1", "0"}, 2, {"0", "1"}, {0, 1}, "Transferred 119/119"},
    };
    pt_model from, to;
    yolo_error error;
    CHECK(pt_read("tests/fixtures/pt_training.pt", &from, &error) == YOLO_OK);
    if (!from.params) return;
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        int64_t taken = 0;
        CHECK(pt_fine_tune(&to, cases[i].names, cases[i].count, cases[i].before, &taken));
        CHECK_MSG(strstr(pt_said, cases[i].said) && (strstr(cases[i].said, "Remapped") || !strstr(pt_said, "Remapped")), "%s: %s", cases[i].what, pt_said);
        for (int c = 0; c < cases[i].count; c++)
            CHECK_MSG(pt_origin(&to, &from, c) == cases[i].origins[c], "%s: class %d is %d", cases[i].what, c, pt_origin(&to, &from, c));
        int wrong = 0;
        for (int k = 0; k < to.net.param_count; k++) { /* all else is there */
            const net_param *a = &to.net.params[k], *b = &from.net.params[k];
            if (a->count == b->count && !strstr(a->name, ".2.")) wrong += memcmp(to.params + a->offset, from.params + b->offset, (size_t)a->count * 4) != 0;
        }
        CHECK_MSG(!wrong, "%s: %d rows", cases[i].what, wrong);
        pt_free(&to);
    }
    pt_free(&from);
}

/* From one size to another: what has the same shape, and the filters of the first convolution that both have. */
static void test_transfer_sizes(void) {
    yolo_open_options options = yolo_open_defaults();
    pt_model n, s, to;
    yolo_error error;
    int64_t taken = 0;
    options.seed = 1;
    CHECK(pt_load("yolov8n.yaml", &options, &n, &error) == YOLO_OK && pt_load("yolov8s.yaml", &options, &s, &error) == YOLO_OK);
    CHECK(pt_create(&to, &s, 3, NULL, NET_RELU, 2, &n, &error) == YOLO_OK && to.net.activation == NET_RELU && to.net.class_count == 3);
    CHECK(to.net.params[net_param_find(&to.net, "model.22.cv3.0.0.conv.weight")].dims[0] == 128); /* its own width: other inputs */
    CHECK(pt_transfer(&to, &n, NULL, &taken, &error) == YOLO_OK);
    const net_param *a = &to.net.params[0], *b = &n.net.params[0];
    CHECK(a->dims[0] == 32 && b->dims[0] == 16 && !memcmp(to.params + a->offset, n.params + b->offset, (size_t)b->count * 4));
    CHECK_MSG(taken > 20 && taken < 200, "%d rows", (int)taken);
    pt_free(&to);
    CHECK(pt_create(&to, &n, 3, NULL, -1, 2, &n, &error) == YOLO_OK && pt_transfer(&to, &n, NULL, &taken, &error) == YOLO_OK);
    CHECK(taken == 349 && to.net.params[net_param_find(&to.net, "model.22.cv3.0.0.conv.weight")].dims[0] == 80); /* that of the source */
    pt_free(&to);
    pt_free(&n);
    pt_free(&s);
}

/* A yolov8n with the state of AdamW is written within a frame or two; nothing that a disk takes part in is judged. */
static void test_training_speed(void) {
    yolo_open_options options = yolo_open_defaults();
    pt_model m;
    pt_state state = {0};
    yolo_error error;
    CHECK(pt_load("yolov8n.yaml", &options, &m, &error) == YOLO_OK);
    static const char *const names[] = {"weights", "exp_avg", "exp_avg_sq"};
    for (int b = 0; b < 3; b++) pt_state_add(&state, names[b], m.params, m.net.param_elements);
    CHECK(pt_state_set(&state, "epoch", val_int(&state.memory, 0)));
    const char *path = test_temp("speed.pt");
    double best[3] = {9, 9, 9};
    for (int i = 0; i < test_cases(5); i++) {
        pt_model again;
        double start = os_clock();
        CHECK_MSG(pt_write_training(path, &m, &state, &error) == YOLO_OK, "%s", error.message);
        double written = os_clock();
        CHECK(pt_read(path, &again, &error) == YOLO_OK);
        double end = os_clock();
        pt_free(&again);
        best[0] = YOLO_MIN(best[0], written - start);
        best[1] = YOLO_MIN(best[1], end - written);
        start = os_clock();
        CHECK(pt_write(path, &m, true, &error) == YOLO_OK);
        best[2] = YOLO_MIN(best[2], os_clock() - start);
    }
    printf("    yolov8n: last.pt with AdamW written in %.0f ms, read in %.0f ms; best.pt written in %.0f ms\n", best[0] * 1e3, best[1] * 1e3, best[2] * 1e3);
    pt_state_free(&state);
    pt_free(&m);
}

/* ---- damage ---- */

typedef struct pt_victim { uint8_t *bytes; size_t size; size_t pickle, pickle_size, record; } pt_victim;

static bool pt_victim_load(pt_victim *v, const char *path) {
    yolo_error error;
    zip_archive zip;
    memset(v, 0, sizeof *v);
    if (path_read(path, 1 << 24, &v->bytes, &v->size, &error) != YOLO_OK || zip_open(&zip, path, v->bytes, v->size, &error) != YOLO_OK) return false;
    zip_entry *entry = zip_find(&zip, "archive/data.pkl");
    if (entry && entry->method == 0) {
        v->pickle = (size_t)entry->data;
        v->pickle_size = (size_t)entry->size;
        for (size_t at = 0; at + 62 < v->size; at++)
            if (!memcmp(v->bytes + at, "PK\1\2", 4) && !memcmp(v->bytes + at + 46, "archive/data.pkl", 16)) v->record = at;
    }
    zip_close(&zip);
    return true;
}

static uint32_t pt_below(rng *r, size_t limit) { return (uint32_t)(rng_uniform(r) * (double)limit); }

/* Changes a few bytes of [from, from + size): bits, bytes, runs copied from elsewhere, interesting values. */
static void pt_damage(uint8_t *bytes, size_t size, rng *r) {
    static const uint8_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, '(', 't', 'R', 'b', 'u', 'q', 'h', '.', 0x81, 0x85, 'Q', 'X', 'K', 'J', 'N', '}'};
    for (int n = 1 + (int)pt_below(r, 4); n; n--) {
        size_t at = pt_below(r, size), from = pt_below(r, size), length = 1 + pt_below(r, 40);
        length = YOLO_MIN(length, size - YOLO_MAX(at, from));
        switch (pt_below(r, 5)) {
        case 0: bytes[at] ^= (uint8_t)(1 << pt_below(r, 8)); break;
        case 1: bytes[at] = interesting[pt_below(r, sizeof interesting)]; break;
        case 2: bytes[at] = (uint8_t)pt_below(r, 256); break;
        case 3: memmove(bytes + at, bytes + from, length); break;
        default: memset(bytes + at, interesting[pt_below(r, 5)], YOLO_MIN(length, 4)); break;
        }
    }
}

static void test_mutations(void) {
    const char *stored = test_temp("stored.pt"), *last = test_temp("last.pt");
    const char *files[] = {"tests/fixtures/pt_training.pt", "tests/fixtures/pt_fused.pt", "tests/fixtures/pt_tensors.pt", last, stored};
    zip_crc *crc = mem_alloc(sizeof *crc);
    pt_model m;
    yolo_error error;
    rng r = {.key = 20260101};
    const int rounds = test_cases(4000);
    int good = 0, bad = 0, plain = 0;
    double slowest = 0;
    zip_crc_init(crc);
    pt_state state;
    CHECK(pt_make_training(&m, &state) && pt_write(stored, &m, false, &error) == YOLO_OK && pt_write_training(last, &m, &state, &error) == YOLO_OK);
    pt_state_free(&state);
    pt_free(&m);
    pt_victim victims[YOLO_COUNT(files)];
    for (int i = 0; i < YOLO_COUNT(files); i++) CHECK(pt_victim_load(&victims[i], files[i]));
    for (int round = 0; round < rounds; round++) {
        bool deep = round % 2; /* the pickle, its CRC put right */
        const pt_victim *whole = &victims[deep ? 3 + round / 2 % 2 : round / 2 % 4];
        pt_victim v = *whole;
        v.bytes = mem_alloc(v.size);
        memcpy(v.bytes, whole->bytes, v.size);
        if (deep && v.record) {
            size_t tail = round % 4 == 1 && round % 3 ? v.pickle_size / 40 : v.pickle_size; /* the state stands at the end */
            pt_damage(v.bytes + v.pickle + v.pickle_size - tail, tail, &r);
            uint32_t sum = zip_crc_of(crc, v.bytes + v.pickle, v.pickle_size);
            for (int b = 0; b < 4; b++) v.bytes[v.record + 16 + (size_t)b] = (uint8_t)(sum >> (8 * b));
        } else if (round % 8 < 4) pt_damage(v.bytes + v.size - v.size / 4, v.size / 4, &r); /* the directory */
        else pt_damage(v.bytes, v.size, &r);
        if (round % 16 == 7) v.size = pt_below(&r, v.size);
        uint8_t *exact = mem_alloc(v.size); /* no byte behind it, for a sanitizer */
        memcpy(exact, v.bytes, v.size);
        double start = os_clock();
        error.message[0] = 0;
        if (pt_read_memory("x.pt", exact, v.size, true, &m, &error) == YOLO_OK) {
            str text = {0};
            CHECK(pt_info(&m, "x.pt", &text, &error) == YOLO_OK);
            str_free(&text);
            pt_free(&m);
            good++;
        } else {
            CHECK(error.message[0] && !strncmp(error.message, "x.pt: ", 6) && !m.params);
            plain += strstr(error.message, "byte") != NULL;
            bad++;
        }
        slowest = YOLO_MAX(slowest, os_clock() - start);
        mem_free(exact);
        mem_free(v.bytes);
    }
    for (int i = 0; i < YOLO_COUNT(files); i++) mem_free(victims[i].bytes);
    mem_free(crc);
    printf("    %d mutations: %d read, %d refused (%d with a position), slowest %.2f s, peak memory of the process %.0f MiB\n", rounds, good, bad, plain, slowest,
           (double)os_peak_memory() / 1048576);
    CHECK(good > 20 && bad > 500 && slowest < 5 && os_peak_memory() < (uint64_t)1 << 30);
}

static const test_case tests_pt[] = {
    {"zip_made", "stored and zip64 archives; cut off at every byte", test_zip_made},
    {"zip_refused", "double names, overlaps, wrong CRC, bombs", test_zip_refused},
    {"zip_inflate", "all kinds of deflate blocks; damaged streams", test_zip_inflate},
    {"zip_write", "written archives read back, aligned, atomic", test_zip_write},
    {"zip_large", "a place beyond 4 GiB, 66,000 entries", test_zip_large},
    {"zip_wide", "zip64 fields", test_zip_wide},
    {"pickle_protocols", "one value in protocols 0 to 5", test_pickle_protocols},
    {"pickle_opcodes", "each opcode; what is refused, and how it is said", test_pickle_opcodes},
    {"pickle_hostile", "deep, wide and shared pickles stay within time and memory", test_pickle_hostile},
    {"read_tensors", "strided, shared, expanded tensors of every type", test_read_tensors},
    {"read_training", "last.pt: EMA, optimizer, name spaces; there and back", test_read_training},
    {"read_fused", "fused model; there and back", test_read_fused},
    {"read_state_dict", "bare state dict; there and back", test_read_state_dict},
    {"read_coco", "yolov8n-coco.pt; there and back; info", test_read_coco},
    {"read_refused", "no model, other models, impossible tensors, old files", test_read_refused},
    {"read_rows", "missing, extra, mis-shaped rows and unfit models are named", test_read_rows},
    {"read_old_names", "module names of ultralytics 8.0", test_read_old_names},
    {"read_faults", "each allocation of reading and writing fails once", test_read_faults},
    {"training_state", "last.pt there and back: every bit, info, stripped again", test_training_state},
    {"transfer", "classes by name, as ultralytics does", test_transfer},
    {"transfer_sizes", "into another size; class branch of the source", test_transfer_sizes},
    {"training_damage", "training states that are none; a damaged moment hurts going on alone", test_training_damage},
    {"training_bomb", "blocks that share a storage", test_training_bomb},
    {"training_full_disk", "a disk that fills up leaves the old file", test_training_full_disk},
    {"training_speed", "last.pt and best.pt of yolov8n", test_training_speed},
    {"mutations", "4,000 damaged checkpoints: an error or a result", test_mutations},
};
