/* gpu_wgrad.c */
static const test_case tests_gpu_wgrad[] = {{"none", "none", NULL}};
