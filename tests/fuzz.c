/* fuzz.c - damaged files, before every parser: pictures, TIFF, WebP, EXIF, labels, yaml, archives, pickles, checkpoints, trainings.

   fuzz [COUNT] [FIRST_SEED] [TARGET]    COUNT mutations (2,000), of one TARGET or of all in turn, each read in a process of its own
   fuzz seeds FOLDER                     the files that mutations start from, as FOLDER/TARGET/N: a corpus
   A case is a function of its seed alone: "fuzz 1 SEED TARGET" repeats it; what it read stays in the scratch folder.
   Good is an error with a message, or a result; bad is a crash, a sanitizer's report, more than 20 s or more than 1 GB.
   Ends with "N passed, N failed, N skipped". Meant to be built with -fsanitize=address,undefined; needs fork.

   With -DFUZZ_GUIDED and clang's -fsanitize=fuzzer, libFuzzer leads instead, by what code each mutation reaches: tests/fuzz.sh.
   "--target=NAME" chooses; the other options are libFuzzer's, and a file instead of a folder repeats a case. */
#define YOLO_NO_MAIN
#define YOLO_TESTING
#ifndef YOLO_NO_CUDA
#define YOLO_NO_CUDA
#endif
#include "../yolo.c"
#include <sys/wait.h>

enum { FUZZ_SECONDS = 20, FUZZ_MEGABYTES = 1024, FUZZ_SEEDS = 128, FUZZ_PARAMETERS = 8 << 20 };
static const char fuzz_folder[] = "build/fuzz";

typedef struct fuzz_file { uint8_t *bytes; size_t size; } fuzz_file;

/* ---- readers: 0 = a result, 1 = an error with a message, 2 = an error without one ---- */

static int fuzz_verdict(yolo_status status, const yolo_error *error) {
    return status == YOLO_OK ? 0 : error->message[0] && error->status == status ? 1 : 2;
}

static int fuzz_picture(const char *path, const fuzz_file *file) {
    yolo_error error = {0};
    yolo_image image = {0};
    int width, height;
    codec_size(path, &width, &height, &error);
    yolo_status status = codec_read_memory(path, file->bytes, file->size, &image, &error);
    int verdict = fuzz_verdict(status, &error);
    if (status != YOLO_OK && image.pixels) verdict = 2;
    yolo_image_free(&image);
    return verdict;
}

static int fuzz_labels(const char *path, const fuzz_file *file) {
    (void)file;
    yolo_error error = {0};
    lbl_list list = {0};
    yolo_status status = lbl_read(path, 80, &list, NULL, &error);
    lbl_list_free(&list);
    return fuzz_verdict(status, &error);
}

static int fuzz_dataset(const char *path, const fuzz_file *file) {
    (void)file;
    yolo_error error = {0};
    data_set set;
    yolo_status status = data_open(&set, path, &error);
    if (status == YOLO_OK) data_close(&set);
    return fuzz_verdict(status, &error);
}

static int fuzz_yaml(const char *path, const fuzz_file *file) {
    yolo_error error = {0};
    arena memory = {0};
    val *root;
    int verdict = fuzz_verdict(yaml_parse(&memory, path, (const char *)file->bytes, file->size, &root, &error), &error);
    arena_free(&memory);
    return verdict;
}

static int fuzz_exif(const char *path, const fuzz_file *file) {
    (void)path;
    codec_header header = {0};
    codec_exif(&header, file->bytes, file->size);
    return header.orientation >= 0 && header.orientation <= 8 ? 0 : 2; /* 0: it says none */
}

/* Where the JSON value at `at` ends when it is well-formed, else NULL: RFC 8259, to `depth` containers deep. */
static const char *fuzz_json_end(const char *at, const char *end, int depth) {
    static const char digits[] = "0123456789";
    while (at < end && strchr(" \n", *at)) at++;
    if (at == end) return NULL;
    if (*at == '"') {
        const char *from = ++at;
        for (; at < end && *at != '"'; at++)
            if ((unsigned char)*at < 0x20) return NULL;
            else if (*at == '\\' && (++at == end || !strchr("\"\\/bfnrtu", *at) || (*at == 'u' && (end - at < 5 || strspn(at + 1, "0123456789abcdefABCDEF") < 4))))
                return NULL;
        return at < end && str_is_utf8(from, (size_t)(at - from)) ? at + 1 : NULL;
    }
    if (*at == '{' || *at == '[') {
        const char close = *at == '{' ? '}' : ']';
        if (!depth) return NULL;
        for (bool first = true;; first = false) {
            do at++;
            while (at < end && strchr(" \n", *at));
            if (at == end) return NULL;
            if (first && *at == close) return at + 1;
            if (close == '}') {
                if (*at != '"' || !(at = fuzz_json_end(at, end, depth - 1)) || at == end || *at++ != ':') return NULL;
            }
            if (!(at = fuzz_json_end(at, end, depth - 1))) return NULL;
            while (at < end && strchr(" \n", *at)) at++;
            if (at < end && *at == close) return at + 1;
            if (at == end || *at != ',') return NULL;
        }
    }
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++)
        if (!strncmp(at, words[i], strlen(words[i]))) return at + strlen(words[i]);
    if (*at == '-') at++;
    size_t whole = strspn(at, digits);
    if (!whole || (whole > 1 && *at == '0')) return NULL;
    at += whole;
    if (*at == '.') {
        if (!strspn(at + 1, digits)) return NULL;
        at += 1 + strspn(at + 1, digits);
    }
    if (*at == 'e' || *at == 'E') {
        at += 1 + (at[1] == '-' || at[1] == '+');
        if (!strspn(at, digits)) return NULL;
        at += strspn(at, digits);
    }
    return at;
}

/* Writes JSON of any names and numbers: what comes out must be JSON. The bytes say what is written: a kind, then its text or number. */
static int fuzz_json(const char *path, const fuzz_file *file) {
    (void)path;
    json j = {0};
    cur c = cur_make(file->bytes, file->size);
    int depth = 1;
    bool objects[JSON_MAX_DEPTH] = {true};
    json_object(&j, NULL);
    while (c.at < c.size) {
        const uint64_t kind = cur_le(&c, 1) % 8, claimed = cur_le(&c, 1), length = YOLO_MIN(claimed, c.size - c.at);
        if (c.failed) break;
        char key[16];
        uint8_t bytes[256] = {0};
        snprintf(key, sizeof key, "%llu", (unsigned long long)c.at);
        memcpy(bytes, c.bytes + c.at, (size_t)length);
        cur_take(&c, length);
        double number;
        int64_t whole;
        memcpy(&number, bytes, sizeof number);
        memcpy(&whole, bytes, sizeof whole);
        const char *name = objects[depth - 1] ? kind == 7 ? (const char *)bytes : key : NULL;
        if (kind == 0 && depth < JSON_MAX_DEPTH) json_object(&j, name), objects[depth++] = true;
        else if (kind == 1 && depth < JSON_MAX_DEPTH) json_array(&j, name), objects[depth++] = false;
        else if (kind == 2 && depth > 1) json_end(&j), depth--;
        else if (kind == 3) json_int(&j, name, whole);
        else if (kind == 4) json_number(&j, name, number, (int)(length % 12));
        else if (kind == 5) json_bool(&j, name, length & 1);
        else json_text_part(&j, name, (const char *)bytes, (size_t)length);
    }
    for (; depth; depth--) json_end(&j);
    const char *end = j.text.text + j.text.length, *at = j.text.text ? fuzz_json_end(j.text.text, end, JSON_MAX_DEPTH + 1) : NULL;
    while (at && at < end && *at == '\n') at++;
    const int verdict = at == end ? 0 : 2;
    json_free(&j);
    return verdict;
}

/* Reads every entry. */
static int fuzz_zip(const char *path, const fuzz_file *file) {
    yolo_error error = {0};
    zip_archive zip;
    int verdict = fuzz_verdict(zip_open(&zip, path, file->bytes, file->size, &error), &error);
    if (verdict) return verdict;
    for (int i = 0; i < zip.count && verdict < 2; i++) {
        const uint8_t *bytes;
        error = (yolo_error){0};
        verdict = YOLO_MAX(verdict, fuzz_verdict(zip_read(&zip, &zip.entries[i], &bytes, &error), &error));
    }
    zip_close(&zip);
    return verdict;
}

static int fuzz_pickle(const char *path, const fuzz_file *file) {
    yolo_error error = {0};
    pkl pickle;
    int verdict = fuzz_verdict(pkl_read(&pickle, path, file->bytes, file->size, &error), &error);
    if (!verdict) pkl_close(&pickle);
    return verdict;
}

/* Opens as a model (.yaml or .pt) and describes it. A description may ask for a network of any size, which then takes the memory it
   takes: large ones are described alone. */
static int fuzz_model(const char *path, const fuzz_file *file) {
    (void)file;
    yolo_error error = {0};
    yolo_model *model = NULL;
    pt_model m;
    char *text = NULL;
    yolo_open_options options = yolo_open_defaults();
    options.threads = 1;
    int info = fuzz_verdict(yolo_info(path, &text, &error), &error);
    yolo_text_free(text);
    error = (yolo_error){0};
    int opened = fuzz_verdict(pt_load(path, &options, &m, &error), &error);
    if (opened) return YOLO_MAX(info, opened);
    bool large = m.net.param_elements > FUZZ_PARAMETERS;
    pt_free(&m);
    if (large) return info;
    opened = fuzz_verdict(yolo_model_open(&model, path, options, &error), &error);
    yolo_model_close(model);
    return YOLO_MAX(info, opened);
}

/* ---- mutations ---- */

static size_t fuzz_at(rng *r, size_t size) { return size ? (size_t)(rng_next(r) % size) : 0; }

/* Text is damaged with what text is made of, so that more than the first character counts. */
static uint8_t fuzz_byte(rng *r, bool text) {
    static const char alphabet[] = "0123456789.-+e :,[]{}#'\"\n\r\t&*!|>%@`nNaifx\\/\xef\xbb\xbf\xed\x95\x9c";
    static const uint8_t corners[] = {0, 1, 0x7f, 0x80, 0xff, '.', '(', ')', '}', ']', 'c', 'R', 'b', 'q', 'X', 0x8a, 0x95};
    if (text && rng_next(r) % 8) return (uint8_t)alphabet[rng_next(r) % (sizeof alphabet - 1)];
    return rng_next(r) % 2 ? corners[rng_next(r) % sizeof corners] : (uint8_t)rng_next(r);
}

/* One change inside [from, from + size) of the file. Insertions and deletions only where `resize`. */
static void fuzz_change(rng *r, fuzz_file *file, size_t from, size_t size, bool text, bool resize) {
    size_t at = from + fuzz_at(r, size), left = from + size - at, wanted = 1 + fuzz_at(r, 32);
    size_t source = from + fuzz_at(r, size), length = YOLO_MIN(left, wanted), few = 1 + fuzz_at(r, 8);
    if (!size) return;
    switch (rng_next(r) % (resize ? 8 : 5)) {
    case 0: file->bytes[at] ^= (uint8_t)(1u << (rng_next(r) % 8)); break;
    case 1: file->bytes[at] = fuzz_byte(r, text); break;
    case 2: for (size_t i = 0; i < length; i++) file->bytes[at + i] = fuzz_byte(r, text); break;
    case 3: memmove(file->bytes + at, file->bytes + source, YOLO_MIN(length, from + size - source)); break;
    case 4: memset(file->bytes + at, rng_next(r) % 2 ? 0xff : 0, YOLO_MIN(length, few)); break;
    case 5: file->size = at; break;
    case 6:
        memmove(file->bytes + at, file->bytes + at + length, file->size - at - length);
        file->size -= length;
        break;
    default: /* there is room for it behind the file */
        memmove(file->bytes + at + length, file->bytes + at, file->size - at);
        file->size += length;
        for (size_t i = 0; i < length; i++) file->bytes[at + i] = fuzz_byte(r, text);
    }
}

static void fuzz_mutate(rng *r, fuzz_file *file, bool text) {
    int changes = 1 + (int)(rng_next(r) % 6);
    size_t head = rng_next(r) % 2 ? YOLO_MIN(file->size, 512) : file->size; /* headers decide most */
    for (int i = 0; i < changes; i++) fuzz_change(r, file, 0, YOLO_MIN(head, file->size), text, true);
}

static uint32_t fuzz_crc(const uint8_t *bytes, size_t size) { /* of zip, bit by bit: not the engine's own */
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* Half of the time damages the archive, else the pickle in it, whose checksum is then put right so that the damage is seen. */
static void fuzz_mutate_checkpoint(rng *r, fuzz_file *file) {
    size_t entry = 0, tail = YOLO_MIN(file->size, 65536);
    for (size_t i = file->size - tail; i + 64 < file->size; i++) /* the central directory's entry of .../data.pkl */
        if (!memcmp(file->bytes + i, "PK\1\2", 4)) {
            cur c = cur_make(file->bytes + i + 28, 2);
            size_t length = (size_t)cur_le(&c, 2);
            if (length >= 9 && i + 46 + length <= file->size && !memcmp(file->bytes + i + 46 + length - 9, "/data.pkl", 9)) entry = i;
        }
    if (!entry || rng_next(r) % 2) {
        size_t directory = YOLO_MIN(file->size, 3000);
        bool ends = rng_next(r) % 2;
        for (int i = 0; i < 3; i++) {
            size_t limit = YOLO_MIN(directory, file->size);
            fuzz_change(r, file, ends ? file->size - limit : fuzz_at(r, file->size - limit + 1), limit, false, true);
        }
        return;
    }
    cur c = cur_make(file->bytes + entry, file->size - entry);
    cur_seek(&c, 20);
    size_t size = (size_t)cur_le(&c, 4);
    cur_seek(&c, 42);
    size_t local = (size_t)cur_le(&c, 4);
    c = cur_make(file->bytes, file->size);
    cur_seek(&c, local + 26);
    size_t name = (size_t)cur_le(&c, 2), data = local + 30 + name + (size_t)cur_le(&c, 2);
    if (c.failed || data + size > file->size) return;
    int changes = 1 + (int)(rng_next(r) % 4);
    size_t end = rng_next(r) % 2 ? YOLO_MIN(size, 1000) : size; /* behind the model: arguments, state */
    for (int i = 0; i < changes; i++) fuzz_change(r, file, data + size - end, end, rng_next(r) % 4 == 0, false);
    uint32_t crc = fuzz_crc(file->bytes + data, size);
    for (int b = 0; b < 4; b++) file->bytes[local + 14 + b] = file->bytes[entry + 16 + b] = (uint8_t)(crc >> (8 * b));
}

/* ---- seeds: whole files to start from ---- */

static const char fuzz_label_text[] = "0 0.5 0.5 0.25 0.25\n17 0.1 0.2 0.05 0.1\r\n3 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n\n79 1 1 1e-3 1\n0 0.5 0.5 0.25 0.25 0.9\n";
static const char fuzz_dataset_text[] =
    "# data\npath: .\ntrain: images/train\nval: [images/val, 'images/more val']\ntest:\nnc: 3\n"
    "names:\n  0: person\n  1: \"two words\"\n  2: \xed\x95\x9c\xea\xb8\x80\ndownload: |\n  text\n";
static const char fuzz_names_text[] = "train: images/train\nval: images/val\nnames: [a, b, 'c d', \"e\\n\"]\nextra: {x: 1, y: [1, 2.5e3, null]}\n";
static const char fuzz_net_text[] =
    "nc: 2\nscales:\n  n: [0.33, 0.0625, 1024]\n"
    "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, Conv, [128, 3, 2]]\n  - [-1, 3, C2f, [128, True]]\n"
    "  - [-1, 1, Conv, [256, 3, 2]]\n  - [-1, 6, C2f, [256, True]]\n  - [-1, 1, Conv, [512, 3, 2]]\n"
    "  - [-1, 6, C2f, [512, True]]\n  - [-1, 1, Conv, [1024, 3, 2]]\n  - [-1, 3, C2f, [1024, True]]\n  - [-1, 1, SPPF, [1024, 5]]\n"
    "head:\n  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]\n  - [[-1, 6], 1, Concat, [1]]\n  - [-1, 3, C2f, [512]]\n"
    "  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]\n  - [[-1, 4], 1, Concat, [1]]\n  - [-1, 3, C2f, [256]]\n"
    "  - [-1, 1, Conv, [256, 3, 2]]\n  - [[-1, 12], 1, Concat, [1]]\n  - [-1, 3, C2f, [512]]\n  - [-1, 1, Conv, [512, 3, 2]]\n"
    "  - [[-1, 9], 1, Concat, [1]]\n  - [-1, 3, C2f, [1024]]\n  - [[15, 18, 21], 1, Detect, [nc]]\n";

static const char fuzz_small_net_text[] = /* so that a checkpoint is short */
    "nc: 2\nscales:\n  n: [0.33, 0.0625, 1024]\n"
    "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, C2f, [64, True]]\n"
    "  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, SPPF, [64, 5]]\n"
    "head:\n  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]\n  - [[-1, 2], 1, Concat, [1]]\n  - [-1, 1, Conv, [64, 3, 2]]\n"
    "  - [[7], 1, Detect, [nc]]\n";

typedef struct fuzz_target {
    const char *name, *extension;
    bool text;
    void (*mutate)(rng *r, fuzz_file *file); /* NULL = fuzz_mutate */
    int (*read)(const char *path, const fuzz_file *file);
    fuzz_file seeds[FUZZ_SEEDS];
    int count;
} fuzz_target;

static void fuzz_seed(fuzz_target *target, const void *bytes, size_t size) {
    if (target->count == FUZZ_SEEDS) return;
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, bytes, size);
    target->seeds[target->count++] = (fuzz_file){copy, size};
}

static void fuzz_seed_file(fuzz_target *target, const char *path) {
    uint8_t *bytes;
    size_t size;
    yolo_error error;
    if (path_read(path, 64u << 20, &bytes, &size, &error) != YOLO_OK) return;
    fuzz_seed(target, bytes, size);
    mem_free(bytes);
}

/* Pictures that the engine writes, and a BMP. */
static void fuzz_seed_pictures(fuzz_target *target) {
    static const char *const names[] = {"build/fuzz/seed.jpg", "build/fuzz/seed.png"};
    uint8_t pixels[24 * 40 * 3];
    rng r = {.key = 7};
    for (int i = 0; i < YOLO_COUNT(pixels); i++) pixels[i] = (uint8_t)(i / 8 + rng_next(&r) % 16);
    yolo_image image = {pixels, 40, 24};
    yolo_error error;
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        if (codec_write(names[i], &image, &error) != YOLO_OK) printf("FAIL %s\n", error.message);
        fuzz_seed_file(target, names[i]);
    }
    uint8_t bmp[54 + 3 * 4 * 2] = {'B', 'M', 78, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 24};
    fuzz_seed(target, bmp, sizeof bmp);
}

/* The fixtures with the target's extension. */
static void fuzz_seed_fixtures(fuzz_target *target) {
    yolo_error error;
    data_list list = {0};
    if (data_walk("tests/fixtures", &list, &error) == YOLO_OK)
        for (int64_t i = 0; i < list.count; i++)
            if (str_ends_with(list.paths[i], target->extension)) fuzz_seed_file(target, list.paths[i]);
    data_list_free(&list);
}

/* Reads all that going on with a training takes, and writes it again. */
static int fuzz_training(const char *path, const fuzz_file *file) {
    yolo_error error = {0};
    pt_model m;
    yolo_status status = pt_read_memory(path, file->bytes, file->size, true, &m, &error);
    int verdict = fuzz_verdict(status, &error);
    if (status != YOLO_OK) return verdict;
    float *weights = mem_array((uint64_t)m.net.param_elements, sizeof *weights);
    if (m.state && weights) {
        error = (yolo_error){0};
        verdict = fuzz_verdict(pt_state_take(m.state, path, "weights", weights, m.net.param_elements, &error), &error);
        if (verdict < 2) verdict = fuzz_verdict(pt_write_training("build/fuzz/again.pt", &m, m.state, &error), &error);
    }
    mem_free(weights);
    pt_free(&m);
    return YOLO_MAX(verdict, fuzz_model(path, file));
}

/* A tiny network in the middle of a training. */
static void fuzz_seed_training(fuzz_target *target) {
    yolo_open_options options = yolo_open_defaults();
    yolo_error error;
    pt_model m;
    pt_state state = {0};
    yolo_status status = path_write("build/fuzz/yolov8n-tiny.yaml", fuzz_small_net_text, sizeof fuzz_small_net_text - 1, false, &error);
    if (status == YOLO_OK) status = pt_load("build/fuzz/yolov8n-tiny.yaml", &options, &m, &error);
    if (status == YOLO_OK) {
        m.epoch = 4;
        pt_state_add(&state, "weights", m.params, m.net.param_elements);
        pt_state_add(&state, "exp_avg", m.params, m.net.param_elements);
        if (!pt_state_set(&state, "best_fitness", val_float(&state.memory, 0.5)) || !pt_state_set(&state, "optimizer", val_string(&state.memory, "SGD", 3)))
            status = YOLO_ERROR_MEMORY;
        if (status == YOLO_OK) status = pt_write_training("build/fuzz/seed.pt", &m, &state, &error);
        fuzz_seed_file(target, "build/fuzz/seed.pt");
        pt_state_free(&state);
        pt_free(&m);
    }
    if (status != YOLO_OK) printf("FAIL %s\n", error.message);
}

/* A tiny network written as a checkpoint, in float and in half. */
static void fuzz_seed_checkpoints(fuzz_target *target) {
    yolo_error error;
    yolo_model *model = NULL;
    yolo_status status = path_write("build/fuzz/yolov8n-tiny.yaml", fuzz_small_net_text, sizeof fuzz_small_net_text - 1, false, &error);
    if (status == YOLO_OK) status = yolo_model_open(&model, "build/fuzz/yolov8n-tiny.yaml", yolo_open_defaults(), &error);
    for (int half = 0; half < 2 && status == YOLO_OK; half++) {
        status = yolo_model_save(model, "build/fuzz/seed.pt", half, &error);
        fuzz_seed_file(target, "build/fuzz/seed.pt");
    }
    if (status != YOLO_OK) printf("FAIL %s\n", error.message);
    yolo_model_close(model);
}

static const char fuzz_http_text[] = "POST /api/%ed%95%9c?root=%2Fa+b&name=x%26y&z HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-Yolo-Token: 0123\r\n"
    "Origin: http://localhost:8080\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{\"a\": [1, 2]}\n";

/* Bytes that a connection brings: where its head ends, what is in it. What it says is inside of it, and is text. */
static int fuzz_http(const char *path, const fuzz_file *file) {
    (void)path;
    const size_t size = http_head_end((const char *)file->bytes, file->size);
    char *head = malloc(size + 1);
    memcpy(head, file->bytes, size);
    head[size] = 0;
    http_request r;
    const int refused = size ? http_parse(head, size, &r) : 400;
    bool good = refused == 0 || (refused >= 400 && refused < 600);
    if (!refused) {
        const char *const texts[] = {r.path, r.host, r.origin, r.site, r.token};
        good = r.method && *r.path == '/' && r.host && r.body_size <= HTTP_BODY && r.query_count <= HTTP_FIELDS;
        for (int i = 0; i < YOLO_COUNT(texts) + r.query_count; i++) {
            const char *text = i < YOLO_COUNT(texts) ? texts[i] : r.query[i - YOLO_COUNT(texts)].value;
            if (text) good &= text >= head && text + strlen(text) < head + size && !strpbrk(text, "\r\n");
        }
        for (int i = 0; i < r.query_count; i++) good &= str_is_utf8(r.query[i].value, strlen(r.query[i].value));
        if (good) http_is_here(r.host, 8080);
    }
    free(head);
    if (!good) abort();
    return refused != 0;
}

#ifndef FUZZ_GUIDED
/* ---- one case ---- */

/* In a child: reads the mutated file. Returns NULL when that was good, else what was wrong with it. */
static const char *fuzz_case(const fuzz_target *target, uint64_t seed, char *text, size_t size) {
    rng r = {.key = hash_bytes(target->name, strlen(target->name), seed)};
    const fuzz_file *original = &target->seeds[rng_next(&r) % (uint64_t)target->count];
    fuzz_file file = {malloc(original->size + 1024), original->size};
    char path[200];
    yolo_error error;
    memcpy(file.bytes, original->bytes, original->size);
    if (target->mutate) target->mutate(&r, &file);
    else fuzz_mutate(&r, &file, target->text);
    snprintf(path, sizeof path, "%s/%s%s", fuzz_folder, target->name, target->extension);
    if (path_write(path, file.bytes, file.size, false, &error) != YOLO_OK) return "the case cannot be written";
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        uint8_t *exact = malloc(file.size ? file.size : 1); /* so that a byte too far is seen */
        memcpy(exact, file.bytes, file.size);
        free(file.bytes);
        alarm(FUZZ_SECONDS);
        int verdict = target->read(path, &(fuzz_file){exact, file.size});
        free(exact);
        _exit(verdict);
    }
    free(file.bytes);
    int status = 0;
    struct rusage usage = {0};
    if (child < 0 || wait4(child, &status, 0, &usage) != child) return "the case cannot be run";
    if (usage.ru_maxrss / 1024 > FUZZ_MEGABYTES) {
        snprintf(text, size, "%ld MB of memory", (long)usage.ru_maxrss / 1024);
        return text;
    }
    if (WIFSIGNALED(status)) {
        snprintf(text, size, WTERMSIG(status) == SIGALRM ? "more than %d s" : "signal %d",
                 WTERMSIG(status) == SIGALRM ? FUZZ_SECONDS : WTERMSIG(status));
        return text;
    }
    if (WEXITSTATUS(status) == 2) return "an error without a message";
    return WEXITSTATUS(status) < 2 ? NULL : "a sanitizer's report";
}

#endif

/* ---- targets ---- */

static fuzz_target fuzz_targets[] = {
    {.name = "picture", .extension = ".jpg", .read = fuzz_picture},
    {.name = "webp", .extension = ".webp", .read = fuzz_picture},
    {.name = "labels", .extension = ".txt", .text = true, .read = fuzz_labels},
    {.name = "dataset", .extension = ".yaml", .text = true, .read = fuzz_dataset},
    {.name = "network", .extension = ".yaml", .text = true, .read = fuzz_model},
    {.name = "checkpoint", .extension = ".pt", .mutate = fuzz_mutate_checkpoint, .read = fuzz_model},
    {.name = "training", .extension = ".pt", .mutate = fuzz_mutate_checkpoint, .read = fuzz_training},
    {.name = "tiff", .extension = ".tif", .read = fuzz_picture},
    {.name = "exif", .extension = ".exif", .read = fuzz_exif},
    {.name = "yaml", .extension = ".yaml", .text = true, .read = fuzz_yaml},
    {.name = "zip", .extension = ".zip", .mutate = fuzz_mutate_checkpoint, .read = fuzz_zip},
    {.name = "pickle", .extension = ".pkl", .read = fuzz_pickle},
    {.name = "http", .extension = ".http", .text = true, .read = fuzz_http},
    {.name = "json", .extension = ".json", .read = fuzz_json},
};

static fuzz_target *fuzz_find(const char *name) {
    for (int t = 0; t < YOLO_COUNT(fuzz_targets); t++)
        if (!strcmp(fuzz_targets[t].name, name)) return &fuzz_targets[t];
    return NULL;
}

/* The checkpoints again as archives, and the pickles in them. */
static void fuzz_seed_archives(void) {
    static const char *const from[] = {"checkpoint", "training"};
    for (int k = 0; k < YOLO_COUNT(from); k++)
        for (int i = 0; i < fuzz_find(from[k])->count; i++) {
            const fuzz_file *file = &fuzz_find(from[k])->seeds[i];
            yolo_error error;
            zip_archive zip;
            fuzz_seed(fuzz_find("zip"), file->bytes, file->size);
            if (zip_open(&zip, "seed", file->bytes, file->size, &error) != YOLO_OK) continue;
            for (int e = 0; e < zip.count; e++) {
                const uint8_t *bytes;
                if (str_ends_with(zip.entries[e].name, "/data.pkl") && zip_read(&zip, &zip.entries[e], &bytes, &error) == YOLO_OK)
                    fuzz_seed(fuzz_find("pickle"), bytes, (size_t)zip.entries[e].size);
            }
            zip_close(&zip);
        }
}

static void fuzz_seed_all(void) {
    static const uint8_t exif[] = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 2, 1, 15, 0, 2, 0, 0, 0, 1, 'x', 0, 0, 0, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0};
    fuzz_seed_pictures(fuzz_find("picture"));
    fuzz_seed_fixtures(fuzz_find("webp"));
    fuzz_seed_fixtures(fuzz_find("tiff"));
    fuzz_seed(fuzz_find("exif"), exif, sizeof exif);
    fuzz_seed(fuzz_find("labels"), fuzz_label_text, sizeof fuzz_label_text - 1);
    for (int i = 0; i < 2; i++) {
        fuzz_target *target = fuzz_find(i ? "yaml" : "dataset");
        fuzz_seed(target, fuzz_dataset_text, sizeof fuzz_dataset_text - 1);
        fuzz_seed(target, fuzz_names_text, sizeof fuzz_names_text - 1);
    }
    fuzz_seed(fuzz_find("network"), fuzz_net_text, sizeof fuzz_net_text - 1);
    fuzz_seed(fuzz_find("yaml"), fuzz_net_text, sizeof fuzz_net_text - 1);
    fuzz_seed(fuzz_find("http"), fuzz_http_text, sizeof fuzz_http_text - 1);
    fuzz_seed_checkpoints(fuzz_find("checkpoint"));
    fuzz_seed_training(fuzz_find("training"));
    static const uint8_t json[] = "\0\0\3\10\1\2\3\4\5\6\7\10\1\0\4\10\0\0\0\0\0\0\370\177\6\5a\"\\\n\377\2\0\7\3\352\260\200\5\1";
    fuzz_seed(fuzz_find("json"), json, sizeof json - 1);
    fuzz_seed_archives();
}

#ifdef FUZZ_GUIDED
/* ---- led by libFuzzer: everything in one process ---- */

static fuzz_target *fuzz_chosen;
static char fuzz_path[200];

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t most);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    yolo_error error;
    for (int i = 1; i < *argc; i++)
        if (!strncmp((*argv)[i], "--target=", 9)) fuzz_chosen = fuzz_find((*argv)[i] + 9);
    if (!fuzz_chosen || path_make_directories(fuzz_folder, &error) != YOLO_OK) {
        fprintf(stderr, "--target=NAME is needed, one of fuzz.c's\n");
        exit(1);
    }
    snprintf(fuzz_path, sizeof fuzz_path, "%s/guided-%s%s", fuzz_folder, fuzz_chosen->name, fuzz_chosen->extension);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    FILE *f = fopen(fuzz_path, "wb");
    if (!f || fwrite(bytes, 1, size, f) != size || fclose(f)) abort();
    uint8_t *exact = malloc(size ? size : 1); /* the caller's is const */
    memcpy(exact, bytes, size);
    int verdict = fuzz_chosen->read(fuzz_path, &(fuzz_file){exact, size});
    free(exact);
    if (verdict == 2) {
        fprintf(stderr, "%s: an error without a message, or a message without an error\n", fuzz_chosen->name);
        abort();
    }
    return 0;
}

/* Half of the mutations are ours, which know what the files are made of. */
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t most, unsigned seed) {
    rng r = {.key = seed};
    if (rng_next(&r) % 2 || (!fuzz_chosen->mutate && !fuzz_chosen->text)) return LLVMFuzzerMutate(bytes, size, most);
    fuzz_file file = {malloc(size + 1024), size};
    memcpy(file.bytes, bytes, size);
    if (fuzz_chosen->mutate) fuzz_chosen->mutate(&r, &file);
    else fuzz_mutate(&r, &file, true);
    size = YOLO_MIN(file.size, most);
    memcpy(bytes, file.bytes, size);
    free(file.bytes);
    return size;
}

#else
/* ---- led by a seed: a process a case ---- */

static int fuzz_write_seeds(const char *folder) {
    char path[400];
    yolo_error error = {0};
    yolo_status status = YOLO_OK;
    for (int t = 0; t < YOLO_COUNT(fuzz_targets) && status == YOLO_OK; t++)
        for (int i = 0; i < fuzz_targets[t].count && status == YOLO_OK; i++) {
            snprintf(path, sizeof path, "%s/%s", folder, fuzz_targets[t].name);
            status = path_make_directories(path, &error);
            snprintf(path, sizeof path, "%s/%s/%d", folder, fuzz_targets[t].name, i);
            if (status == YOLO_OK) status = path_write(path, fuzz_targets[t].seeds[i].bytes, fuzz_targets[t].seeds[i].size, false, &error);
        }
    if (status != YOLO_OK) printf("%s\n", error.message);
    return status != YOLO_OK;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 2000, passed = 0, failed = 0;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    yolo_error error;
    if (path_make_directories(fuzz_folder, &error) != YOLO_OK) return 1;
    fuzz_seed_all();
    if (argc == 3 && !strcmp(argv[1], "seeds")) return fuzz_write_seeds(argv[2]);
    const fuzz_target *only = argc > 3 ? fuzz_find(argv[3]) : NULL;
    if (argc > 3 && !only) return printf("no target %s\n", argv[3]), 1;
    for (int i = 0; i < count; i++) {
        const fuzz_target *target = only ? only : &fuzz_targets[(first + (uint64_t)i) % YOLO_COUNT(fuzz_targets)];
        char text[100];
        const char *wrong = target->count ? fuzz_case(target, first + (uint64_t)i, text, sizeof text) : "no file to start from";
        if (wrong) printf("FAIL fuzz 1 %llu %s: %s\n", (unsigned long long)first + (unsigned long long)i, target->name, wrong);
        if (wrong) failed++;
        else passed++;
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed || !passed;
}
#endif
