/* Tests of labelling, devices and the command line's parsing and option tables: sections 19, 20 and 22. */

static const cli_verb *test_cli_verb(const char *name) {
    int status;
    return cli_find_verb(name, &status);
}

/* Parses words separated by '|' for a verb; the message is in *error. */
static yolo_status test_cli_parse(cli_run *run, const char *verb, const char *line, yolo_error *error) {
    static char text[2048]; /* what was parsed points into it */
    char *words[64];
    int count = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *p = text; *p && count < 63;) {
        words[count++] = p;
        while (*p && *p != '|') p++;
        if (*p) *p++ = 0;
    }
    words[count] = NULL;
    memset(run, 0, sizeof *run);
    run->verb = test_cli_verb(verb);
    error->message[0] = 0;
    return cli_parse(run, words, error);
}

static void test_cli_spellings(void) {
    static const char *const lines[] = {
        "model=a.pt|source=b|conf=0.5|save_txt=true|classes=0,2", "--model|a.pt|--source|b|--conf|0.5|--save_txt|--classes|[0, 2]",
        "--model=a.pt|--source=b|--conf=.5|--save-txt=1|--classes=[0,2]", "model=x|model=a.pt|source=b|conf=0.1|conf=5e-1|save_txt|classes=0, 2",
        "--save_txt|yes|model=a.pt|source=b|conf=0.50|classes=0,2|max_det=None|device=cpu|device=auto",
    };
    for (int i = 0; i < YOLO_COUNT(lines); i++) {
        cli_run run;
        yolo_error error;
        CHECK_MSG(test_cli_parse(&run, "predict", lines[i], &error) == YOLO_OK, "%s: %s", lines[i], error.message);
        const cli_values *v = &run.values;
        CHECK_MSG(v->conf == 0.5 && v->save_txt && !v->save_conf && v->save && v->max_det == 300 && !strcmp(v->model, "a.pt") &&
                  !strcmp(v->source, "b") && !strcmp(v->device, "auto"), "%s", lines[i]);
        CHECK_MSG(v->wanted[strspn(v->wanted, "[0, ")] == '2', "%s: classes %s", lines[i], v->wanted);
    }
    cli_run run;
    yolo_error error;
    CHECK(test_cli_parse(&run, "predict", "model=a=b.pt|source=c=d|--save|false", &error) == YOLO_OK);
    CHECK(!strcmp(run.values.model, "a=b.pt") && !strcmp(run.values.source, "c=d") && !run.values.save);
    CHECK(test_cli_parse(&run, "info", "x y.pt", &error) == YOLO_OK && !strcmp(run.values.model, "x y.pt"));
    CHECK(test_cli_parse(&run, "info", "a=b.pt", &error) == YOLO_OK && !strcmp(run.values.model, "a=b.pt"));
    CHECK(test_cli_parse(&run, "predict", "model=a|source=b|--save_txt|source=c", &error) == YOLO_OK && !strcmp(run.values.source, "c"));
}

static void test_cli_complaints(void) {
    static const char *const cases[][3] = { /* verb, words, part of the message */
        {"label", "model=a|source=b|cnof=0.5", "unknown option 'cnof', did you mean 'conf'"},
        {"label", "model=a|source=b|--sorce=x", "did you mean 'source'"},
        {"predict", "save_tx=1", "did you mean 'save_txt'"},
        {"label", "model=a|source=b|conf=1.5", "conf=1.5: expected a number from 0 to 1"},
        {"label", "model=a|source=b|conf=nan", "conf=nan: expected a number"},
        {"label", "model=a|source=b|conf=0.5x", "conf=0.5x: expected"},
        {"label", "model=a|source=b|conf=", "conf=: expected"},
        {"label", "model=a|source=b|imgsz=640.5", "imgsz=640.5: expected a whole number from 32 to 8192 pixels"},
        {"label", "model=a|source=b|imgsz=99999999999999999999", "expected a whole number"},
        {"label", "model=a|source=b|max_det=-1", "max_det=-1: expected a whole number from 1"},
        {"label", "model=a|source=b|rect=maybe", "rect=maybe: expected true or false"},
        {"label", "model=a|source=b|existing=keep", "existing=keep: expected skip|replace"},
        {"label", "model=a|source=b|existing=skip|existing=", "existing=: expected skip|replace"},
        {"train", "model=a|data=b|classes=0,x", "classes=0,x: expected numbers"},
        {"train", "model=a|data=b|classes=-1", "classes=-1: expected"},
        {"train", "model=a|data=b|classes=[0,1", "expected numbers"},
        {"label", "model=a|source=b|--conf", "conf: expected a value, as in conf=0.25"},
        {"label", "model=a|source=b|--conf|--rect", "conf: expected a value"},
        {"label", "photos", "'photos': expected an option such as yolo label"},
        {"label", "source=b", "model=FILE is missing, for example: yolo label"},
        {"label", "model=a", "source=PATH is missing"},
        {"version", "all=1", "this verb has no options"},
        {"train", "data=a|model=b|epoch=3", "unknown option 'epoch', did you mean 'epochs'"},
        {"train", "data=a|model=b|learning_rate=3", "unknown option 'learning_rate'"},
        {"train", "data=a|model=b|epochs=-1", "epochs=-1: expected a whole number from 0"},
        {"train", "data=a|model=b|batch=x", "batch=x: expected a number from -1 to 1024 pictures"},
        {"train", "data=a|model=b|lr0=-1", "lr0=-1: expected a number from 0 to 1"},
        {"train", "data=a", "model=FILE is missing, for example: yolo train"},
        {"train", "model=a|resume=false", "data=FILE is missing"},
        {"info", "", "model=FILE is missing"},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        cli_run run;
        yolo_error error;
        CHECK_MSG(test_cli_parse(&run, cases[i][0], cases[i][1], &error) == YOLO_ERROR_USAGE, "%s", cases[i][1]);
        CHECK_MSG(strstr(error.message, cases[i][2]), "%s: %s", cases[i][1], error.message);
    }
}

static void test_cli_distances(void) {
    static const struct { const char *a, *b; int distance; } cases[] = {
        {"", "", 0}, {"conf", "conf", 0}, {"cnof", "conf", 1}, {"con", "conf", 1}, {"confx", "conf", 1}, {"iuo", "iou", 1},
        {"", "abc", 3}, {"kitten", "sitting", 3}, {"ca", "abc", 3}, {"sourec", "source", 1},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        CHECK_MSG(cli_distance(cases[i].a, cases[i].b) == cases[i].distance, "%s %s", cases[i].a, cases[i].b);
        CHECK_MSG(cli_distance(cases[i].b, cases[i].a) == cases[i].distance, "%s %s", cases[i].b, cases[i].a);
    }
    char word[200];
    memset(word, 'a', sizeof word);
    word[199] = 0;
    CHECK(cli_distance(word, "a") == 39);
}

/* As ultralytics' users type it. */
static void test_cli_training(void) {
    cli_run run;
    yolo_error error;
    yolo_train_options o;
    CHECK_MSG(test_cli_parse(&run, "train", "data=x.yaml|model=yolov8n.pt|epochs=3|imgsz=320|batch=-1|freeze=10|cache=True|optimizer=SGD|resume=true|"
              "workers=0|device=cpu|name=None|classes=[0, 2]|seed=7|lr0=1e-3|--cos-lr|cache=disk|amp=False|dropout=0|deterministic=True|task=detect",
              &error) == YOLO_OK, "%s", error.message);
    CHECK(cli_training(&run, &o, &error) == YOLO_OK);
    CHECK(!strcmp(o.data, "x.yaml") && !strcmp(o.model, "yolov8n.pt") && o.epochs == 3 && o.imgsz == 320 && o.batch == -1 && o.resume && o.cos_lr);
    CHECK(!strcmp(o.freeze, "10") && !strcmp(o.cache, "ram") && !strcmp(o.optimizer, "SGD") && !strcmp(o.name, "train") && o.seed == 7);
    CHECK(o.class_count == 2 && o.classes[1] == 2 && o.lr0 == 0.001 && o.workers == 0 && !o.amp && !o.activation);
    CHECK(test_cli_parse(&run, "train", "resume=runs/detect/train/weights/last.pt", &error) == YOLO_OK && cli_training(&run, &o, &error) == YOLO_OK);
    CHECK(o.resume && !o.data && !strcmp(o.model, "runs/detect/train/weights/last.pt"));
    CHECK(test_cli_parse(&run, "train", "--resume|true", &error) == YOLO_OK && cli_training(&run, &o, &error) == YOLO_OK && o.resume && !o.model);
    CHECK(test_cli_parse(&run, "train", "data=a|model=b|cache=False", &error) == YOLO_OK && cli_training(&run, &o, &error) == YOLO_OK);
    CHECK(!strcmp(o.cache, "false") && !o.resume);
    CHECK(test_cli_parse(&run, "train", "data=a|model=b|cache=rom", &error) == YOLO_OK && cli_training(&run, &o, &error) == YOLO_ERROR_USAGE);
}

/* Every row is complete, its default parses, and no two of a verb share a name. */
static void test_cli_tables(void) {
    for (int v = 0; v < YOLO_COUNT(cli_verbs); v++) {
        const cli_verb *verb = &cli_verbs[v];
        CHECK(*verb->does && !strncmp(verb->example, "yolo ", 5));
        for (int j = 0; j < YOLO_COUNT(verb->needs) && verb->needs[j]; j++)
            CHECK_MSG(cli_find(verb, verb->needs[j], strlen(verb->needs[j])), "%s %s", verb->name, verb->needs[j]);
        for (int i = 0; i < verb->option_count; i++) {
            const cli_option *option = &verb->options[i];
            cli_values values;
            yolo_error error;
            CHECK_MSG(*option->name && *option->help && option->values && option->standard, "%s %s", verb->name, option->name);
            CHECK_MSG(cli_set(&values, option, option->standard, &error) == YOLO_OK, "%s %s: %s", verb->name, option->name, error.message);
            CHECK(cli_find(verb, option->name, strlen(option->name)) == option);
            CHECK(option->kind != CLI_TEXT || *option->values);
            CHECK(!(option->kind == CLI_WHOLE || option->kind == CLI_NUMBER) || option->low < option->high);
        }
    }
}

/* The rows of a verb whose fields lie in [from, from + size) of the values have the defaults of `library`. */
static void test_cli_same_fields(const char *verb, const char *line, size_t from, size_t size, const void *library) {
    cli_run run;
    yolo_error error;
    CHECK_MSG(test_cli_parse(&run, verb, line, &error) == YOLO_OK, "%s", error.message);
    for (int i = 0; i < run.verb->option_count; i++) {
        const cli_option *option = &run.verb->options[i];
        const void *said = (const char *)&run.values + option->field, *standard = (const char *)library + (option->field - from);
        bool text = option->kind == CLI_TEXT || option->kind == CLI_CHOICE, needed = strstr(line, option->name) != NULL;
        if (option->kind == CLI_NOTHING || option->field < from || option->field >= from + size || needed) continue;
        const char *words[2] = {"", ""};
        if (text) memcpy(&words[0], said, sizeof words[0]), memcpy(&words[1], standard, sizeof words[1]);
        if (text) CHECK_MSG(!strcmp(words[0], words[1] ? words[1] : ""), "%s %s", verb, option->name);
        else CHECK_MSG(!memcmp(said, standard, option->kind == CLI_BOOL ? sizeof(bool) : option->kind == CLI_WHOLE ? sizeof(int) : sizeof(double)),
                       "%s %s", verb, option->name);
    }
}

/* What `yolo help` prints as default is what the library takes as default. */
static void test_cli_defaults(void) {
    yolo_train_options train = yolo_train_defaults();
    yolo_demo_options demo = yolo_demo_defaults();
    test_cli_same_fields("train", "data=a|model=b", CLI_AT(train), sizeof train, &train);
    test_cli_same_fields("demo", "", CLI_AT(demo), sizeof demo, &demo);
    cli_run run;
    yolo_error error;
    const cli_values *v = &run.values;
    CHECK(test_cli_parse(&run, "label", "model=a|source=b", &error) == YOLO_OK);
    yolo_label_options label = yolo_label_defaults();
    yolo_predict_options predict = yolo_predict_defaults(), said = cli_detection(v);
    CHECK(said.imgsz == predict.imgsz && said.conf == predict.conf && said.iou == predict.iou && said.max_det == predict.max_det &&
          said.agnostic_nms == predict.agnostic_nms && said.rect == predict.rect && !said.classes && !predict.classes);
    CHECK(v->save_conf == label.save_conf && label.existing == YOLO_EXISTING_SKIP && !strcmp(v->existing, "skip"));
    CHECK(label.save_labels && label.empty_labels && label.classes_file && !label.labels_subfolder && !label.save_images && !label.out);
    CHECK(test_cli_parse(&run, "predict", "model=a|source=b", &error) == YOLO_OK);
    said = cli_detection(v);
    CHECK(said.imgsz == predict.imgsz && said.conf == predict.conf && said.iou == predict.iou && said.max_det == predict.max_det);
    CHECK(v->line_width == label.line_width && v->save_crop == label.save_crop);
    CHECK(test_cli_parse(&run, "val", "model=a|data=b", &error) == YOLO_OK);
    yolo_val_options val = yolo_val_defaults();
    CHECK(!strcmp(v->split, val.split) && v->imgsz == val.imgsz && v->batch == val.batch && (float)v->conf == val.conf &&
          (float)v->iou == val.iou && v->max_det == val.max_det && v->rect == val.rect && v->single_cls == val.single_cls);
    CHECK(test_cli_parse(&run, "prepare", "source=a|out=b", &error) == YOLO_OK);
    yolo_prepare_options prepare = yolo_prepare_defaults();
    CHECK(v->share == prepare.val && !strcmp(v->mode, prepare.mode) && (uint64_t)v->seed == prepare.seed);
    CHECK(test_cli_parse(&run, "bench", "model=a", &error) == YOLO_OK);
    yolo_bench_options bench = yolo_bench_defaults();
    CHECK(v->imgsz == bench.imgsz && v->width == bench.width && v->classes.count == 1 && v->classes.ids[0] == bench.batch && v->repeats == bench.repeats &&
          v->layers == bench.layers && v->kernels == bench.kernels && v->tune == bench.tune && v->train_step == bench.train && !*v->data && !bench.data &&
          !strcmp(v->train.optimizer, bench.optimizer) && v->scaling == bench.scaling && !strcmp(v->gpu, bench.gpu) && !strcmp(v->link, bench.link) &&
          !strcmp(v->sums, bench.sums) && v->per_machine == bench.per_machine);
    CHECK(test_cli_parse(&run, "export", "model=a", &error) == YOLO_OK);
    yolo_export_options export = yolo_export_defaults();
    CHECK(!strcmp(v->export.format, export.format) && v->classes.count == 1 && v->classes.ids[0] == export.height && export.height == export.width &&
          v->export.batch == export.batch && v->export.dynamic == export.dynamic && v->export.half == export.half && v->export.nms == export.nms &&
          v->export.opset == export.opset && (float)v->conf == export.conf && (float)v->iou == export.iou && v->max_det == export.max_det &&
          v->agnostic_nms == export.agnostic_nms && !*v->out && !export.out);
    CHECK(test_cli_parse(&run, "bench", "model=a", &error) == YOLO_OK);
    yolo_open_options open = yolo_open_defaults();
    CHECK(v->threads == open.threads && (!open.device || !strcmp(v->device, open.device)) && (!open.isa || !strcmp(v->isa, open.isa)));
}

static void test_lab_names(void) {
    static const struct { const char *pattern, *name; bool matches; } cases[] = {
        {"*", "a", true}, {"*.jpg", "a.jpg", true}, {"*.jpg", "a.jpeg", false}, {"a?c*", "abc", true}, {"a?c", "ac", false},
        {"*a*b*", "xaybz", true}, {"*a*b*", "ba", false}, {"**", "", true}, {"사*", "사진.png", true}, {"", "a", false},
        {"*.*.*", "a.b.c", true}, {"*aab", "aaab", true},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        CHECK_MSG(lab_matches(cases[i].pattern, cases[i].name) == cases[i].matches, "%s %s", cases[i].pattern, cases[i].name);
    static const char *const names[] = {"person", "../../etc", "a/b:c", "", "..", "x. ", "한글\n"};
    static const char *const folders[] = {"person", ".._.._etc", "a_b_c", "3", "4", "x", "한글_"};
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        char folder[64];
        lab_folder_name(names[i], i, folder, sizeof folder);
        CHECK_MSG(!strcmp(folder, folders[i]), "%s", folder);
    }
}

static void test_lab_stems(void) {
    static const char *const stems[] = {"a", "a-2", "a", "a", "b"}, *const expected[] = {"a", "a-2", "a-3", "a-4", "b"};
    lab_run run = {0};
    CHECK(lab_set_init(&run.stems, &run.memory, 5));
    for (int i = 0; i < YOLO_COUNT(stems); i++) {
        const char *stem = lab_free_stem(&run, stems[i]);
        CHECK_MSG(stem && !strcmp(stem, expected[i]), "%s", stem);
    }
    arena_free(&run.memory);
}

static void test_lab_picture(const char *path, int seed) {
    yolo_image image = {mem_array(40 * 32, 3), 40, 32};
    for (int i = 0; i < 40 * 32 * 3; i++) image.pixels[i] = (uint8_t)(i * seed);
    yolo_error error;
    CHECK_MSG(codec_write(path, &image, &error) == YOLO_OK, "%s", error.message);
    mem_free(image.pixels);
}

/* Every allocation of a run fails once: an error each time, no label half written, and the next run finishes. */
static void test_lab_out_of_memory(void) {
    yolo_model *model;
    yolo_error error = {0};
    yolo_open_options open = yolo_open_defaults();
    open.threads = 2;
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report;
    char out[1024], source[1024], label[1100];
    snprintf(source, sizeof source, "%s", test_temp("lab_in"));
    snprintf(out, sizeof out, "%s", test_temp("lab_out"));
    CHECK(path_make_directories(source, NULL) == YOLO_OK);
    test_lab_picture(test_temp("lab_in/a.png"), 3);
    test_lab_picture(test_temp("lab_in/b.png"), 7);
    /* small: each run goes over all weights for the key of its journal */
    CHECK_MSG(yolo_model_open(&model, "tests/fixtures/net_odd.yaml", open, &error) == YOLO_OK, "%s", error.message);
    if (!model) return;
    options.source = source;
    options.out = out;
    options.predict.imgsz = 64;
    options.existing = YOLO_EXISTING_REPLACE;
    options.save_images = options.save_crop = options.save_conf = true;
    options.predict.conf = 0.00001f;
    options.predict.max_det = 3;
    int failures = 0;
    yolo_status status = YOLO_ERROR_MEMORY;
    for (long n = 1; n < 20000 && status != YOLO_OK; n++) {
        error.message[0] = 0;
        os_atomic_set(&mem_fail_after, n);
        status = yolo_label(model, options, &report, &error);
        bool failed = os_atomic_get(&mem_fail_after) <= 0;
        os_atomic_set(&mem_fail_after, 0);
        if (status != YOLO_OK) CHECK_MSG(status == YOLO_ERROR_MEMORY && error.message[0], "allocation %ld: %d %s", n, status, error.message);
        if (status == YOLO_OK && failed) { /* done without that one, or a picture was called damaged */
            CHECK_MSG(report.labelled + report.continued == 2 || report.damaged > 0, "allocation %ld: not told", n);
            status = YOLO_ERROR_MEMORY;
        }
        failures += status != YOLO_OK;
        yolo_label_report_free(&report);
    }
    CHECK_MSG(status == YOLO_OK && failures > 50, "%d allocations failed: %s", failures, error.message);
    for (int i = 0; i < 2; i++) {
        uint8_t *bytes;
        size_t size, lines = 0;
        snprintf(label, sizeof label, "%s/%s", out, i ? "b.txt" : "a.txt");
        CHECK(path_read(label, 1 << 20, &bytes, &size, &error) == YOLO_OK);
        for (size_t k = 0; k < size; k++) lines += bytes[k] == '\n';
        CHECK_MSG(lines == 3, "%s: %d lines", label, (int)lines);
        mem_free(bytes);
    }
    yolo_model_close(model);
}

static void test_dev_names(void) {
    yolo_error error;
    run_place place;
    CHECK(dev_place(NULL, true, &place, &error) == YOLO_OK && place.gpu < 0 && dev_place("auto", true, &place, &error) == YOLO_OK &&
          dev_place("CPU", true, &place, &error) == YOLO_OK && !place.device);
    CHECK(dev_place("gpu", true, &place, &error) == YOLO_ERROR_USAGE && dev_place("0;1", true, &place, &error) == YOLO_ERROR_USAGE && dev_place("-1", true, &place, &error) == YOLO_ERROR_USAGE);
    CHECK(dev_place("0", true, &place, &error) == YOLO_ERROR_DEVICE);
    CHECK_MSG(!strncmp(error.message, "GPU 0 not available: no GPU detected", 36), "%s", error.message);
    CHECK(dev_place("[3,1]", true, &place, &error) == YOLO_ERROR_DEVICE && !strncmp(error.message, "GPU 3 not", 9));
    CHECK(dev_place("cuda:2", true, &place, &error) == YOLO_ERROR_DEVICE && !strncmp(error.message, "GPU 2 not", 9));
    static const struct { const char *device, *said; } lists[] = {{"0,,1", "entry 2 of the list is empty"}, {"0,", "entry 2 of the list is empty"}, {"[2,]", "entry 2 of the list is empty"},
        {"1,0,1", "GPU 1 is named twice"}, {",", "expected auto, cpu"}, {"[0,1", "expected auto, cpu"}, {"0 1", "expected auto, cpu"}, {"0,x", "expected auto, cpu"},
        {"[]", "expected auto, cpu"}, {"99999999999", "expected auto, cpu"}, {"0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "at most 16"}};
    for (int i = 0; i < YOLO_COUNT(lists); i++) {
        CHECK(dev_place(lists[i].device, true, &place, &error) != YOLO_OK && place.gpu < 0);
        CHECK_MSG(strstr(error.message, lists[i].said), "%s: %s", lists[i].device, error.message);
    }
    run_places wanted;
    CHECK(dev_read_list(" 0, cuda:2,3", &wanted, &error) == YOLO_OK && wanted.count == 3 && wanted.items[0].gpu == 0 && wanted.items[1].gpu == 2 && wanted.items[2].gpu == 3);
    CHECK(dev_read_list("[1, 0]", &wanted, &error) == YOLO_OK && wanted.count == 2 && wanted.items[0].gpu == 1);
    double values[] = {5, 1, 4, 2};
    CHECK(bench_median(values, 4) == 3 && bench_median(values, 3) == 2 && bench_median(values, 1) == 1);
}

static const test_case tests_cli[] = {
    {"lab_names", "patterns; class names as folder names", test_lab_names},
    {"lab_stems", "pictures of one name get numbers that are free", test_lab_stems},
    {"lab_out_of_memory", "each allocation of a run fails once: an error, never a torn label", test_lab_out_of_memory},
    {"dev_names", "device= is understood; medians", test_dev_names},
    {"cli_spellings", "name=value, --name value, --flag, lists, repeats, positionals", test_cli_spellings},
    {"cli_complaints", "each wrong usage is named with what was expected", test_cli_complaints},
    {"cli_distances", "edit distance and the nearest verb", test_cli_distances},
    {"cli_training", "the options of training as ultralytics' users type them", test_cli_training},
    {"cli_tables", "option tables are complete and their defaults parse", test_cli_tables},
    {"cli_defaults", "defaults of the command line are those of the library", test_cli_defaults},
};
