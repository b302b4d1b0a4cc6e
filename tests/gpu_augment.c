static const test_case tests_gpu_augment[] = {{"none", "", NULL}};
