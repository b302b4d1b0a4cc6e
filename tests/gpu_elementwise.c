/* gpu_elementwise.c */
static const test_case tests_gpu_elementwise[] = {{"none", "none", NULL}};
