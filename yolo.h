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
     Upsample, Detect); fp32 on the CPU.

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

/* How progress is told: a bar that rewrites itself (terminal), "Progress:N%" lines (a program reads them; a training tells "RunFolder:PATH"
   before the first), nothing. */
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

/* Reads a JPEG, PNG, BMP, TIFF or WebP (of a TIFF or an animation the first picture) by its content, not its name. In every format alike:
   orientation is applied as EXIF's tag 274 has it, 1 to 8, anything else is 1; opacity is dropped, what it hides shows, as cv2.imread does;
   gray is spread to RGB; samples of n bits are rounded to round(v * 255 / (2^n - 1)), floats are 0 black to 1 white; of CMYK each colour is
   what the ink and black leave of the light. A JPEG or PNG (not an interlaced one) that is cut short gives the rows it has, and gray
   below, if these are half of them or more: then YOLO_OK comes with a message in *error; without one, it is empty. On error *image is left
   empty. */
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
    const char *device; /* "auto", "cpu", GPUs as in "0" or "0,2"; NULL = auto: all GPUs that can be used, else the CPU */
    int ranks;       /* that share out the pictures of yolo_label and yolo_val: 0 = one a GPU, on the CPU one; 1 with auto = the first
                        GPU alone; more are for the CPU, where they share the threads. yolo_predict is rank 0's */
    bool half;       /* half precision on a GPU; true */
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

/* Names, meanings and defaults are those of ultralytics' export arguments. */
typedef struct yolo_export_options {
    const char *model;   /* checkpoint (.pt), or description (.yaml: untrained) */
    const char *format;  /* "onnx"; NULL = that */
    const char *out;     /* file to write; NULL = beside the model, with .onnx for its extension */
    int height, width;   /* of the input, pixels; rounded up to a multiple of the stride; 640, 640 */
    int batch;           /* pictures at a time; 1 */
    bool dynamic;        /* batch, height and width (multiples of the stride) are chosen when it is run */
    bool half;           /* fp16 weights and arithmetic up to the heads; input, boxes and scores stay float */
    int opset;           /* version of ONNX's operators: 17 to 22; 17 */
    bool nms;            /* with suppression, as yolo_predict does it: */
    float conf, iou;     /* 0.25, 0.7 */
    int max_det;         /* 300 */
    bool agnostic_nms;
} yolo_export_options;

yolo_export_options yolo_export_defaults(void);

typedef struct yolo_export_report {
    char path[1000];     /* the file */
    int64_t bytes;
    int64_t input[4], output[3]; /* shapes; -1 = dynamic */
} yolo_export_report;

/* Writes an ONNX file: temporary file, flush, rename. The same model and options give the same bytes.
   Input "images": floats (batch,3,height,width), RGB in 0..1. Output "output0": (batch,4+classes,anchors), centre and size in pixels of the
   input, then a score a class; with `nms` (batch,max_det,6): left, top, right, bottom, score, class by falling score, then rows of zeros.
   Any number of threads may export at once. */
yolo_status yolo_export(yolo_export_options options, yolo_export_report *report, yolo_error *error);

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
    int imgsz, batch;     /* 640, 16 (the batch decides which pictures share a rectangle; a GPU takes as many at a time, up to 32) */
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

/* Measures the model on a data set. Any number of ranks (see yolo_open_options) gives the same numbers, on the CPU to the bit. Free
   *metrics with yolo_metrics_free; it is empty on error. */
yolo_status yolo_val(yolo_model *model, yolo_val_options options, yolo_metrics *metrics, yolo_error *error);
void yolo_metrics_free(yolo_metrics *metrics);

/* ---- 5 folders: prepare, label ------------------------------------------------------------------------------- */

typedef struct yolo_prepare_options {
    const char *source;  /* folder with pictures and YOLO .txt labels, any depth */
    const char *classes; /* classes.txt; NULL = source/classes.txt */
    const char *out;     /* folder to make: images/{train,val}, labels/{train,val}, data.yaml, report.json */
    double val;          /* share of validation pictures: 0..1, or a percentage above 1; 20 */
    const char *mode;    /* "copy", "link" (hard link, else copy), "list" (text files of paths); "copy" */
    uint64_t seed;       /* 0 */
    bool alike;          /* pictures that look alike go to the same side; true */
    yolo_progress progress;
    yolo_log log;
} yolo_prepare_options;

yolo_prepare_options yolo_prepare_defaults(void);

typedef struct yolo_prepare_report {
    int64_t train, val;              /* pictures taken; of them: */
    int64_t background, unlabelled;  /* with an empty label file, without one: both are trained on as background */
    int64_t skipped;                 /* already in `out` as they are */
    int64_t damaged, duplicates;     /* left out: picture or label unreadable, same content as another */
    int64_t near_duplicates, leaks;  /* look like another; of those, and what they look like, on both sides */
    int64_t bad_lines, boxes;        /* label lines left out, boxes taken */
} yolo_prepare_report;

/* Labelled pictures -> train and val sets, data.yaml and report.json. The side of a picture is drawn from the seed and its
   bytes; what looks alike goes together, and a class that one side would lack gets a picture there. split.tsv in `out`
   keeps the sides, so that pictures which are added, removed or renamed move no other. Labels (beside the picture, or by
   the rule images/ -> labels/) are written anew: valid lines only, polygons as their boxes. The source is only read.
   What a person added or changed in `out` stays; the same call after a kill finishes the work. */
yolo_status yolo_prepare(yolo_prepare_options options, yolo_prepare_report *report, yolo_error *error);

/* Names the folder of a new run: project/name, or name2, name3, ... where that exists already and not `exist_ok`.
   Nothing is made yet. *path as in yolo_info. */
yolo_status yolo_run_folder(const char *project, const char *name, bool exist_ok, char **path, yolo_error *error);

/* What to do where a label file is there already. */
typedef enum yolo_existing {
    YOLO_EXISTING_SKIP,    /* the picture is left alone */
    YOLO_EXISTING_REPLACE, /* the old file is kept, see yolo_label_undo */
    YOLO_EXISTING_MERGE,   /* its lines stay byte for byte, boxes that overlap none of their class are added; the old file is kept */
    YOLO_EXISTING_COMPARE  /* no label is written: compare.csv says where model and person differ */
} yolo_existing;

/* One picture of a run, as on_picture sees it. */
typedef struct yolo_label_picture {
    int64_t index, total;    /* 0 .. total - 1, in source order; skipped pictures are not counted */
    const char *path;
    const char *damage;      /* why it could not be read, else NULL; then the rest is zero */
    int width, height, network_width, network_height; /* of the picture, of the network's input */
    const yolo_boxes *boxes; /* class_id: of class_names */
    const char *const *class_names;
    int class_count;
    double preprocess_ms, inference_ms, postprocess_ms;
} yolo_label_picture;

typedef struct yolo_label_options {
    const char *source;      /* picture, folder (any depth), pattern (photos/a*.jpg) or .txt list of paths */
    const char *out;         /* folder that mirrors the source's tree; NULL = beside the pictures, or in the labels/
                                folder where pictures lie in images/ and there is one beside it */
    yolo_predict_options predict;
    yolo_existing existing;  /* SKIP. What a person made or corrected on the page is left alone by all but COMPARE */
    /* Lists of names or numbers of the model's classes; in a name, a backslash goes before each comma, colon and backslash. */
    const char *classes;     /* keep these only, such as "person,2"; NULL = as predict.classes says */
    const char *class_conf;  /* lowest confidence of some, such as "person:0.5,3:0.4"; NULL = predict.conf for all */
    const char *rename;      /* other names for some, such as "car:vehicle,truck:vehicle"; classes of one name become one, in the place of the
                                first, and suppress each other as one by predict.iou. NULL = none */
    const char *also;        /* more formats, a list of coco (labels.coco.json in out or the source's folder), csv (labels.csv there) and voc (an .xml
                                beside each label); they say what all labels of the source are after the run. NULL = none */
    float merge_iou;         /* MERGE: a box whose overlap with one of its class that is there is above this is not added; 0.5 */
    bool review;             /* write review.csv: pictures of which the model is unsure, the most unsure first, with the reasons */
    bool alike;              /* write alike.csv: groups of pictures, of those that were looked at, that look alike */
    bool save_labels;        /* write YOLO .txt; true */
    bool save_conf;          /* add the confidence as a sixth column */
    bool save_images;        /* write annotated pictures to out/ */
    bool save_crop;          /* write each box as a picture under out/crops/CLASS/ */
    bool empty_labels;       /* write an empty file for a picture without a box; true (predict: false) */
    bool labels_subfolder;   /* labels go to out/labels/, flat, as ultralytics' predict does */
    bool classes_file;       /* write classes.txt into out; true */
    bool undo;               /* SKIP: keep in mind what is made, for yolo_label_undo; true. The others and `also` always do */
    int line_width;          /* of the drawn boxes; 0 = by picture size */
    int64_t most;            /* look at so many pictures only, the first by name; 0 = all */
    /* Called in source order after each picture; NULL = none. What it points to is valid during the call. */
    void (*on_picture)(void *user, const yolo_label_picture *picture);
    void *user;
    yolo_progress progress;
    yolo_log log;
} yolo_label_options;

yolo_label_options yolo_label_defaults(void);

/* Of a person's boxes and a model's: pairs of one class that overlap by 0.7 or more; by 0.3 to 0.7; pairs of two classes that overlap by
   0.5 or more; boxes that only the person has, or only the model. A box is in one pair at most: the largest overlaps first. */
typedef struct yolo_differences { int64_t right, poor, wrong_class, missing, extra; } yolo_differences;

typedef struct yolo_label_report {
    int64_t pictures;         /* found */
    int64_t labelled, empty;  /* done: with boxes, without */
    int64_t skipped;          /* had a label file already; COMPARE: had none; or somebody changed it while the run went on */
    int64_t continued;        /* done by the run that this one continued */
    int64_t clashes;          /* left out because another picture of the run has the same label file */
    int64_t damaged, boxes;   /* boxes found */
    int64_t added;            /* MERGE: of them */
    int64_t alike;            /* pictures of alike.csv */
    int64_t *boxes_per_class; /* class_count entries; owned by the struct, as the next two */
    char **class_names;
    yolo_differences *differences_per_class; /* COMPARE, by the person's class, extra ones by the model's; else NULL */
    yolo_differences differences;
    int class_count;          /* of classes.txt as the labels need it */
    char undo[32];            /* name of the run for yolo_label_undo; "" = there is nothing to take back */
    double seconds;           /* of the whole run */
    double speed_preprocess_ms, speed_inference_ms, speed_postprocess_ms; /* a picture */
} yolo_label_report;

/* Labels every picture of a folder. A damaged picture is logged with its reason and never stops the run. The report
   is filled in on error and interruption too, with what was done; running again continues. Of several ranks (see
   yolo_open_options) whichever is free takes the next pictures: on the CPU, and on GPUs that are alike, any number of ranks writes
   the same bytes. A rank that fails ends the run; the message names it, and the files that are there by then are whole.
   Each file that is written over is kept in .yolo_undo/RUN/ of out or the source's folder, before the first picture, and each new one is
   named there; not what save_images, save_crop, labels_subfolder and COMPARE write. A run that was cut short is continued by the same call: what it has done is not done again, and the kept files stay those of before.
   Nothing is replaced outside of that folder (and its labels/ folder), nor what somebody changed while the run goes on. */
yolo_status yolo_label(yolo_model *model, yolo_label_options options, yolo_label_report *report, yolo_error *error);
void yolo_label_report_free(yolo_label_report *report);

typedef struct yolo_undo_options {
    const char *source, *out; /* as the run that is taken back had them */
    const char *run;          /* its name, "20240229-235959"; NULL or "last": the newest */
    yolo_log log;
} yolo_undo_options;

typedef struct yolo_undo_report {
    char run[32];
    int64_t restored, removed; /* files: as before the run again; that the run had made */
    int64_t unchanged;         /* the run had not got to */
    int64_t kept;              /* somebody changed since, or called right on the page: left alone and logged; where one of them was there
                                  before the run, the folder of the run stays */
} yolo_undo_report;

/* Takes a run of yolo_label back: every file is as before, byte for byte, new ones and folders are gone, but for what is `kept`: what is
   neither what it was nor what the run made of it, and with labels of that kind the names that the run added to classes.txt. After a kill
   the same call goes on. When all is back the folder of the run is removed. */
yolo_status yolo_label_undo(yolo_undo_options options, yolo_undo_report *report, yolo_error *error);

/* ---- 6 devices and bench ------------------------------------------------------------------------------------- */

/* CPU features, each GPU and which others it reads, driver and NCCL found or why not; of several GPUs, how sums over them can be made, which
   way is used and how fast it is: that takes some 100 MB of each for a moment. *text as in yolo_info. */
yolo_status yolo_devices(char **text, yolo_error *error);

typedef struct yolo_bench_options {
    int imgsz, width, batch; /* input height (and width; 0 = square), pictures at a time; 640, 0, 1 */
    int repeats;             /* measured runs; 20 */
    bool train;              /* whole training steps instead of the forward pass: batch, loss, gradients, update, moving average */
    const char *data;        /* data.yaml to train on, loader included; NULL = pictures drawn in memory, without a loader */
    const char *optimizer;   /* of the steps, as in training; "SGD" */
    bool layers;             /* of the forward pass a line per operator as well */
    bool kernels;            /* on a GPU: its measured peaks, and a line per kind of kernel beside them */
    bool tune;               /* on a GPU: the tiles of convolutions are measured first, the figures are those of the fastest, and a line
                                is added for each convolution whose tile would have been another */
    bool scaling;            /* what training steps would take on 1, 2, 4 and 8 GPUs, and on as many machines, `batch` pictures a GPU: predicted */
    const char *gpu;         /* ... of such GPUs: "this" is measured on the model's device, "rtx4090" and others are estimated from their makers'
                                figures; "auto" = this where the model is on a GPU, else rtx4090 */
    const char *link;        /* ... over "nvlink4", "pcie4-peer", "pcie4-host", "ethernet10", ...; "all" = all that such a GPU may have */
    const char *sums;        /* ... added up "direct", through "host" memory, by "nccl"; "auto" = as the program would */
    int per_machine;         /* ... and as many GPUs in each machine of an ethernet, 1 to 16; 4 */
    bool heading;            /* the line above the figures; true */
    const char *name;        /* first column of the figures; NULL = none */
} yolo_bench_options;

yolo_bench_options yolo_bench_defaults(void);

/* Times a case: median, min, max ms, pictures/s, GFLOP/s, peak memory (on a GPU: what is taken of it), and of training steps the
   parts. The model stays as it is. On a GPU the forward pass has three lines: from host memory to host memory, on the device alone, and
   that recorded as a CUDA graph. *text as in yolo_info. */
yolo_status yolo_bench(yolo_model *model, yolo_bench_options options, char **text, yolo_error *error);

/* ---- 7 train, demo ------------------------------------------------------------------------------------------- */

/* Names, meanings and defaults are those of ultralytics' training arguments. */
/* Processes that train together, on one machine or several, all with the same options. They meet where process 0 listens, and
   exchange sums and last words by TCP, unguarded: for networks of one's own. */
typedef struct yolo_peers {
    int count;               /* processes; 0 = this one alone */
    int rank;                /* of this one, from 0; process 0 writes and logs, the others return the same status */
    int local_rank;          /* among those of its machine; with device auto it takes the GPU of that number */
    char address[256];       /* of process 0's machine: a name or number */
    int port;
} yolo_peers;

/* What torchrun, mpirun and srun tell a process: RANK, WORLD_SIZE, LOCAL_RANK (or Open MPI's and SLURM's own), MASTER_ADDR and
   MASTER_PORT, all of them or none. */
yolo_status yolo_peers_from_environment(yolo_peers *peers, yolo_error *error);

/* Which batch fits into the memory that is free: of the GPUs, or of this machine. */
typedef struct yolo_train_fit {
    int batch;       /* the largest; 0 = not even one picture */
    int imgsz;       /* side of the largest input */
    uint64_t memory; /* bytes; of several GPUs, of the one with the least */
} yolo_train_fit;

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
    const char *device;      /* "auto", "cpu", "0", "0,2,3"; NULL = auto: all GPUs that can be used, which share each batch evenly, else the CPU */
    const char *allreduce;   /* how several GPUs add up their gradients: "nccl", "peer" (directly; in one process alone), "host" (through its memory, and
                                between processes by TCP), or "auto": the first that works */
    int threads;             /* compute threads; 0 = all cores */
    int ranks;               /* on the CPU: data-parallel ranks that share each batch evenly, and the threads; 1 */
    yolo_peers peers;        /* other processes that share each batch, with as many ranks each; none */
    double peer_timeout;     /* seconds without a sign of life after which a process is lost; five times that to meet; 60 */
    bool sync_bn;            /* ranks take batch norms and the loss over the whole batch, as one rank does; false: each its part's */
    const char *isa;         /* as in yolo_open_options */
    const char *activation;  /* "silu", "relu", "leakyrelu", "mish" for a model that starts anew; NULL = as described */
    yolo_train_fit *fit;     /* where this is not NULL, nothing is trained or written: it is filled in; NULL */
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

/* The GPU boundary: plain C, device memory behind pointers, twins of the CPU operators (yg_conv_fwd of op_conv_fwd, and so
   on). Without kernels.cu (YOLO_NO_CUDA) none of these exists and yolo.c answers for them.

   A yg_gpu is one device with one stream, and another beside it for yg_send. Calls on it come from one thread at a time; they put
   work onto the stream and return, except where "waits" is said. The first failure sticks: later calls do nothing, and yg_finish tells of it. Order of
   arguments: what is written, what is read, what describes it. All sums have a fixed order: the same bits every time.

   Views are NHWC with a stride from pixel to pixel, as ten is, of float, fp16 or bf16; sums are made in float. In the tables
   of parameters, and in gradients of them, everything is float, weights lie as (O,H,W,I). */

/* ---- devices, K2 */

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

typedef struct yg_gpu yg_gpu;
typedef struct yg_graph yg_graph; /* recorded work */

/* Opens a device; 0, or an error number with its reason. yg_close frees it, not what was allocated on it. */
int yg_open(yg_gpu **gpu, int index, char *reason, size_t reason_size);
void yg_close(yg_gpu *gpu);
/* To be called by another thread than the one that opened it, before its first call: CUDA keeps the current device by thread. */
void yg_enter(yg_gpu *gpu);
/* Waits until everything is done. 0, or the first failure since yg_open with its reason and, where something is known, what to do:
   a CUDA error number, YG_NO_MEMORY for want of device memory. */
enum { YG_NO_MEMORY = 2 };
int yg_finish(yg_gpu *gpu, char *reason, size_t reason_size);
/* Device memory, 256-byte aligned, not cleared; NULL when there is not enough, and then that is the failure that sticks, with
   bytes wanted, free and in all. yg_free waits. */
void *yg_alloc(yg_gpu *gpu, size_t bytes);
void yg_free(yg_gpu *gpu, void *memory);
/* Host memory that copies run to and from at full speed; NULL when there is none, and then that is the failure that sticks. */
void *yg_host_alloc(yg_gpu *gpu, size_t bytes);
void yg_host_free(yg_gpu *gpu, void *memory);
void yg_upload(yg_gpu *gpu, void *to, const void *from, size_t bytes);   /* host memory stays as it is until yg_finish */
void yg_download(yg_gpu *gpu, void *to, const void *from, size_t bytes); /* there after yg_finish */
/* How far the work is now; yg_wait waits until it has come there, also with more behind it. 0, or the first failure. */
void yg_mark(yg_gpu *gpu);
int yg_wait(yg_gpu *gpu, char *reason, size_t reason_size);
/* Uploads beside the work. What yg_send is given has been copied when it returns (it waits only where YG_STAGING_BYTES are on their
   way); it is there for what is called after yg_receive. yg_release: what has been called so far is done with what it received, and
   may be overwritten by what is sent from now on. So the order is send..., receive, use, release; sending between receive and
   release is a failure, as it is while work is recorded. */
enum { YG_STAGING_BYTES = 32 << 20 }; /* of pinned memory, that the first yg_send takes */
void yg_send(yg_gpu *gpu, void *to, const void *from, size_t bytes);
void yg_receive(yg_gpu *gpu);
void yg_release(yg_gpu *gpu);
void yg_copy(yg_gpu *gpu, void *to, const void *from, size_t bytes);
void yg_clear(yg_gpu *gpu, void *memory, size_t bytes);
/* What is called between these two is recorded, not done; NULL on failure. yg_replay does it, with the pointers of then. */
void yg_record(yg_gpu *gpu);
yg_graph *yg_recorded(yg_gpu *gpu);
void yg_replay(yg_gpu *gpu, yg_graph *graph);
void yg_graph_free(yg_graph *graph);

/* What one call took on the device. */
typedef struct yg_call {
    const char *what;    /* as in messages; NULL = the host was waited for */
    double ms;
    double bytes, flops; /* that it cannot do without: memory read and written, products and sums; 0 = it does not tell */
    int n, h, w, c;      /* of a convolution: its output (n,h,w,c), */
    int in_c, kernel, stride; /* and its input's channels; 0 = another call */
} yg_call;

/* From now on `most` calls that put work onto the stream are noted; 0 = no more. Recorded work is not. After each yg_finish the device
   then idles for some milliseconds: the host gets ahead, and no call is charged with the host's time. */
void yg_watch(yg_gpu *gpu, int most);
/* The number of calls noted so far. */
int yg_watching(const yg_gpu *gpu);
/* Waits; the number of calls noted, and where they are until the next yg_watch. 0 on failure. */
int yg_watched(yg_gpu *gpu, const yg_call **calls);

/* What was measured of a convolution. Its key, up to `choice`: sizes of what is written (of the gradient of weights: what it is summed
   over), pixels of a 1x1 convolution in one row; then tiles: (m,n) is pixels by channels, of weights output channels by columns. */
typedef enum yg_tuned_way { YG_TUNED_FWD, YG_TUNED_DGRAD, YG_TUNED_WGRAD } yg_tuned_way;
typedef struct yg_tuned {
    int way, type, n, h, w, c, in_c, low_c, kernel, stride, padding, moments, hopper;
    int choice;       /* the tile that it gets from now on */
    unsigned choices; /* bits: those that were measured; all give the same bits */
    int rule_m, rule_n, best_m, best_n;
    double rule_ms, best_ms;
} yg_tuned;

/* While it is on, a convolution of 16-bit tensors that is new, and not being recorded, is measured with every tile that gives the same
   bits; it waits then. From then on, and when it is off again, the fastest tile is used. */
void yg_tune(yg_gpu *gpu, bool on);
/* The number of convolutions measured since yg_open, and what was, until the next call that measures. */
int yg_tuned_list(const yg_gpu *gpu, const yg_tuned **list);

/* ---- tensors and operators, K4 to K9 */

enum { YG_SCRATCH_BYTES = 32 << 20 }; /* that each yg_gpu takes */
typedef enum yg_type { YG_F32, YG_F16, YG_BF16 } yg_type;
typedef enum yg_activation { YG_LINEAR, YG_SILU, YG_RELU, YG_LEAKYRELU, YG_MISH } yg_activation; /* as net_activation */

typedef struct yg_ten { void *data; int n, h, w, c; int64_t pixel; yg_type type; } yg_ten; /* device; pixel in elements */

/* out = in / 255 of uint8 pixels (n,h,w,3) of in_h x in_w, resized as dl_floats does where that is another size; channels of
   out beyond the third become 0. */
void yg_pixels(yg_gpu *gpu, const yg_ten *out, const uint8_t *pixels, int in_h, int in_w);
/* Between tensors and dense (n,h,w,c) floats in device memory. yg_from_floats: channels of out beyond c become 0. */
void yg_from_floats(yg_gpu *gpu, const yg_ten *out, const float *in, int c);
void yg_to_floats(yg_gpu *gpu, float *out, const yg_ten *in);

void yg_zero(yg_gpu *gpu, const yg_ten *t);
void yg_copy_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in);
void yg_copy_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate);
void yg_upsample2_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in);
void yg_upsample2_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate);
void yg_maxpool_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, int kernel, int stride, int padding);
/* d_in += d_out at the first largest pixel of each window; in and out as they were in the forward. */
void yg_maxpool_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_ten *in, const yg_ten *out, int kernel, int stride, int padding);

/* A batch norm with its activation: out = activation(scale * (z - mean) + shift); the arrays are device memory, an element a
   channel, YG_NORM_ARRAYS of them. As op_norm. */
enum { YG_NORM_ARRAYS = 6 };
typedef struct yg_norm {
    int channels;
    yg_activation activation;
    float slope;             /* of YG_LEAKYRELU */
    float *mean, *inverse;   /* 1 / sqrt(variance + eps) */
    float *scale, *shift;
    float *d_shift, *d_mean; /* d_z = scale * g - d_mean * (z - mean) - d_shift, g = d_out * activation' */
} yg_norm;

/* The rows of the parameter table that belong to a batch norm: device memory. */
typedef struct yg_norm_rows { const float *gamma, *beta; float *running_mean, *running_variance, *batches; } yg_norm_rows;

/* The statistics of the batch z put to use, and into the running ones (variance unbiased); *batches += 1. `moments`: what
   yg_conv_fwd left there when it wrote z, or NULL. */
void yg_norm_measure(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, const yg_ten *z, const float *moments, double eps, double momentum);
/* The same in two steps, between which the totals (device, 2 * channels + 1) may be added up over the parts of a batch. */
void yg_norm_totals(yg_gpu *gpu, double *totals, const yg_norm *norm, const yg_ten *z, const float *moments);
void yg_norm_take(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, const double *totals, double eps, double momentum);
/* The running statistics put to use instead. */
void yg_norm_frozen(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, double eps);
void yg_norm_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *z, const yg_norm *norm, const yg_ten *residual);
/* d_gamma and d_beta (NULL = not wanted) +=, and norm's d_ arrays set; before yg_norm_bwd. With `totals` (device,
   2 * channels + 1; else NULL) those are set by yg_norm_spread, and in between the totals may be added up over the parts of a batch. */
void yg_norm_sums(yg_gpu *gpu, const yg_norm *norm, float *d_gamma, float *d_beta, double *totals, const yg_ten *d_out, const yg_ten *z);
void yg_norm_spread(yg_gpu *gpu, const yg_norm *norm, const double *totals);
/* Turns d (the gradient of the output) into that of z; d_residual (NULL = none) gets d before, += when `accumulate`. */
void yg_norm_bwd(yg_gpu *gpu, const yg_ten *d, const yg_ten *d_residual, bool accumulate, const yg_ten *z, const yg_norm *norm);

/* A convolution. Its weights are packed in the tensors' type: for the forward as (K, R, S, C up to a multiple of 8), for the
   gradient of the input as (C, R, S, K up to a multiple of 8); what is added is 0. */
typedef struct yg_conv {
    int in_channels, out_channels, kernel, stride, padding;
    yg_activation activation;
    float slope;
    yg_type type;
    void *weight, *turned; /* device; either may be NULL when not used */
    float *bias;           /* device, or NULL */
} yg_conv;

size_t yg_conv_bytes(const yg_conv *conv);   /* of `weight` */
size_t yg_turned_bytes(const yg_conv *conv); /* of `turned` */
/* One of many packings that are done in one: what yg_packing_add makes of a convolution. */
typedef struct yg_packing {
    const float *weight, *scale; /* device */
    void *to;                    /* device */
    int outputs, channels, taps, pitch;
    int first;                   /* of its blocks among those of all rows */
    yg_type type;
    bool turned;
} yg_packing;

/* Packs `weight` and `turned`, those that are not NULL, from floats (K,R,S,C) in device memory, each multiplied by scale[k] where scale
   is not NULL. */
void yg_conv_pack(yg_gpu *gpu, const yg_conv *conv, const float *weight, const float *scale);
/* The same for many convolutions in one launch, the same bits. yg_packing_add appends to the `count` rows of a host table what
   yg_conv_pack would do, two rows at most, and returns how many there are then; `table` is a copy of `rows` in device memory. */
int yg_packing_add(yg_packing *rows, int count, const yg_conv *conv, const float *weight, const float *scale);
void yg_conv_pack_all(yg_gpu *gpu, const yg_packing *table, const yg_packing *rows, int count);
/* scale and bias (device, an element a channel) that fold a batch norm of running statistics into a convolution. */
void yg_conv_fold(yg_gpu *gpu, float *scale, float *bias, const yg_norm_rows *rows, int channels, double eps);

/* out = activation(conv(in) + bias), plus residual where it is not NULL. `in` may have in_channels or, with zeros behind them, as
   many as the packed weights. With `moments` (yg_moment_floats of them, device; no activation or residual then) also what
   yg_norm_measure needs of out as it was before rounding. */
void yg_conv_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *conv, const yg_ten *residual, float *moments);
size_t yg_moment_floats(const yg_ten *out);
/* yg_conv_fwd twice in one, the same bits where those do not split their sums: 3x3, 16 or 32 channels everywhere, 16-bit, on tensor cores
   (_can). `out` shares no memory with `in`. _pays: a guess whether that is faster; needs no data. */
bool yg_conv_pair_can(const yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second);
bool yg_conv_pair_pays(const yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second);
void yg_conv_pair_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second, const yg_ten *residual);
void yg_conv_dgrad(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_conv *conv, bool accumulate);
/* d_weight (K,R,S,C floats) and d_bias (NULL = not wanted) +=. `workspace` holds yg_wgrad_bytes of device memory. */
void yg_conv_wgrad(yg_gpu *gpu, float *d_weight, float *d_bias, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv, void *workspace);
size_t yg_wgrad_bytes(const yg_gpu *gpu, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv);
/* The same two for kernel 1, stride 1, where the first channels of `in` are those of `low` (NULL = none), of half its height and width,
   upsampled: they are read from there and need not be in `in`. Pixels, channels and addresses of both in whole 16 bytes. */
void yg_conv_upsampled_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_ten *low, const yg_conv *conv, const yg_ten *residual, float *moments);
void yg_conv_upsampled_wgrad(yg_gpu *gpu, float *d_weight, float *d_bias, const yg_ten *d_out, const yg_ten *in, const yg_ten *low, const yg_conv *conv,
                             void *workspace);

/* ---- head, loss, optimizer, K10 to K12 */

enum { YG_MAX_LEVELS = 5, YG_BINS = 16 };

/* A box that may be kept: network pixels. `order` rises with anchor and, within one, class. */
typedef struct yg_candidate { float x1, y1, x2, y2, score; int32_t class_id, order; } yg_candidate;

/* Boxes of the raw heads whose score is above conf, as det_anchor makes them; `most` at most a picture, the first ones in order.
   `wanted` (device, a byte a class; NULL = all). counts[i] (device) = those of picture i, also beyond `most`;
   candidates + i * most: its candidates in rising order. `workspace`: yg_decode_bytes. */
void yg_decode(yg_gpu *gpu, yg_candidate *candidates, int *counts, const yg_ten *heads, const int *strides, int levels, int class_count,
               float conf, bool multi_label, const uint8_t *wanted, int most, void *workspace);
size_t yg_decode_bytes(const yg_ten *heads, int levels, int class_count);

enum { YG_NMS_MOST = 30000 }; /* candidates of a picture at most, as NMS_MOST */

/* The best of each cluster of a picture's candidates, as nms_run keeps them: kept + i * max_det, by falling score, kept_counts[i] of
   them (device); -1 where counts[i] > most. `order` of a kept one is how many it suppressed, as nms_run's struck. Candidates and counts as yg_decode leaves them, most <= YG_NMS_MOST. `workspace`:
   yg_nms_bytes. */
void yg_nms(yg_gpu *gpu, yg_candidate *kept, int *kept_counts, const yg_candidate *candidates, const int *counts, int pictures, int most,
            float iou, int max_det, bool agnostic, void *workspace);
size_t yg_nms_bytes(int pictures, int most);

typedef struct yg_target { int32_t class_id; float box[4]; } yg_target; /* as loss_target */

typedef struct yg_loss {
    int levels, class_count, strides[YG_MAX_LEVELS];
    yg_ten heads[YG_MAX_LEVELS], gradients[YG_MAX_LEVELS]; /* gradients[0].data NULL = not wanted */
    const yg_target *targets; /* device, picture by picture */
    const int *first;         /* device, n + 1: picture i owns targets first[i] .. first[i+1] */
    int most_targets;         /* room of `targets`: first[n] may change between replays, up to this */
    float box, cls, dfl;      /* gains */
    const float *scale;       /* device: the gradients are multiplied by *scale; NULL = 1 */
    void *workspace;          /* yg_loss_bytes */
    double *sums;             /* device, 4: box, cls, dfl with gains, and score: as loss_sum gives them */
    int whole;                /* pictures of the batch that the heads are a part of; 0 = of the heads */
} yg_loss;

size_t yg_loss_bytes(const yg_loss *loss);
/* As loss_detect, gradients scaled by *scale. */
void yg_loss_detect(yg_gpu *gpu, const yg_loss *loss);
/* The same in two steps, between which the score, sums[3], may be added up over the parts of a batch. */
void yg_loss_assign(yg_gpu *gpu, const yg_loss *loss);
void yg_loss_finish(yg_gpu *gpu, const yg_loss *loss);

/* As opt_piece and, but for `clip`, opt_rates. */
typedef struct yg_piece { int64_t offset; int32_t count, group; int32_t averaged; } yg_piece;
typedef struct yg_rates { float lr, decay, keep, momentum, beta1, beta2, root, grow, step; } yg_rates;
typedef enum yg_optimizer { YG_SGD, YG_ADAM, YG_ADAMAX, YG_NADAM, YG_RADAM, YG_RMSPROP } yg_optimizer; /* the update functions */

/* What becomes of a step, decided on the device so that nobody waits for it. */
typedef struct yg_decision {
    double squares;       /* of the gradients, which are `scale` times too large */
    float clip;           /* what the update multiplies them with */
    int32_t taken;        /* 0: they have overflowed, and parameters, moments and average stay as they are */
    float scale;          /* what the next loss is multiplied with; the caller sets the first one */
    int32_t scaled_steps; /* taken since it last changed */
} yg_decision;

/* The scale halves when gradients overflow and doubles, up to `largest`, after so many steps without; 0 steps: it stays, and every step
   is taken. */
typedef struct yg_scaling { int steps; float largest; } yg_scaling;

/* *decision (device) follows from the gradients of the pieces with a group >= 0, whose norm is brought down to `most`. `pieces` is
   device memory, `workspace` holds a double a piece. */
void yg_decide(yg_gpu *gpu, yg_decision *decision, const float *gradients, const yg_piece *pieces, int count, float most, yg_scaling scaling, double *workspace);
/* One step: update of the pieces with a group (rates: host, a row a group, at most 8), gradients become 0, then average += weight *
   (params - average) where the piece is averaged. `pieces` is device memory; b is NULL for kinds with one moment. */
void yg_update(yg_gpu *gpu, yg_optimizer kind, float *params, float *gradients, float *average, float *a, float *b, const yg_piece *pieces,
               int count, const yg_rates *rates, int groups, const yg_decision *decision, float weight);

/* The orthogonal part of MuSGD, see opt_muon_row, for all its rows together: as many at a time as work in `most` bytes, one at least.
   A row is (rows, columns) floats at `offset` of params, momentum and gradients; `group` chooses its rate. */
typedef struct yg_muon_row { int64_t offset; int32_t rows, columns, group; } yg_muon_row;
typedef struct yg_muon_plan yg_muon_plan;
size_t yg_muon_bytes(const yg_gpu *gpu, const yg_muon_row *rows, int count, size_t most); /* of device memory that a plan takes */
/* NULL on failure; waits. yg_muon_close frees it. */
yg_muon_plan *yg_muon_open(yg_gpu *gpu, const yg_muon_row *rows, int count, size_t most);
void yg_muon_close(yg_gpu *gpu, yg_muon_plan *plan);
/* lr: host, a number a group, at most 8. */
void yg_muon(yg_gpu *gpu, const yg_muon_plan *plan, float *params, float *momentum, const float *gradients, const yg_decision *decision, float beta,
             const float *lr, int groups);

/* ---- pictures of a batch, K13 */

enum { YG_VIEWS = 3, YG_TILES = 4 };

/* As aug_tile, of RGB pixels in device memory: they begin at a multiple of 4 bytes, and 16 bytes behind them may be read. */
typedef struct yg_tile { const uint8_t *pixels; int32_t stride, x1, y1, x2, y2, shift_x, shift_y; } yg_tile;
/* As aug_view; `inverse` is output to canvas. */
typedef struct yg_view { double inverse[9]; yg_tile tiles[YG_TILES]; int32_t tile_count, canvas_width, canvas_height, perspective; } yg_view;
typedef struct yg_layout { yg_view views[YG_VIEWS]; double ratio; int32_t cut[4], mixup, coloured, flip_x, flip_y, bgr; } yg_layout;
typedef struct yg_colours { int32_t by_value[256], by_range[256]; float saturation[256], value[256], weight[256][4]; } yg_colours; /* as aug_hsv */
typedef struct yg_scene { yg_layout layout; yg_colours colours; } yg_scene; /* as aug_scene */

/* out (n,h,w,3) = a picture of each of the n scenes (device), the same bytes as aug_render's. */
void yg_augment(yg_gpu *gpu, uint8_t *out, const yg_scene *scenes, int n, int h, int w);

/* A picture in device memory and its place in the network's input, as img_letterbox. Pixels as for yg_tile; step: pixels of the picture
   from one pixel of the scaled one to the next, as img_tap_make has it. */
typedef struct yg_letterbox {
    const uint8_t *pixels;
    double step_x, step_y;
    int32_t width, height, scaled_width, scaled_height, pad_left, pad_top;
} yg_letterbox;

/* Picture i of out = what letterboxes[i] (device) says, as img_letterbox_run makes it; channels of out beyond the third become 0. */
void yg_letterbox_run(yg_gpu *gpu, const yg_ten *out, const yg_letterbox *letterboxes);

/* ---- peaks, K14 */

typedef struct yg_peaks {
    double copies;   /* bytes a second that a large copy reads and writes */
    double products; /* products and sums a second of the unit that multiplies this type: tensor cores, or float arithmetic */
} yg_peaks;

/* What the device can do at its best, measured in some milliseconds with memory of its own. Waits; zeros on failure. */
void yg_measure_peaks(yg_gpu *gpu, yg_type type, yg_peaks *peaks);

/* ---- sums over several devices, K16 */

/* Of sums: bytes of pinned memory a slot and rank, bytes up to which everyone adds up all, and threads and blocks at most of a kernel:
   the backward pass wants the multiprocessors, too. */
enum { YG_RANKS = 16, YG_TEAM_SLOTS = 2, YG_TEAM_CHUNK = 4 << 20, YG_TEAM_SMALL = 32 << 10, YG_TEAM_THREADS = 512, YG_TEAM_BLOCKS = 32 };
typedef struct yg_team yg_team;

typedef enum yg_way {
    YG_DIRECTLY,     /* devices read and write each other's memory; proven when the team is opened */
    YG_THROUGH_HOST, /* copies through pinned memory, 8 MiB a rank */
    YG_BY_LIBRARY    /* `reduce` */
} yg_way;

/* Rank r of `size` works on gpus[r]; several may be of one device. */
typedef struct yg_team_plan {
    int size;
    yg_way way;
    yg_gpu *gpus[YG_RANKS];
    void *users[YG_RANKS]; /* handed to the functions below */
    /* Called in the thread of each rank: returns true when all ranks have called it, false when one never will. */
    bool (*meet)(void *user);
    /* Puts onto a cudaStream_t that values[i] becomes the sum of all ranks', floats or, where `wide`, doubles; 0, or an error with its reason. */
    int (*reduce)(void *user, void *values, int64_t count, bool wide, void *stream, char *reason, size_t reason_size);
} yg_team_plan;

/* Waits. 0, or with its reason: a CUDA error number, YG_NO_WAY: devices do not reach each other or come to wrong numbers, or
   YG_HANGS: one does not answer, and to free or close anything of it would not return. No yg_gpu fails of it. */
enum { YG_NO_WAY = -1, YG_HANGS = -2 };
int yg_team_open(yg_team **team, const yg_team_plan *plan, char *reason, size_t reason_size);
/* Waits. When no rank is in a call. */
void yg_team_close(yg_team *team);
/* Each rank calls it in its own thread, with as many: values[i] (device; float, or double where `wide`) becomes the sum over all ranks of
   what it is when the work called before is done; there after yg_sums_finish, until when the values stay untouched. Does not wait for the
   device, and is not to be recorded. False: the rank's yg_gpu has failed, or another rank. The same bits every time; except by
   library, those of a sum in the order of the ranks. */
bool yg_sum(yg_team *team, int rank, void *values, int64_t count, bool wide);
/* What is called afterwards finds all sums; the host does not wait. */
bool yg_sums_finish(yg_team *team, int rank);

#endif /* YOLO_PRIVATE */

#ifdef __cplusplus
}
#endif
#endif /* YOLO_H */
