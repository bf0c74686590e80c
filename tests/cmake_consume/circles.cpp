// A network with one hidden layer learns to tell two half-circles apart.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

constexpr std::size_t hidden = 32, points = 1000;

struct Network { // per hidden unit: two weights and a bias, a weight of the output; its bias
    std::vector<float> w = std::vector<float>(2 * hidden), b = std::vector<float>(hidden);
    std::vector<float> out = std::vector<float>(hidden), c = std::vector<float>(1);
};

// The score of a point: positive if it is red. If grads is there, adds the gradients of the loss.
float score(const Network &net, const float *x, float red, Network *grads) {
    float unit[hidden], sum = net.c[0];
    for (std::size_t j = 0; j < hidden; ++j) {
        unit[j] = std::tanh(x[0] * net.w[2 * j] + x[1] * net.w[2 * j + 1] + net.b[j]);
        sum += net.out[j] * unit[j];
    }
    if (grads != nullptr) {
        const float delta = (1 / (1 + std::exp(-sum)) - red) / points; // of the cross-entropy
        grads->c[0] += delta;
        for (std::size_t j = 0; j < hidden; ++j) {
            const float below = delta * net.out[j] * (1 - unit[j] * unit[j]);
            grads->out[j] += delta * unit[j];
            grads->b[j] += below;
            grads->w[2 * j] += below * x[0];
            grads->w[2 * j + 1] += below * x[1];
        }
    }
    return sum;
}

int main() {
    std::mt19937 random(0);
    std::vector<float> x(2 * points), red(points);
    for (std::size_t i = 0; i < points; ++i) {
        const float angle = 3.14f * (i / 2) / (points / 2), side = i % 2;
        red[i] = side;
        x[2 * i] = side == 0 ? std::cos(angle) : 1 - std::cos(angle);
        x[2 * i + 1] = side == 0 ? std::sin(angle) : 0.5f - std::sin(angle);
    }

    Network net, square_avg; // state starts at zero
    for (auto *weights : {&net.w, &net.out})
        for (float &weight : *weights)
            weight = random() / 4294967296.0f - 0.5f;

    for (int step = 0; step < 500; ++step) {
        Network grads;
        for (std::size_t i = 0; i < points; ++i)
            score(net, &x[2 * i], red[i], &grads);
        const fused_rmsprop::Options options{.lr = 0.02 * (1 - step / 500.0), .alpha = 0.9};
        using Arrays = fused_rmsprop::Arrays<float>;
        const std::vector<fused_rmsprop::Tensor> tensors{
            {Arrays{.param = net.w, .grad = grads.w, .square_avg = square_avg.w}, options},
            {Arrays{.param = net.b, .grad = grads.b, .square_avg = square_avg.b}, options},
            {Arrays{.param = net.out, .grad = grads.out, .square_avg = square_avg.out}, options},
            {Arrays{.param = net.c, .grad = grads.c, .square_avg = square_avg.c}, options}};
        fused_rmsprop::step(tensors);
    }

    std::size_t right = 0;
    for (std::size_t i = 0; i < points; ++i)
        right += (score(net, &x[2 * i], red[i], nullptr) > 0) == (red[i] == 1);
    std::printf("%zu of %zu points are right\n", right, points); // 1000 of 1000 points are right
}
