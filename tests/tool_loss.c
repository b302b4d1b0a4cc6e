/* tool_loss.c - the training loss from a shell, for tests/oracle_loss.py.

   tool_loss IN OUT
   IN: 32-bit words. Count of cases; a case: pictures, classes, levels; stride, height, width of each; the heads, NHWC;
   targets before each picture and in all; class and x1 y1 x2 y2 of each.
   OUT, a case: box, cls, dfl, seconds (double); assigned target of each anchor, from the picture's first, or
   -1; its score; the gradients of the heads; then the losses again, without gradients. */
#define YOLO_NO_MAIN
#include "../yolo.c"

static void tool_read(FILE *f, void *to, size_t words) {
    if (fread(to, 4, words, f) != words) exit(1);
}

static void tool_case(FILE *in, FILE *out) {
    const loss_gains gains = {7.5f, 0.5f, 1.5f};
    int head[3], shape[3], first[65];
    ten heads[NET_MAX_LEVELS] = {{0}}, gradients[NET_MAX_LEVELS];
    net n = {0};
    size_t anchors = 0;
    tool_read(in, head, 3);
    n.class_count = head[1];
    n.level_count = head[2];
    for (int l = 0; l < n.level_count; l++) {
        tool_read(in, shape, 3);
        int c = LOSS_SIDES + n.class_count;
        n.strides[l] = shape[0];
        heads[l] = (ten){NULL, head[0], shape[1], shape[2], c, c};
        anchors += (size_t)shape[1] * (size_t)shape[2];
    }
    for (int l = 0; l < n.level_count; l++) {
        size_t floats = (size_t)head[0] * (size_t)heads[l].h * (size_t)heads[l].w * (size_t)heads[l].c;
        heads[l].data = mem_array(floats, sizeof(float));
        gradients[l] = heads[l];
        gradients[l].data = mem_array(floats, sizeof(float));
        tool_read(in, heads[l].data, floats);
    }
    tool_read(in, first, (size_t)head[0] + 1);
    loss_target *targets = mem_array((uint64_t)first[head[0]] + 1, sizeof *targets);
    tool_read(in, targets, (size_t)first[head[0]] * 5);
    void *workspace = mem_alloc(loss_workspace(&n, heads, first[head[0]]));
    double start = os_clock();
    loss_parts parts = loss_detect(&n, heads, gradients, targets, first, gains, workspace, NULL, NULL);
    double found[4] = {parts.box, parts.cls, parts.dfl, os_clock() - start};
    fwrite(found, sizeof *found, 4, out);
    const loss_image *images = workspace;
    for (int i = 0; i < head[0]; i++)
        for (size_t a = 0; a < anchors; a++) {
            int32_t target = images[i].target[a] < 0 ? -1 : images[i].target[a] - first[i];
            fwrite(&target, 4, 1, out);
        }
    for (int i = 0; i < head[0]; i++) fwrite(images[i].score, 4, anchors, out);
    for (int l = 0; l < n.level_count; l++)
        fwrite(gradients[l].data, sizeof(float), (size_t)head[0] * (size_t)heads[l].h * (size_t)heads[l].w * (size_t)heads[l].c, out);
    loss_parts again = loss_detect(&n, heads, NULL, targets, first, gains, workspace, NULL, NULL);
    fwrite(&again, sizeof again, 1, out);
    for (int l = 0; l < n.level_count; l++) {
        mem_free(heads[l].data);
        mem_free(gradients[l].data);
    }
    mem_free(targets);
    mem_free(workspace);
}

int main(int argc, char **argv) {
    int count = 0;
    FILE *in = argc == 3 ? os_open(argv[1], "rb") : NULL, *out = argc == 3 ? os_open(argv[2], "wb") : NULL;
    if (!in || !out) return 2;
    tool_read(in, &count, 1);
    while (count--) tool_case(in, out);
    fclose(in);
    return fclose(out) != 0;
}
