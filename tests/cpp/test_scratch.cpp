// The memory of a step: nothing is allocated after the first, and threads may end in between.

#include "support.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <fused_rmsprop/distributed.hpp>

using namespace fused_rmsprop;

namespace {

struct Model {
    std::vector<float> param = random_values<float>(size, 1);
    std::vector<float> grad = random_values<float>(size, 2);
    std::vector<float> square_avg = std::vector<float>(size);
    Tensor tensor{Arrays<float>{param, grad, square_avg}, options};

    static constexpr std::size_t size = 2 * chunk_size;
    static constexpr Options options{};
    static constexpr GradientTransform clipped{.max_grad_norm_per_array = 20, .max_grad_norm = 9};

    void step() { fused_rmsprop::step(std::span(&tensor, 1), {}, clipped); }
};

std::atomic<int> allocations{0};

} // namespace

#if !UNDER_TSAN // which brings an operator of its own
void *operator new(std::size_t size) {
    ++allocations;
    if (void *const memory = std::malloc(size))
        return memory;
    throw std::bad_alloc();
}

void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }
#endif

TEST_CASE("memory: nothing is allocated after the first step" * doctest::skip(UNDER_TSAN)) {
    Model model;
    model.step();
    const int before = allocations;
    model.step();
    CHECK(allocations == before);
    const std::vector<int> one(1);
    CHECK(allocations == before + 1);
}

TEST_CASE("memory: threads end after a step, and leave the memory of others alone") {
    std::atomic<bool> intact = true;
    const auto work = [&](std::size_t value) {
        std::vector<std::vector<std::size_t>> own;
        for (std::size_t size = 1; size < 64; ++size)
            own.emplace_back(size, value);
        Model().step();
        for (const auto &values : own)
            if (std::ranges::count(values, value) != std::ssize(values))
                intact = false;
    };
    for (int round = 0; round < 300; ++round) {
        std::vector<std::thread> threads;
        for (std::size_t value = 1; value <= 8; ++value)
            threads.emplace_back(work, value);
        for (std::thread &thread : threads)
            thread.join();
    }
    CHECK(intact);
}
