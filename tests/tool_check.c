/* tool_check.c - what tests/oracle_check.py compares: a look of the trainer at a data set, as a reference dump.

   tool_check MODEL DATA.yaml IMGSZ BATCH OUT.ref [THREADS]     arrays: losses, speed, table, curves, matrix, sheets
   Build: cc -O2 -DYOLO_NO_CUDA tests/tool_check.c -o build/tool_check -lm -lpthread -ldl */
#define YOLO_NO_MAIN
#include "../yolo.c"

static int tool_fail(const yolo_error *error) {
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

static void tool_u32(FILE *file, uint32_t value) {
    for (int i = 0; i < 4; i++) fputc((int)(value >> 8 * i & 255), file);
}

/* An array of floats; `dims` ends with 0. */
static void tool_array(FILE *file, const char *name, const float *data, const int *dims) {
    int rank = 0;
    size_t count = 1;
    for (; dims[rank]; rank++) count *= (size_t)dims[rank];
    tool_u32(file, (uint32_t)strlen(name));
    fputs(name, file);
    tool_u32(file, 0);
    tool_u32(file, (uint32_t)rank);
    for (int i = 0; i < rank; i++) tool_u32(file, (uint32_t)dims[i]);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &data[i], 4);
        tool_u32(file, bits);
    }
}

typedef struct tool_sheets { float rows[EV_SHEETS][6]; } tool_sheets; /* pictures, width, height, targets, boxes, mean of the pixels */

static void tool_sheet(void *user, const ev_sheet *sheet) {
    float *row = ((tool_sheets *)user)->rows[sheet->batch];
    int64_t bytes = (int64_t)sheet->count * sheet->w * sheet->h * 3;
    double sum = 0;
    row[0] = (float)sheet->count;
    row[1] = (float)sheet->w;
    row[2] = (float)sheet->h;
    for (int i = 0; i < sheet->count; i++) {
        row[3] += (float)sheet->target_counts[i];
        row[4] += (float)sheet->boxes[i].count;
    }
    for (int64_t i = 0; i < bytes; i++) sum += sheet->pixels[i];
    row[5] = (float)(sum / (double)bytes);
}

static void tool_write(FILE *file, const ev_outcome *out, const tool_sheets *sheets) {
    const yolo_metrics *m = &out->metrics;
    int classes = m->class_count, cells = out->matrix.side * out->matrix.side;
    float *block = mem_array((uint64_t)YOLO_MAX(classes * 4 * EV_POINTS, cells) + 7, sizeof *block);
    const float losses[] = {(float)out->losses.box, (float)out->losses.cls, (float)out->losses.dfl, (float)out->fitness};
    fwrite("YREF1\0\0\0", 1, 8, file);
    tool_u32(file, 5);
    tool_array(file, "losses", losses, (int[]){4, 0});
    for (int c = -1; c < classes; c++) {
        const yolo_class_metrics all = {-1, m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95};
        const yolo_class_metrics *k = c < 0 ? &all : &m->classes[c];
        const float row[] = {(float)k->class_id, (float)k->images, (float)k->instances, (float)k->precision, (float)k->recall, (float)k->map50, (float)k->map50_95};
        memcpy(block + (c + 1) * 7, row, sizeof row);
    }
    tool_array(file, "table", block, (int[]){classes + 1, 7, 0});
    for (int c = 0; c < classes; c++)
        for (int p = 0; p < EV_POINTS; p++) {
            const ev_curve *curve = &out->curves[c];
            const double values[] = {curve->precision[p], curve->recall[p], curve->f1[p], curve->envelope[p]};
            for (int kind = 0; kind < 4; kind++) block[(c * 4 + kind) * EV_POINTS + p] = (float)values[kind];
        }
    tool_array(file, "curves", block, (int[]){classes, 4, EV_POINTS, 0});
    for (int i = 0; i < cells; i++) block[i] = (float)out->matrix.cells[i];
    tool_array(file, "matrix", block, (int[]){out->matrix.side, out->matrix.side, 0});
    tool_array(file, "sheets", &sheets->rows[0][0], (int[]){EV_SHEETS, 6, 0});
    mem_free(block);
}

static yolo_status tool_look(yolo_model *model, char **argv, ev_outcome *out, tool_sheets *sheets, yolo_error *error) {
    const loss_gains gains = {7.5f, 0.5f, 1.5f};
    const ev_extra extra = {&gains, true, tool_sheet, sheets};
    const net *net = &model->checkpoint.net;
    data_set data;
    const data_list *list;
    ev_set set;
    yolo_val_options options = yolo_val_defaults();
    pipe_job job = {.net = net, .weights = &model->weights, .pool = model->pool};
    options.imgsz = atoi(argv[3]);
    options.batch = atoi(argv[4]);
    yolo_status status = data_open(&data, argv[2], error);
    if (status != YOLO_OK) return status;
    const ev_labels labels = {.data_classes = data.class_count, .net_classes = net->class_count};
    status = data_split(&data, "val", &list, error);
    if (status == YOLO_OK) status = ev_set_open(&set, list, &labels, true, &options.log, error);
    if (status == YOLO_OK) status = ev_check(&job, &set, &options, &extra, out, error);
    if (status == YOLO_OK) ev_set_close(&set);
    data_close(&data);
    return status;
}

int main(int argc, char **argv) {
    yolo_error error;
    yolo_model *model;
    ev_outcome out = {0};
    tool_sheets sheets = {0};
    yolo_open_options open = yolo_open_defaults();
    if (argc < 6) return 2;
    if (argc > 6) open.threads = atoi(argv[6]);
    if (yolo_model_open(&model, argv[1], open, &error) != YOLO_OK) return tool_fail(&error);
    double start = os_clock();
    if (tool_look(model, argv, &out, &sheets, &error) != YOLO_OK) return tool_fail(&error);
    fprintf(stderr, "%.2f s\n", os_clock() - start);
    FILE *file = os_open(argv[5], "wb");
    if (!file) return 1;
    tool_write(file, &out, &sheets);
    bool good = !fclose(file);
    ev_outcome_free(&out);
    yolo_model_close(model);
    return good ? 0 : 1;
}
