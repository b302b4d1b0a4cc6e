/* test_net.c - the model graph: parameter tables, operators, memory plans, damaged descriptions. */

static bool test_net_builtin(net *n, const char *name, int classes, bool fused) {
    arena memory = {0};
    yolo_error error = {0};
    val *yaml = net_builtin_yaml(&memory, name);
    CHECK_MSG(yaml, "%s", name);
    yolo_status status = yaml ? net_build(n, yaml, NULL, classes, NULL, -1, fused, &error) : YOLO_ERROR_USAGE;
    CHECK_MSG(status == YOLO_OK, "%s: %s", name, error.message);
    arena_free(&memory);
    return status == YOLO_OK;
}

static int64_t test_net_trained(const net *n) { /* what torch calls parameters: no running statistics */
    int64_t count = 0;
    for (int i = 0; i < n->param_count; i++) count += n->params[i].group == NET_BN_STAT ? 0 : n->params[i].count;
    return count;
}

static void test_net_parameter_counts(void) {
    static const struct { const char *name; int64_t parameters; } models[] = {
        {"yolov8n.yaml", 3157200}, {"yolov8s.yaml", 11166560}, {"yolov8m", 25902640}, {"yolov8l.yaml", 43691520},
        {"yolov8x.yaml", 68229648}, {"yolov8.yaml", 3157200}, {"yolov8n-p2.yaml", 3354144}, {"yolov8x-p2", 66637536}};
    for (int i = 0; i < YOLO_COUNT(models); i++) {
        net n;
        if (!test_net_builtin(&n, models[i].name, 0, false)) continue;
        CHECK_MSG(test_net_trained(&n) == models[i].parameters, "%s: %lld against %lld", models[i].name,
                  (long long)test_net_trained(&n), (long long)models[i].parameters);
        net_free(&n);
    }
    arena memory = {0};
    CHECK(!net_builtin_yaml(&memory, "yolov8q.yaml") && !net_builtin_yaml(&memory, "yolov5n.yaml") && !net_builtin_yaml(&memory, "yolov8n.pt"));
    arena_free(&memory);
}

static const test_case tests_net[] = {
    {"parameter_counts", "n..x, p2: as many parameters as ultralytics counts", test_net_parameter_counts},
};
