/* Two groups of both element types, with clipping; a gradient that is not finite skips a step. */
#include <math.h>
#include <stdio.h>

#include <fused_rmsprop/fused_rmsprop.h>

int main(void) {
    float w[3] = {1, 2, 3}, dw[3] = {0.5f, -1, 2}, w_avg[3] = {0}, w_momentum[3] = {0};
    double b[1] = {1}, db[1] = {4}, b_avg[1] = {0}, norm = 0, threads = 0, lr = 0;
    uint64_t steps = 0;
    if (fused_rmsprop_abi_version() != FUSED_RMSPROP_ABI_VERSION)
        return 1;

    fused_rmsprop_optimizer *opt = fused_rmsprop_create();
    fused_rmsprop_set_option(opt, 0, "lr", 0.01);
    int biases = fused_rmsprop_add_group(opt); /* with a copy of these options */
    fused_rmsprop_set_option(opt, 0, "momentum", 0.9);
    fused_rmsprop_set(opt, "max_grad_norm", 1);
    fused_rmsprop_set(opt, "on_nonfinite", FUSED_RMSPROP_SKIP);

    int i = fused_rmsprop_add_parameter(opt, 0, FUSED_RMSPROP_FLOAT32, 3);
    fused_rmsprop_bind(opt, i, "param", w);
    fused_rmsprop_bind(opt, i, "grad", dw);
    fused_rmsprop_bind(opt, i, "square_avg", w_avg);
    fused_rmsprop_bind(opt, i, "momentum_buffer", w_momentum);
    int j = fused_rmsprop_add_parameter(opt, biases, FUSED_RMSPROP_FLOAT64, 1);
    fused_rmsprop_bind(opt, j, "param", b);
    fused_rmsprop_bind(opt, j, "grad", db);
    fused_rmsprop_bind(opt, j, "square_avg", b_avg);
    fused_rmsprop_set_steps(opt, j, 9); /* made before, when a training is resumed */

    if (fused_rmsprop_step(opt) != FUSED_RMSPROP_OK)
        return 2;
    dw[1] = NAN;
    if (fused_rmsprop_step(opt) != FUSED_RMSPROP_SKIPPED)
        return 3;
    dw[1] = -1;
    fused_rmsprop_step(opt);
    fused_rmsprop_get(opt, "grad_norm", &norm);
    fused_rmsprop_get(opt, "threads_used", &threads);
    fused_rmsprop_get_option(opt, biases, "lr", &lr);
    fused_rmsprop_get_steps(opt, j, &steps);
    printf("%.4f %.4f, norm %.4f, lr %g, %d steps, %d thread\n", w[0], b[0], norm, lr, (int)steps,
           (int)threads); /* 0.7391 0.8291, norm 4.6098, lr 0.01, 11 steps, 1 thread */
    if (fused_rmsprop_set_option(opt, 0, "learning_rate", 1) < 0)
        puts(fused_rmsprop_last_error()); /* there is no option 'learning_rate'; there are ... */
    fused_rmsprop_destroy(opt);
    return 0;
}
