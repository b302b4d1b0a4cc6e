/* tool_onnx.c - what tests/oracle_onnx.py compares ONNX files with.

   tool_onnx yolo ARGUMENTS               the command line
   tool_onnx input PICTURE SIDE OUT       the network's input for a picture; prints its scale and padding: gain_x gain_y left top
   tool_onnx run MODEL IN OUT CONF IOU MAX_DET AGNOSTIC
   IN, and OUT of `input`: 32-bit words n h w, then floats (n,h,w,3). OUT of `run`, a picture: floats (anchors,4+classes), as output0 but
   turned; then the number of boxes kept and of each x1 y1 x2 y2 confidence class. */
#define YOLO_NO_MAIN
#define YOLO_TESTING
#include "../yolo.c"

static int tool_fail(const yolo_error *error) {
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

static int tool_input(char **a) {
    yolo_error error;
    yolo_image image;
    if (yolo_image_read(&image, a[0], &error) != YOLO_OK) return tool_fail(&error);
    const int side = atoi(a[1]);
    img_letterbox plan = img_letterbox_plan(image.width, image.height, side, true, 32);
    const int32_t shape[3] = {1, plan.height, plan.width};
    const size_t count = (size_t)plan.height * (size_t)plan.width * 3;
    float *pixels = mem_array(count, sizeof *pixels);
    FILE *out = os_open(a[2], "wb");
    if (!pixels || !out) return 1;
    img_letterbox_run(&plan, &image, pixels);
    fwrite(shape, sizeof shape, 1, out);
    fwrite(pixels, sizeof *pixels, count, out);
    printf("%.9g %.9g %d %d\n", (double)plan.scaled_width / image.width, (double)plan.scaled_height / image.height, plan.pad_left, plan.pad_top);
    mem_free(pixels);
    yolo_image_free(&image);
    return fclose(out) != 0;
}

static void tool_write_anchors(FILE *out, const net *net, const ten *heads, int image) {
    for (int level = 0; level < net->level_count; level++)
        for (int y = 0; y < heads[level].h; y++)
            for (int x = 0; x < heads[level].w; x++) {
                const float *logits = ten_at(&heads[level], image, y, x);
                float box[4];
                det_centre_size(logits, x, y, net->strides[level], box);
                fwrite(box, sizeof box, 1, out);
                for (int c = 0; c < net->class_count; c++) {
                    const float score = det_sigmoid(logits[4 * NET_REG_MAX + c]);
                    fwrite(&score, sizeof score, 1, out);
                }
            }
}

static yolo_status tool_write(FILE *out, run_lane *lane, const det_options *detect, yolo_error *error) {
    ten heads[NET_MAX_LEVELS];
    yolo_status status = YOLO_OK;
    for (int j = 0; j < lane->net->level_count; j++) heads[j] = run_lane_head(lane, j);
    for (int i = 0; i < lane->n && status == YOLO_OK; i++) {
        yolo_boxes boxes;
        tool_write_anchors(out, lane->net, heads, i);
        status = det_run(lane->net, heads, i, detect, &boxes, NULL, error);
        if (status != YOLO_OK) break;
        const int32_t count = boxes.count;
        fwrite(&count, sizeof count, 1, out);
        for (int b = 0; b < boxes.count; b++) {
            const yolo_box *box = &boxes.items[b];
            const float row[6] = {box->x1, box->y1, box->x2, box->y2, box->confidence, (float)box->class_id};
            fwrite(row, sizeof row, 1, out);
        }
        yolo_boxes_free(&boxes);
    }
    return status;
}

static int tool_run(char **a) {
    yolo_error error;
    yolo_model *model = NULL;
    run_lane *lane = NULL;
    int32_t shape[3];
    const det_options detect = {.conf = (float)atof(a[3]), .iou = (float)atof(a[4]), .max_det = atoi(a[5]), .agnostic = atoi(a[6]) != 0};
    yolo_open_options open = yolo_open_defaults();
    open.threads = 2;
    FILE *in = os_open(a[1], "rb"), *out = os_open(a[2], "wb");
    if (!in || !out || fread(shape, sizeof shape, 1, in) != 1) return 1;
    yolo_status status = yolo_model_open(&model, a[0], open, &error);
    if (status == YOLO_OK) status = run_lane_create(&lane, model->weights.of[0], &model->checkpoint.net, model->pool, shape[0], shape[1], shape[2], &error);
    if (status != YOLO_OK) return tool_fail(&error);
    const size_t count = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * 3;
    if (fread(run_lane_input(lane), sizeof(float), count, in) != count) return 1;
    run_forward(lane);
    status = tool_write(out, lane, &detect, &error);
    run_lane_destroy(lane);
    yolo_model_close(model);
    fclose(in);
    if (status != YOLO_OK) return tool_fail(&error);
    return fclose(out) != 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "yolo")) return cli_main(argv + 2);
    if (argc == 5 && !strcmp(argv[1], "input")) return tool_input(argv + 2);
    return argc == 9 && !strcmp(argv[1], "run") ? tool_run(argv + 2) : 2;
}
