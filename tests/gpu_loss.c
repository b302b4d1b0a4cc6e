/* gpu_loss.c */
static const test_case tests_gpu_loss[] = {{"none", "none", NULL}};
