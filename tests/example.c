/* example.c - the quick start of yolo.h as a program of its own, which vendors yolo.h and yolo.c.

   tests/example.sh checks that the text below is the header's, word for word, compiles it as C and as C++ and runs it. */
#include <stdio.h>
#include "yolo.h"

int main(void) {
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
    return 0;
}
