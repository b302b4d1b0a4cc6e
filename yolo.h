/* yolo.h - train and run YOLOv8 detectors from C, with nothing but a C compiler.

   WHAT IT IS
     The whole interface of the `yolo` engine. Two files, yolo.h and yolo.c, make the CPU build; kernels.cu adds
     NVIDIA GPUs. Everything the command line does is one of the calls below, with the same options.

   WHAT IT IS NOT
     Not a general tensor library, and no wrapper: no Python, no cuDNN, no OpenCV, no network access.

   QUICK START (tests/example.c is this text, compiled and run by the tests)
     #include "yolo.h"

     yolo_error error;
     yolo_model *model = NULL;
     if (yolo_model_open(&model, "yolov8n.pt", yolo_open_defaults(), &error) != YOLO_OK) {
         fprintf(stderr, "%s\n", error.message);
         return 1;
     }
     yolo_image image = {0};
     yolo_boxes boxes = {0};
     if (yolo_image_read(&image, "bus.jpg", &error) == YOLO_OK &&
         yolo_predict(model, &image, yolo_predict_defaults(), &boxes, &error) == YOLO_OK)
         for (int i = 0; i < boxes.count; i++)
             printf("%s %.2f\n", yolo_class_name(model, boxes.items[i].class_id), boxes.items[i].confidence);
     yolo_boxes_free(&boxes);
     yolo_image_free(&image);
     yolo_model_close(model);

     yolo_train_options train = yolo_train_defaults();
     yolo_train_report report;
     train.model = "yolov8n.pt";
     train.data = "dataset/data.yaml";
     train.epochs = 2;
     train.imgsz = 160;
     if (yolo_train(train, &report, &error) == YOLO_OK)
         printf("mAP50 %.3f: %s/weights/best.pt\n", report.map50, report.folder);
     else
         fprintf(stderr, "%s\n", error.message);

   ERRORS
     Every call that can fail returns a yolo_status and, where `error` is not NULL, writes a sentence into it:
     path, position, expected against found, reason, what to do. The library never exits, and prints nothing
     unless a yolo_log is given. A broken invariant inside the library aborts with file and line.

   THREADS
     No global state is shared by two models. One model may be used by one thread at a time; different models by
     different threads. yolo_interrupt() may be called from a signal handler.

   LIMITATIONS
     Detection only (no segmentation, pose or classification); blocks of YOLOv8 (Conv, C2f, SPPF, Concat,
     Upsample, Detect); fp32 on the CPU. This version computes on the CPU only.

   BUILD MACROS
     YOLO_NO_CUDA      leave the GPU part out: yolo.c alone, without kernels.cu
     YOLO_NO_MAIN      leave main() out, to vendor yolo.c into another program
     YOLO_MAX_DIM      largest picture side accepted, in pixels (default 65,500)

   CONTENTS
     1 version, status, errors, log      2 images and boxes       3 models      4 predict and val
     5 folders: prepare, label           6 devices and bench      7 train, demo
     8 private part (yolo.c, kernels.cu, tests)

   MIT licence, see LICENSE. */
#ifndef YOLO_H
#define YOLO_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1 version, status, errors, log ------------------------------------------------------------------------ */

#define YOLO_VERSION "0.1.0"

typedef enum yolo_status {
    YOLO_OK = 0,
    YOLO_ERROR_USAGE,       /* an argument or option makes no sense */
    YOLO_ERROR_IO,          /* the operating system refused: file, folder, disk */
    YOLO_ERROR_FORMAT,      /* a file's contents are damaged or not what they should be */
    YOLO_ERROR_UNSUPPORTED, /* understood, but this version cannot do it */
    YOLO_ERROR_MEMORY,      /* memory could not be had, or a size exceeds a cap */
    YOLO_ERROR_DEVICE,      /* GPU or driver */
    YOLO_ERROR_INTERRUPTED  /* yolo_interrupt() was called; state was saved first */
} yolo_status;

typedef struct yolo_error {
    yolo_status status;
    char message[1000]; /* UTF-8, one sentence, no newline */
} yolo_error;

typedef enum yolo_log_level { YOLO_LOG_INFO, YOLO_LOG_WARNING, YOLO_LOG_PROGRESS } yolo_log_level;

/* Where log lines go; write == NULL is silence. `text` ends without a newline; PROGRESS lines replace one another
   on a terminal. Calls are serialised. */
typedef struct yolo_log {
    void (*write)(void *user, yolo_log_level level, const char *text);
    void *user;
} yolo_log;

/* How progress is told: a bar that rewrites itself (terminal), "Progress:N%" lines (a program reads them), nothing. */
typedef enum yolo_progress { YOLO_PROGRESS_NONE, YOLO_PROGRESS_BAR, YOLO_PROGRESS_PLAIN } yolo_progress;

/* Asks every running call to finish the picture or step in hand, save and return YOLO_ERROR_INTERRUPTED.
   Async-signal-safe. The flag is process-wide and stays set until yolo_interrupt_clear(). */
void yolo_interrupt(void);
void yolo_interrupt_clear(void);

/* ---- 2 images and boxes -------------------------------------------------------------------------------------- */

typedef struct yolo_image {
    uint8_t *pixels; /* RGB, 8 bits each, rows top down, width*3 bytes a row; owned by the struct */
    int width, height;
} yolo_image;

typedef struct yolo_box {
    float x1, y1, x2, y2; /* pixels of the original picture, left top right bottom */
    float confidence;     /* 0..1 */
    int class_id;
} yolo_box;

typedef struct yolo_boxes {
    yolo_box *items; /* by falling confidence; owned by the struct */
    int count;
} yolo_boxes;

/* Reads a picture by its content, not its name; EXIF orientation is applied. On error *image is left empty. */
yolo_status yolo_image_read(yolo_image *image, const char *path, yolo_error *error);
/* Writes by extension: .jpg (quality 95) or .png. Written beside and renamed. */
yolo_status yolo_image_write(const yolo_image *image, const char *path, yolo_error *error);
void yolo_image_free(yolo_image *image);
void yolo_boxes_free(yolo_boxes *boxes);
/* Draws boxes with class name and confidence into the picture; `line_width` 0 = by picture size. */
typedef struct yolo_model yolo_model;
void yolo_image_draw_boxes(yolo_image *image, const yolo_model *model, const yolo_boxes *boxes, int line_width);

/* ---- 3 models ------------------------------------------------------------------------------------------------ */

typedef struct yolo_open_options {
    int threads;     /* compute threads; 0 = all cores */
    const char *device; /* "auto", "cpu", or GPU indices as in "0,1" (an error in this version); NULL = auto */
    const char *isa; /* "auto", "portable", "avx2", "avx512"; NULL = auto */
    int classes;     /* nc for a model built from .yaml; 0 = as the description says */
    uint64_t seed;   /* initial weights of a model built from .yaml */
    const char *activation; /* "silu", "relu", "leakyrelu", "mish" for a .yaml; NULL = as described */
} yolo_open_options;

yolo_open_options yolo_open_defaults(void);

/* Opens a checkpoint (.pt) or a model description (.yaml; also a bare name such as "yolov8n.yaml", built in).
   On success *model is to be closed by the caller; on error it is NULL. */
yolo_status yolo_model_open(yolo_model **model, const char *path, yolo_open_options options, yolo_error *error);
void yolo_model_close(yolo_model *model); /* NULL allowed */

int yolo_class_count(const yolo_model *model);
const char *yolo_class_name(const yolo_model *model, int class_id); /* owned by the model; "" outside the range */

/* Writes a checkpoint that ultralytics and this engine load: temporary file, flush, rename. `half` stores fp16. */
yolo_status yolo_model_save(const yolo_model *model, const char *path, bool half, yolo_error *error);

/* Describes a file: architecture, a line per layer, classes, parameters, training arguments. Nothing in the file is
   executed. *text is UTF-8 with newlines, to be freed with yolo_text_free. */
yolo_status yolo_info(const char *path, char **text, yolo_error *error);
void yolo_text_free(char *text);

/* ---- 4 predict and val --------------------------------------------------------------------------------------- */

typedef struct yolo_predict_options {
    int imgsz;            /* longer side of the network's input, pixels; rounded up to a multiple of 32; 640 */
    float conf;           /* lowest confidence kept; 0.25 */
    float iou;            /* NMS threshold; 0.7 */
    int max_det;          /* most boxes of a picture; 300 */
    bool agnostic_nms;    /* boxes of different classes suppress each other */
    bool rect;            /* pad to the stride only, not to a square; true */
    const int *classes;   /* keep these classes only; NULL = all */
    int class_count;
} yolo_predict_options;

yolo_predict_options yolo_predict_defaults(void);

/* Finds objects in one picture. *boxes is overwritten; free it with yolo_boxes_free. */
yolo_status yolo_predict(yolo_model *model, const yolo_image *image, yolo_predict_options options, yolo_boxes *boxes,
                         yolo_error *error);

typedef struct yolo_val_options {
    const char *data;     /* data.yaml */
    const char *split;    /* "val", "train" or "test" */
    int imgsz, batch;     /* 640, 16 (the batch decides which pictures share a rectangle) */
    float conf, iou;      /* 0.001, 0.7 */
    int max_det;          /* 300 */
    bool rect;            /* true */
    bool single_cls;      /* all classes counted as one */
    const char *save_json; /* path for COCO-style predictions; NULL = none */
    yolo_progress progress;
    yolo_log log;
} yolo_val_options;

yolo_val_options yolo_val_defaults(void);

typedef struct yolo_class_metrics {
    int class_id, images, instances;
    double precision, recall, map50, map50_95;
} yolo_class_metrics;

typedef struct yolo_metrics {
    int images, instances, damaged;     /* pictures seen, ground truths, pictures that could not be read */
    double precision, recall, map50, map50_95;
    double speed_preprocess_ms, speed_inference_ms, speed_postprocess_ms; /* a picture, all threads together */
    yolo_class_metrics *classes; /* classes with at least one instance, by id; owned by the struct */
    int class_count;
} yolo_metrics;

yolo_status yolo_val(yolo_model *model, yolo_val_options options, yolo_metrics *metrics, yolo_error *error);
void yolo_metrics_free(yolo_metrics *metrics);

/* ---- 5 folders: prepare, label ------------------------------------------------------------------------------- */

typedef struct yolo_prepare_options {
    const char *source;  /* folder with pictures and YOLO .txt labels, any depth */
    const char *classes; /* classes.txt; NULL = source/classes.txt */
    const char *out;     /* folder to make: images/{train,val}, labels/{train,val}, data.yaml */
    double val;          /* share of validation pictures: 0..1, or a percentage above 1; 20 */
    const char *mode;    /* "copy", "link" (hard link, else copy), "list" (text files of paths); "copy" */
    uint64_t seed;       /* 0 */
    yolo_progress progress;
    yolo_log log;
} yolo_prepare_options;

yolo_prepare_options yolo_prepare_defaults(void);

typedef struct yolo_prepare_report {
    int64_t train, val;              /* pictures taken; of them: */
    int64_t background, unlabelled;  /* with an empty label file, without one: both are trained on as background */
    int64_t skipped;                 /* already in `out` as they are */
    int64_t damaged, duplicates;     /* left out: picture or label unreadable, same content as another */
    int64_t bad_lines, boxes;        /* label lines left out, boxes taken */
} yolo_prepare_report;

/* Labelled pictures -> train and val sets and data.yaml. The split is a function of the seed and of each picture's
   bytes alone, so pictures that are added, removed or renamed move no other. Labels (beside the picture, or by the
   rule images/ -> labels/) are written anew: valid lines only, polygons as their boxes. The source is only read. What
   a person added or changed in `out` stays; the same call after a kill finishes the work. */
yolo_status yolo_prepare(yolo_prepare_options options, yolo_prepare_report *report, yolo_error *error);

/* Names the folder of a new run: project/name, or name2, name3, ... where that exists already and not `exist_ok`.
   Nothing is made yet. *path as in yolo_info. */
yolo_status yolo_run_folder(const char *project, const char *name, bool exist_ok, char **path, yolo_error *error);

typedef enum yolo_existing { YOLO_EXISTING_SKIP, YOLO_EXISTING_REPLACE } yolo_existing;

/* One picture of a run, as on_picture sees it. */
typedef struct yolo_label_picture {
    int64_t index, total;    /* 0 .. total - 1, in source order; skipped pictures are not counted */
    const char *path;
    const char *damage;      /* why it could not be read, else NULL; then the rest is zero */
    int width, height, network_width, network_height; /* of the picture, of the network's input */
    const yolo_boxes *boxes;
    double preprocess_ms, inference_ms, postprocess_ms;
} yolo_label_picture;

typedef struct yolo_label_options {
    const char *source;      /* picture, folder (any depth), pattern (photos/a*.jpg) or .txt list of paths */
    const char *out;         /* folder that mirrors the source's tree; NULL = beside the pictures, or in the labels/
                                folder where pictures lie in images/ and there is one beside it */
    yolo_predict_options predict;
    yolo_existing existing;  /* what to do where a label file is there already; SKIP */
    bool save_labels;        /* write YOLO .txt; true */
    bool save_conf;          /* add the confidence as a sixth column */
    bool save_images;        /* write annotated pictures to out/ */
    bool save_crop;          /* write each box as a picture under out/crops/CLASS/ */
    bool empty_labels;       /* write an empty file for a picture without a box; true (predict: false) */
    bool labels_subfolder;   /* labels go to out/labels/, flat, as ultralytics' predict does */
    bool classes_file;       /* write classes.txt into out; true */
    int line_width;          /* of the drawn boxes; 0 = by picture size */
    /* Called in source order after each picture; NULL = none. What it points to is valid during the call. */
    void (*on_picture)(void *user, const yolo_label_picture *picture);
    void *user;
    yolo_progress progress;
    yolo_log log;
} yolo_label_options;

yolo_label_options yolo_label_defaults(void);

typedef struct yolo_label_report {
    int64_t pictures;         /* found */
    int64_t labelled, empty;  /* done: with boxes, without */
    int64_t skipped;          /* had a label file already */
    int64_t clashes;          /* left out because another picture of the run has the same label file */
    int64_t damaged, boxes;
    int64_t *boxes_per_class; /* class_count entries; owned by the struct */
    int class_count;
    double seconds;           /* of the whole run */
    double speed_preprocess_ms, speed_inference_ms, speed_postprocess_ms; /* a picture */
} yolo_label_report;

/* Labels every picture of a folder. A damaged picture is logged with its reason and never stops the run. The report
   is filled in on error and interruption too, with what was done; running again continues. */
yolo_status yolo_label(yolo_model *model, yolo_label_options options, yolo_label_report *report, yolo_error *error);
void yolo_label_report_free(yolo_label_report *report);

/* ---- 6 devices and bench ------------------------------------------------------------------------------------- */

/* CPU features, each GPU, driver and NCCL found or why not. *text as in yolo_info. */
yolo_status yolo_devices(char **text, yolo_error *error);

typedef struct yolo_bench_options {
    int imgsz, width, batch; /* input height (and width; 0 = square), pictures at a time; 640, 0, 1 */
    int repeats;             /* measured runs; 20 */
    bool layers;             /* a line per operator as well */
} yolo_bench_options;

yolo_bench_options yolo_bench_defaults(void);

/* Times the forward pass: median, min, max ms, pictures/s, GFLOP/s, peak memory. *text as in yolo_info. */
yolo_status yolo_bench(yolo_model *model, yolo_bench_options options, char **text, yolo_error *error);

/* ---- 7 train, demo ------------------------------------------------------------------------------------------- */

/* Names, meanings and defaults are those of ultralytics' training arguments. */
typedef struct yolo_train_options {
    const char *model;       /* checkpoint (.pt), description (.yaml) or bare name such as "yolov8n.yaml" */
    const char *data;        /* data.yaml */
    int epochs;              /* 0 = 100, or with `resume` what the run began with */
    double time;             /* hours to train instead of epochs; 0 = by epochs */
    int patience;            /* epochs without improvement before stopping; 100; 0 = never */
    double batch;            /* pictures a step; 16; -1 = what fits 60 % of the memory, 0..1 = that share */
    int imgsz;               /* side of the network's square input, pixels; 640 */
    bool save;               /* write last.pt and best.pt; true */
    int save_period;         /* also weights/epochN.pt every so many epochs; -1 = never */
    const char *cache;       /* "ram" (decode once, as far as the budget goes), "false"; NULL = "ram" */
    double cache_gb;         /* budget of the picture cache; 0 = a quarter of the free memory */
    int workers;             /* loader threads; 8, never more than there are cores */
    const char *project, *name; /* run folder project/name, see yolo_run_folder; "runs/detect", "train" */
    bool exist_ok;           /* use the run folder even if it exists */
    const char *pretrained;  /* "true", "false", or a checkpoint to start from; NULL = "true" */
    const char *optimizer;   /* auto, SGD, MuSGD, Adam, Adamax, AdamW, NAdam, RAdam, RMSProp; NULL = auto */
    uint64_t seed;           /* 0 */
    bool single_cls;         /* all classes as one */
    bool rect;               /* batches of like shapes, minimum padding, no shuffling */
    bool cos_lr;             /* cosine instead of linear schedule */
    int close_mosaic;        /* no mosaic in the last epochs; 10 */
    bool resume;             /* go on from model= or the newest last.pt under project */
    bool amp;                /* half precision where the device has it; without effect on the CPU */
    double fraction;         /* share of the training pictures to use; 1 */
    const char *freeze;      /* "10" = the first ten layers, "0,3,5" = those; NULL = none */
    double multi_scale;      /* input sizes vary by this share; 0 */
    double lr0, lrf;         /* 0.01 first rate, 0.01 share of it at the end */
    double momentum, weight_decay; /* 0.937, 0.0005 */
    double warmup_epochs, warmup_momentum, warmup_bias_lr; /* 3, 0.8, 0.1 */
    double box, cls, dfl;    /* gains of the losses; 7.5, 0.5, 1.5 */
    int nbs;                 /* nominal batch: gradients accumulate to it; 64 */
    double hsv_h, hsv_s, hsv_v; /* 0.015, 0.7, 0.4 */
    double degrees, translate, scale, shear, perspective; /* 0, 0.1, 0.5, 0, 0 */
    double flipud, fliplr, bgr, mosaic, mixup, cutmix;    /* probabilities; 0, 0.5, 0, 1, 0, 0 */
    const int *classes; int class_count; /* train on these classes only; NULL = all */
    double iou; int max_det; /* of the validation; 0.7, 300 */
    bool plots, val;         /* draw charts; validate each epoch; true, true */
    const char *device;      /* "auto", "cpu"; NULL = auto */
    int threads;             /* compute threads; 0 = all cores */
    const char *isa;         /* as in yolo_open_options */
    const char *activation;  /* "silu", "relu", "leakyrelu", "mish" for a model that starts anew; NULL = as described */
    yolo_progress progress;
    yolo_log log;
} yolo_train_options;

yolo_train_options yolo_train_defaults(void);

typedef struct yolo_train_report {
    char folder[1000];       /* the run folder */
    int epochs, best_epoch;  /* done in all; the one best.pt is of, from 1 */
    double precision, recall, map50, map50_95; /* of best.pt; NaN where this call did not validate it */
    double seconds;
    double pictures_per_second; /* from file to weights, validation left out */
} yolo_train_report;

/* Trains; everything goes into the run folder. After YOLO_ERROR_INTERRUPTED, or a kill at any moment, the same call with
   `resume` goes on from the last whole epoch and ends in the same bits. */
yolo_status yolo_train(yolo_train_options options, yolo_train_report *report, yolo_error *error);

typedef struct yolo_demo_options {
    const char *out;         /* folder to make for pictures, data set and run; "runs/demo", where taken "runs/demo2", ... */
    int pictures;            /* drawn to learn from; a quarter as many more are held out */
    int epochs, imgsz;       /* the defaults reach mAP50 0.90 within minutes on two cores; 0 epochs: draws and prepares only */
    uint64_t seed;           /* 0 */
    int threads;             /* 0 = all cores */
    const char *isa;
    yolo_progress progress;
    yolo_log log;
} yolo_demo_options;

yolo_demo_options yolo_demo_defaults(void);

/* Draws pictures of shapes with labels, prepares them, trains from scratch, labels the pictures that were held out and
   measures on them: precision, recall, mAP and folder of the report are of that. */
yolo_status yolo_demo(yolo_demo_options options, yolo_train_report *report, yolo_error *error);

/* ---- 8 private part: for yolo.c, kernels.cu and the tests only -------------------------------------------------- */

#ifdef YOLO_PRIVATE

/* The GPU boundary: plain C, opaque device memory, twins of the CPU operators. Without kernels.cu
   (YOLO_NO_CUDA) none of these exists and yolo.c answers for them. */

typedef struct yg_device {
    char name[256];
    uint64_t memory_total, memory_free; /* bytes */
    int compute_major, compute_minor;
    int multiprocessors;
    uint64_t peer_access; /* bit j: may read the memory of device j directly */
} yg_device;

/* Number of GPUs, or -1 with the reason (no driver, driver too old, ...) in `reason`. Thread-safe. */
int yg_device_count(char *reason, size_t reason_size);
/* 0 on success, else a CUDA error number with its text in `reason`. */
int yg_device_get(int index, yg_device *device, char *reason, size_t reason_size);
/* CUDA versions as 1000*major + 10*minor: of the driver (0 = none) and of the runtime compiled in. */
void yg_versions(int *driver, int *runtime);

#endif /* YOLO_PRIVATE */

#ifdef __cplusplus
}
#endif
#endif /* YOLO_H */
