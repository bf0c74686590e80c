// The norm of many gradients and their sums: accurate, and the same for every instruction set and
// number of threads.

#include "support.hpp"

#include <cmath>
#include <limits>
#include <numeric>

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

Execution on(int threads) { return {.threads = threads, .serial_below_bytes = 0}; }

} // namespace

TEST_CASE("grad_norm: accurate, the same bits for every set and number of threads") {
    // Few chunks, and more than there are segments, with tensors between them that have none.
    for (const std::size_t large : {40'000u, 5'000'000u}) {
        const auto a = random_values<float>(large, 1);
        const auto b = random_values<double>(large / 2 + 1, 2);
        const std::vector<float> none, one{3.0f};
        const std::vector tensors{only_grad(one), only_grad(none), only_grad(a), Tensor{},
                                  only_grad(b)};
        long double exact = 9;
        for (const float x : a)
            exact += static_cast<long double>(x) * x;
        for (const double x : b)
            exact += static_cast<long double>(x) * x;
        const double norm = grad_norm(tensors).norm;
        CHECK(std::abs(norm - static_cast<double>(std::sqrt(exact))) < 1e-13 * norm);
        for_each_instruction_set([&] {
            for (const int threads : {1, 2, 3, 7})
                CHECK(grad_norm(tensors, {}, on(threads)).norm == norm);
        });
    }
}

TEST_CASE("grad_norm: scaled and limited gradients") {
    const std::vector<float> grad{1, -2, 3, -4, 0.5f};
    const std::vector tensors{only_grad(grad)};
    for_each_instruction_set([&] {
        CHECK(grad_norm(tensors, {.grad_scale = -2}).norm == 2 * grad_norm(tensors).norm);
        CHECK(grad_norm(tensors, {.grad_scale = 2, .max_grad_value = 3}).norm ==
              std::sqrt(4.0 + 9 + 9 + 9 + 1));
    });
    CHECK(grad_norm({}).norm == 0);
    CHECK(grad_norm(tensors, {.max_grad_norm = 1}).norm == grad_norm(tensors).norm);
}

TEST_CASE_TEMPLATE("grad_norm: finds the first tensor with a NaN or an infinity", T, float,
                   double) {
    using Limits = std::numeric_limits<T>;
    for_each_instruction_set([&] {
        for (const std::size_t place : {0u, 7u, 15u, 16u, 4095u, 4096u, 5000u})
            for (const T bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
                std::vector<T> a(17, T(1)), b(5001, Limits::max() / 2), c = b;
                b[place] = c[place] = bad;
                const std::vector tensors{only_grad(a), only_grad(b), only_grad(c)};
                for (const int threads : {1, 3}) {
                    const auto found = grad_norm(tensors, {}, on(threads));
                    CHECK(found.nonfinite == 1);
                    CHECK(std::isnan(found.norm) == std::isnan(bad));
                    // A limit makes an infinity finite, but not unseen.
                    CHECK(grad_norm(tensors, {.max_grad_value = 1}, on(threads)).nonfinite == 1);
                }
            }
        const std::vector<T> large(100, Limits::max() / 2);
        const std::vector tensors{only_grad(large)};
        CHECK(grad_norm(tensors).nonfinite == no_tensor);
        CHECK(grad_norm(tensors, {.grad_scale = 4}).nonfinite == 0);
    });
}

TEST_CASE("grad_norm: squares that float64 cannot hold") {
    for (const double size : {1e300, 1e200, 1e-200, 1e-300, 3e-308}) {
        const std::vector<double> grad(10'000, size);
        const auto found = grad_norm(std::vector{only_grad(grad)});
        CHECK(std::abs(found.norm / size - 100) < 1e-12);
        CHECK(found.nonfinite == no_tensor);
    }
}

TEST_CASE_TEMPLATE("accumulate: sums, cut anywhere", T, float, double) {
    const std::size_t sizes[] = {0, 1, 5000, 33, 70'001};
    for_each_instruction_set([&] {
        for (const int threads : {1, 2, 3}) {
            std::vector<std::vector<T>> sums, terms;
            std::vector<Sum> jobs;
            for (unsigned i = 0; i < std::size(sizes); ++i) {
                sums.push_back(random_values<T>(sizes[i], i));
                terms.push_back(random_values<T>(sizes[i], i + 10));
            }
            auto expected = sums;
            for (unsigned i = 0; i < std::size(sizes); ++i) {
                const bool empty = i == 2, skipped = i == 3;
                jobs.push_back({.dtype = only_grad(terms[i]).dtype,
                                .size = sizes[i],
                                .sum = sums[i].data(),
                                .term = skipped ? nullptr : terms[i].data(),
                                .empty = empty});
                for (std::size_t k = 0; k < sizes[i] && !skipped; ++k)
                    expected[i][k] = empty ? terms[i][k] : expected[i][k] + terms[i][k];
            }
            accumulate(jobs, on(threads));
            CHECK(sums == expected);
        }
    });
}

TEST_CASE("gradients: what is refused") {
    std::vector<float> grad(3), param(3), square_avg(3);
    Tensor missing = only_grad(grad);
    const Options options;
    const Arrays<float> arrays{param, grad, square_avg};
    CHECK(refusal([&] { grad_norm(std::vector{missing}, {.grad_scale = 1e39}); }) ==
          "grad_scale=1e+39 overflows in float32");
    CHECK(refusal([&] { step(arrays, options, {}, {.grad_scale = NAN}); }) ==
          "grad_scale must be finite, got nan");
    CHECK(refusal([&] { step(arrays, options, {}, {.max_grad_value = -1}); }) ==
          "max_grad_value must be >= 0, got -1");
    CHECK(refusal([&] { step(arrays, options, {}, {.max_grad_norm = -1}); }) ==
          "max_grad_norm must be >= 0, got -1");
    CHECK(refusal([&] { step(arrays, options, {}, {.max_grad_norm = NAN}); }) ==
          "max_grad_norm must be >= 0, got nan");
    CHECK(refusal([&] { grad_norm(std::vector{missing}, {}, {.threads = -1}); }) ==
          "threads must be >= 0 and <= 1024, got -1");
    missing.grad = reinterpret_cast<const char *>(grad.data()) + 1;
    missing.size = 2;
    CHECK(refusal([&] { grad_norm(std::vector{missing}); }) ==
          "tensors[0].grad is not aligned to its element type");
    CHECK(refusal([&] { accumulate(std::vector{Sum{.size = 3, .term = grad.data()}}); }) ==
          "sums[0].sum is missing");
}
