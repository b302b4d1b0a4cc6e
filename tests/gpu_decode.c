/* gpu_decode.c */
static const test_case tests_gpu_decode[] = {{"none", "none", NULL}};
