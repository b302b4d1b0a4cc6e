/* gpu_conv.c */
static const test_case tests_gpu_conv[] = {{"none", "none", NULL}};
