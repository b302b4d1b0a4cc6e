/* tool_val.c - what tests/oracle_val.py compares: the public calls, with all digits.

   tool_val MODEL val DATA.yaml OUT.json [THREADS [BATCH]]   a line a class: id images instances P R mAP50 mAP50-95; id -1 = all
   tool_val MODEL predict CONF PICTURE ...           a line a box: index class confidence x1 y1 x2 y2
   Build: cc -O2 -DYOLO_NO_CUDA tests/tool_val.c -o build/tool_val -lm -lpthread -ldl */
#define YOLO_NO_MAIN
#include "../yolo.c"

static int tool_fail(const yolo_error *error) {
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

static void tool_log(void *user, yolo_log_level level, const char *text) {
    (void)user;
    if (level == YOLO_LOG_WARNING) fprintf(stderr, "%s\n", text);
}

static int tool_metrics(yolo_model *model, const char *data, const char *json, int batch) {
    yolo_error error;
    yolo_metrics metrics;
    yolo_val_options options = yolo_val_defaults();
    options.data = data;
    options.save_json = json;
    options.batch = batch;
    options.log.write = tool_log;
    if (yolo_val(model, options, &metrics, &error) != YOLO_OK) return tool_fail(&error);
    printf("-1 %d %d %.9f %.9f %.9f %.9f\n", metrics.images, metrics.instances, metrics.precision, metrics.recall, metrics.map50, metrics.map50_95);
    for (int i = 0; i < metrics.class_count; i++) {
        const yolo_class_metrics *m = &metrics.classes[i];
        printf("%d %d %d %.9f %.9f %.9f %.9f\n", m->class_id, m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95);
    }
    fprintf(stderr, "%.2f ms preprocess, %.2f ms inference, %.2f ms postprocess a picture\n", metrics.speed_preprocess_ms,
            metrics.speed_inference_ms, metrics.speed_postprocess_ms);
    yolo_metrics_free(&metrics);
    return 0;
}

static int tool_predict(yolo_model *model, float conf, char **pictures, int count) {
    yolo_predict_options options = yolo_predict_defaults();
    options.conf = conf;
    for (int p = 0; p < count; p++) {
        yolo_error error;
        yolo_image image;
        yolo_boxes boxes;
        if (yolo_image_read(&image, pictures[p], &error) != YOLO_OK) return tool_fail(&error);
        if (yolo_predict(model, &image, options, &boxes, &error) != YOLO_OK) return tool_fail(&error);
        for (int i = 0; i < boxes.count; i++) {
            const yolo_box *b = &boxes.items[i];
            printf("%d %d %.7f %.4f %.4f %.4f %.4f\n", p, b->class_id, (double)b->confidence, (double)b->x1, (double)b->y1, (double)b->x2, (double)b->y2);
        }
        yolo_boxes_free(&boxes);
        yolo_image_free(&image);
    }
    return 0;
}

int main(int argc, char **argv) {
    yolo_error error;
    yolo_model *model;
    yolo_open_options open = yolo_open_defaults();
    bool val = argc >= 5 && !strcmp(argv[2], "val"), predict = argc >= 5 && !strcmp(argv[2], "predict");
    if (!val && !predict) return 2;
    if (val && argc > 5) open.threads = atoi(argv[5]);
    if (yolo_model_open(&model, argv[1], open, &error) != YOLO_OK) return tool_fail(&error);
    int result = val ? tool_metrics(model, argv[3], argv[4], argc > 6 ? atoi(argv[6]) : 16) : tool_predict(model, (float)atof(argv[3]), argv + 4, argc - 4);
    yolo_model_close(model);
    return result;
}
