/* gpu_optimizer.c */
static const test_case tests_gpu_optimizer[] = {{"none", "none", NULL}};
