// A training loop that clips its gradients and skips a step whose gradients are not finite.
#include <cmath>
#include <cstdio>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

int main() {
    std::vector<float> param(100'000, 1.0f), grad(100'000), square_avg(100'000);
    int skipped = 0;
    for (int batch = 0; batch < 20; ++batch) {
        for (std::size_t i = 0; i < param.size(); ++i)
            grad[i] = param[i]; // of sum(param**2) / 2
        if (batch == 10)
            grad[7] = NAN;
        const auto result = fused_rmsprop::step(
            {param, grad, square_avg}, {.lr = 1e-3}, {.threads = 0},
            {.max_grad_norm = 1.0, .on_nonfinite = fused_rmsprop::OnNonfinite::skip});
        skipped += result.skipped;
    }
    std::printf("%.6f, skipped %d\n", double{param[0]}, skipped); // 0.925029, skipped 1
}
