/* tool_tiff.c - decodes pictures for tests/oracle_tiff.py and tests/oracle_formats.py.

   tool_tiff                 reads lines "IN<tab>OUT" and writes each picture as PPM; prints a line: "ok", "ok, but " and what is
                             missing, or the reason
   Build: cc -O3 -DYOLO_NO_CUDA tests/tool_tiff.c -o build/tool_tiff -lm -lpthread -ldl */
#define YOLO_NO_MAIN
#include "../yolo.c"

int main(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        char *out = strchr(line, '\t');
        if (!out) return 2;
        *out++ = 0;
        out[strcspn(out, "\n")] = 0;
        yolo_image image;
        yolo_error error;
        yolo_status status = codec_read(line, &image, &error);
        FILE *file = status == YOLO_OK ? fopen(out, "wb") : NULL;
        if (file) {
            fprintf(file, "P6\n%d %d\n255\n", image.width, image.height);
            fwrite(image.pixels, 3, (size_t)image.width * (size_t)image.height, file);
            fclose(file);
        }
        printf("%s%s\n", status != YOLO_OK ? "" : error.message[0] ? "ok, but " : "ok", error.message);
        fflush(stdout);
        mem_free(image.pixels);
    }
    return 0;
}
