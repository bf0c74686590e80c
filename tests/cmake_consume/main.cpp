// One step from C++, as in the README; fails if the value is not the formula's.

#include <cmath>
#include <cstdio>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

int main() {
    std::vector<float> param(100'000, 1.0f), grad(100'000, 0.5f), square_avg(100'000);

    fused_rmsprop::step(fused_rmsprop::Arrays<float>{param, grad, square_avg},
                        {.lr = 1e-3, .alpha = 0.9}, {.threads = 0});

    const float v = 0.1f * (0.5f * 0.5f);
    const float expected = 1.0f - 1e-3f * 0.5f / (std::sqrt(v) + 1e-8f);
    std::printf("fused_rmsprop %s: %.9g, expected %.9g\n", fused_rmsprop::version(),
                double{param.back()}, double{expected});
    return param.front() == expected && param.back() == expected ? 0 : 1;
}
