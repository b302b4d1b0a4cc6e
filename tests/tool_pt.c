/* tool_pt.c - checkpoints from a shell, for tests/oracle_pt.py.

   tool_pt rows IN.pt OUT.ref         every row of the parameter table as float32, in the order and layout of a state dict
   tool_pt copy IN.pt OUT.pt [half]   reads and writes
   tool_pt last IN.pt OUT.pt          writes it as a training's last.pt after 3 epochs, with made-up optimizer state
   tool_pt transfer IN.pt OUT.pt A,B  a model for the classes A, B with what IN.pt has for them (initial weights are zeros)
   tool_pt info IN.pt                 what `yolo info` prints
   Exit status 1 with the sentence of the error on stderr. */
#define YOLO_NO_MAIN
#include "../yolo.c"

static void tool_put(FILE *f, uint32_t value) {
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    fwrite(bytes, 1, 4, f);
}

static bool tool_rows(const pt_model *m, const char *path) {
    FILE *f = os_open(path, "wb");
    if (!f) return false;
    fwrite("YREF1\0\0\0", 1, 8, f);
    tool_put(f, (uint32_t)m->net.param_count);
    for (int i = 0; i < m->net.param_count; i++) {
        const net_param *row = &m->net.params[i];
        const float *p = m->params + row->offset;
        tool_put(f, (uint32_t)strlen(row->name));
        fwrite(row->name, 1, strlen(row->name), f);
        tool_put(f, 0);
        tool_put(f, (uint32_t)row->rank);
        for (int d = 0; d < row->rank; d++) tool_put(f, (uint32_t)row->dims[d]);
        int inner = row->rank == 4 ? row->dims[1] : 1, plane = row->rank == 4 ? row->dims[2] * row->dims[3] : 1;
        for (int64_t o = 0; o < row->count / inner / plane; o++, p += (int64_t)inner * plane)
            for (int c = 0; c < inner; c++)
                for (int k = 0; k < plane; k++) fwrite(&p[(int64_t)k * inner + c], 4, 1, f);
    }
    return fclose(f) == 0;
}

/* A state of blocks that are functions of the weights, so that a reader can check them. */
static yolo_status tool_last(pt_model *m, const char *path, yolo_error *error) {
    static const char *const names[] = {"weights", "exp_avg", "exp_avg_sq"};
    pt_state state = {0};
    arena *a = &state.memory;
    for (int b = 0; b < YOLO_COUNT(names); b++) {
        float *block = arena_array(a, (uint64_t)m->net.param_elements, sizeof *block);
        if (!block) return err_memory(error, (uint64_t)m->net.param_elements * sizeof *block);
        for (int64_t i = 0; i < m->net.param_elements; i++) block[i] = m->params[i] * (float)(b + 2);
        pt_state_add(&state, names[b], block, m->net.param_elements);
    }
    m->epoch = 2;
    bool good = pt_state_set(&state, "best_fitness", val_float(a, 0.25)) && pt_state_set(&state, "best_epoch", val_int(a, 2)) &&
                pt_state_set(&state, "updates", val_int(a, 1234)) && pt_state_set(&state, "optimizer", val_string(a, "AdamW", 5));
    yolo_status status = good ? pt_write_training(path, m, &state, error) : err_memory(error, 0);
    pt_state_free(&state);
    return status;
}

static yolo_status tool_transfer(const pt_model *from, const char *path, char *list, yolo_error *error) {
    char *names[100];
    int count = 0;
    pt_model to;
    for (char *name = strtok(list, ","); name && count < YOLO_COUNT(names); name = strtok(NULL, ",")) names[count++] = name;
    yolo_status status = pt_create(&to, from, count, names, -1, 0, from, error);
    if (status != YOLO_OK) return status;
    memset(to.params, 0, (size_t)to.net.param_elements * sizeof *to.params);
    status = pt_transfer(&to, from, NULL, NULL, error);
    if (status == YOLO_OK) status = pt_write(path, &to, false, error);
    pt_free(&to);
    return status;
}

int main(int argc, char **argv) {
    const char *verb = argc > 2 ? argv[1] : "";
    yolo_error error = {0};
    pt_model m = {0};
    if (!strcmp(verb, "info")) {
        char *text;
        if (yolo_info(argv[2], &text, &error) == YOLO_OK) {
            fputs(text, stdout);
            mem_free(text);
        }
    } else if (argc < 4) snprintf(error.message, sizeof error.message, "usage: tool_pt rows|copy|last|transfer|info IN.pt [OUT [half]]");
    else if (pt_read(argv[2], &m, &error) == YOLO_OK) {
        if (!strcmp(verb, "copy")) pt_write(argv[3], &m, argc > 4, &error);
        else if (!strcmp(verb, "last")) tool_last(&m, argv[3], &error);
        else if (!strcmp(verb, "transfer") && argc > 4) tool_transfer(&m, argv[3], argv[4], &error);
        else if (!tool_rows(&m, argv[3])) snprintf(error.message, sizeof error.message, "cannot write %s", argv[3]);
    }
    pt_free(&m);
    if (error.message[0]) fprintf(stderr, "%s\n", error.message);
    return error.message[0] != 0;
}
