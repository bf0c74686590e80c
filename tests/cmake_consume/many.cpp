// One step of many tensors, of both element types.
#include <cstdio>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

int main() {
    using namespace fused_rmsprop;
    std::vector<float> p(1000, 1.0f), g(1000, 0.5f), v(1000), b(1000);
    std::vector<double> q(10, 1.0), h(10, 0.5), w(10), c(10);
    const Options options{.lr = 1e-3, .momentum = 0.9};
    const std::vector<Tensor> tensors{
        Tensor(Arrays<float>{.param = p, .grad = g, .square_avg = v, .momentum_buffer = b},
               options),
        Tensor(Arrays<double>{.param = q, .grad = h, .square_avg = w, .momentum_buffer = c},
               options)};
    const StepResult result = step(tensors, {.threads = 0}, {.max_grad_norm = 1.0});
    std::printf("%.4f, norm %.4f\n", double{p[0]}, *result.grad_norm); // 0.9900, norm 15.8902
}
