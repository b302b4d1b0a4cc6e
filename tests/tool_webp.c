/* tool_webp.c - decodes WebP files for tests/oracle_webp.py, opacity included; measures for tests/bench_pictures.py.

   tool_webp                 reads lines "IN<tab>OUT" and writes each picture as PAM of four channels; prints "ok" or the reason a line
   tool_webp FILE COUNT      decodes any picture COUNT times and prints the milliseconds of processor time that one takes
   Build: cc -O3 -DYOLO_NO_CUDA tests/tool_webp.c -o build/tool_webp -lm -lpthread -ldl */
#define YOLO_NO_MAIN
#include "../yolo.c"

/* As codec_read_memory does, but for the orientation, and with opacity. */
static yolo_status tool_decode(const char *path, const uint8_t *bytes, size_t size, yolo_image *image, uint8_t **alpha, yolo_error *error) {
    codec_file file = {path, cur_make(bytes, size)};
    const codec_format *format;
    codec_header header;
    *image = (yolo_image){0};
    yolo_status status = codec_begin(&file, &format, &header, error);
    *alpha = mem_array(status == YOLO_OK ? (uint64_t)header.width * (uint64_t)header.height : 1, 1);
    return status == YOLO_OK ? wbp_read_file(&file, &header, image, *alpha, error) : status;
}

static void tool_write(const char *path, const yolo_image *image, const uint8_t *alpha) {
    FILE *file = fopen(path, "wb");
    if (!file) return;
    fprintf(file, "P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n", image->width, image->height);
    for (int64_t i = 0; i < (int64_t)image->width * image->height; i++) {
        fwrite(image->pixels + i * 3, 1, 3, file);
        fputc(alpha[i], file);
    }
    fclose(file);
}

static int tool_time(const char *path, int count) {
    uint8_t *bytes;
    size_t size;
    yolo_error error;
    yolo_image image;
    if (path_read(path, CODEC_MAX_FILE, &bytes, &size, &error) != YOLO_OK) return 1;
    clock_t start = clock();
    for (int i = 0; i < count; i++) {
        if (codec_read_memory(path, bytes, size, &image, &error) != YOLO_OK) return 1;
        mem_free(image.pixels);
    }
    printf("%.4f\n", (double)(clock() - start) * 1000 / CLOCKS_PER_SEC / count);
    mem_free(bytes);
    return 0;
}

int main(int argc, char **argv) {
    char line[4096];
    if (argc == 3) return tool_time(argv[1], atoi(argv[2]));
    while (fgets(line, sizeof line, stdin)) {
        char *out = strchr(line, '\t');
        if (!out) return 2;
        *out++ = 0;
        out[strcspn(out, "\n")] = 0;
        uint8_t *bytes = NULL, *alpha = NULL;
        size_t size;
        yolo_image image = {0};
        yolo_error error;
        yolo_status status = path_read(line, CODEC_MAX_FILE, &bytes, &size, &error);
        if (status == YOLO_OK) status = tool_decode(line, bytes, size, &image, &alpha, &error);
        if (status == YOLO_OK) tool_write(out, &image, alpha);
        printf("%s\n", status == YOLO_OK ? "ok" : error.message);
        fflush(stdout);
        mem_free(bytes);
        mem_free(alpha);
        mem_free(image.pixels);
    }
    return 0;
}
