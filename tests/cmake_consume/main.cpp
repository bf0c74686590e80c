#include <cstdio>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

int main() {
    std::vector<float> param(100'000, 1.0f), grad(100'000, 0.5f), square_avg(100'000);
    fused_rmsprop::step({param, grad, square_avg}, {.lr = 1e-3, .alpha = 0.9}, {.threads = 0});
    std::printf("%.6f\n", double{param[0]}); // 0.996838
}
