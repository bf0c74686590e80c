/* A training loop in C99. */
#include <stdio.h>
#include <stdlib.h>

#include <fused_rmsprop/fused_rmsprop.h>

enum { size = 100000 };
static float param[size], grad[size], square_avg[size];

static int checked(int code) {
    if (code < 0) {
        fprintf(stderr, "%s\n", fused_rmsprop_last_error());
        exit(1);
    }
    return code;
}

int main(void) {
    fused_rmsprop_optimizer *optimizer = fused_rmsprop_create();
    checked(fused_rmsprop_set_option(optimizer, 0, "lr", 1e-3));
    checked(fused_rmsprop_set_option(optimizer, 0, "alpha", 0.9));
    int w = checked(fused_rmsprop_add_parameter(optimizer, 0, FUSED_RMSPROP_FLOAT32, size));
    checked(fused_rmsprop_bind(optimizer, w, "param", param));
    checked(fused_rmsprop_bind(optimizer, w, "grad", grad));
    checked(fused_rmsprop_bind(optimizer, w, "square_avg", square_avg)); /* zeros */
    for (int i = 0; i < size; ++i)
        param[i] = 1;

    for (int batch = 0; batch < 20; ++batch) {
        for (int i = 0; i < size; ++i)
            grad[i] = param[i]; /* of sum(param**2) / 2 */
        checked(fused_rmsprop_step(optimizer));
    }
    printf("%.6f\n", param[0]); /* 0.971557 */
    fused_rmsprop_destroy(optimizer);
    return 0;
}
