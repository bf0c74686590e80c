// A step of tensors split among processes, which are threads here, beside the step of the whole.

#include "support.hpp"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <fused_rmsprop/distributed.hpp>

using namespace fused_rmsprop;

namespace {

constexpr std::size_t sizes[] = {3 * chunk_size + 5, 100, 0, chunk_size, 2 * chunk_size + 1};

/// Parameters with their gradients and state, or the parts of them that one process has.
struct Model {
    std::vector<std::vector<float>> param, grad, square_avg;
    std::vector<Tensor> tensors;

    explicit Model(const Options &options, double grad_size) {
        for (const std::size_t size : sizes) {
            param.push_back(random_values<float>(size, static_cast<unsigned>(size)));
            grad.push_back(random_values<float>(size, static_cast<unsigned>(size) + 1));
            for (float &g : grad.back())
                g *= static_cast<float>(grad_size);
            square_avg.emplace_back(size, 0.0f);
        }
        for (std::size_t i = 0; i < std::size(sizes); ++i)
            tensors.emplace_back(Arrays<float>{param[i], grad[i], square_avg[i]}, options);
    }
};

/// Where the part of process `rank` of a tensor begins.
std::size_t cut(std::size_t size, std::size_t rank, std::size_t count) {
    const std::size_t chunks = (size + chunk_size - 1) / chunk_size;
    return std::min(size, chunks * rank / count * chunk_size);
}

/// Stands in for `std::barrier`, whose waiters sleep for ever now and then with libstdc++ 12 where
/// there is no futex, as on Windows: it tests the phase before it takes the lock to wait.
class Barrier {
public:
    explicit Barrier(std::size_t count) : count_(count) {}

    void arrive_and_wait() {
        std::unique_lock lock(mutex_);
        const std::size_t phase = phase_;
        if (++arrived_ == count_) {
            arrived_ = 0;
            ++phase_;
            all_arrived_.notify_all();
        }
        all_arrived_.wait(lock, [&] { return phase_ != phase; });
    }

private:
    const std::size_t count_;
    std::size_t arrived_ = 0, phase_ = 0;
    std::mutex mutex_;
    std::condition_variable all_arrived_;
};

/// What threads write for each other.
struct Board {
    Barrier barrier;
    std::vector<std::vector<SquareSum>> sums;
    std::vector<std::size_t> values;
    explicit Board(std::size_t count) : barrier(count), sums(count), values(count) {}
};

class Threads : public Peers {
public:
    Threads(Board &board, std::size_t rank) : board_(board), rank_(rank) {}

    std::size_t chunks_of(std::size_t tensor) const override {
        return (sizes[tensor] + chunk_size - 1) / chunk_size;
    }

    void join(std::span<const SquareSum> own, std::span<SquareSum> all) override {
        board_.sums[rank_].assign(own.begin(), own.end());
        board_.barrier.arrive_and_wait();
        std::vector<std::size_t> used(board_.sums.size());
        std::size_t next = 0;
        for (const std::size_t size : sizes)
            for (std::size_t r = 0; r < used.size(); ++r)
                for (std::size_t at = cut(size, r, used.size()); at < cut(size, r + 1, used.size());
                     at += chunk_size)
                    all[next++] = board_.sums[r][used[r]++];
        board_.barrier.arrive_and_wait();
    }

    std::size_t least(std::size_t value) override {
        board_.values[rank_] = value;
        board_.barrier.arrive_and_wait();
        const std::size_t least = std::ranges::min(board_.values);
        board_.barrier.arrive_and_wait();
        return least;
    }

private:
    Board &board_;
    std::size_t rank_;
};

/// The step by `count` threads, each of which has a part of every tensor, in pieces.
std::vector<StepResult> step_together(Model &model, std::size_t count,
                                      const GradientTransform &transform) {
    Board board(count);
    std::vector<StepResult> results(count);
    const auto work = [&](std::size_t rank) {
        Threads peers(board, rank);
        std::vector<Tensor> tensors;
        std::vector<Part> halves[2];
        for (std::size_t i = 0; i < std::size(sizes); ++i) {
            const std::size_t first = cut(sizes[i], rank, count);
            Tensor t = model.tensors[i];
            t.size = cut(sizes[i], rank + 1, count) - first;
            t.param = static_cast<float *>(t.param) + first;
            t.grad = static_cast<const float *>(t.grad) + first;
            t.square_avg = static_cast<float *>(t.square_avg) + first;
            tensors.push_back(t);
            halves[0].push_back({i, 0, t.size / 3});
            halves[1].push_back({i, t.size / 3, t.size - t.size / 3});
        }
        Step step(tensors, {}, transform, &peers);
        if (!step.result().skipped)
            for (const auto &half : halves)
                step.update(half);
        results[rank] = step.result();
    };
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < count; ++rank)
        threads.emplace_back(work, rank);
    for (std::thread &thread : threads)
        thread.join();
    return results;
}

} // namespace

TEST_CASE("distributed: the bits of the step of whole tensors") {
    const GradientTransform transforms[] = {
        {},
        {.max_grad_norm = 1.5},
        {.max_grad_norm_per_array = 0.5},
        {.grad_scale = 0.3,
         .max_grad_value = 0.7,
         .max_grad_norm_per_array = 20,
         .max_grad_norm = 9},
        {.max_grad_norm = 2, .on_nonfinite = OnNonfinite::skip},
        {.max_grad_norm = INFINITY},
    };
    const Options options{.lr = 0.013, .weight_decay = 0.01};
    for (const GradientTransform &transform : transforms)
        for (const double size : {1.0, 1e-30, 1e15})
            for (const std::size_t count : {1u, 2u, 3u, 7u}) {
                Model whole(options, size), parts(options, size);
                const StepResult expected = step(whole.tensors, {}, transform);
                for (const StepResult &result : step_together(parts, count, transform)) {
                    CHECK(result.skipped == expected.skipped);
                    CHECK(result.grad_norm == expected.grad_norm);
                    CHECK(result.nonfinite == expected.nonfinite);
                }
                CHECK(parts.param == whole.param);
                CHECK(parts.square_avg == whole.square_avg);
            }
}

TEST_CASE("distributed: one process's infinity skips the step of all") {
    const Options options;
    for (const OnNonfinite policy : {OnNonfinite::skip, OnNonfinite::skip_if_it_spreads}) {
        Model model(options, 1);
        model.grad[3][7] = std::numeric_limits<float>::infinity();
        const auto before = model.param;
        for (const StepResult &result :
             step_together(model, 3, {.max_grad_norm = 1, .on_nonfinite = policy})) {
            CHECK(result.skipped);
            CHECK(result.nonfinite == 3);
        }
        CHECK(model.param == before);
    }
}

TEST_CASE("distributed: one process's overflow skips the step of all") {
    const Options options;
    Model model(options, 1);
    model.grad[4].back() = 3e19f; // its square overflows
    const auto before = model.param;
    for (const StepResult &result : step_together(model, 3, {.on_nonfinite = OnNonfinite::skip})) {
        CHECK(result.skipped);
        CHECK(result.nonfinite == 4);
    }
    CHECK(model.param == before);
}

TEST_CASE("distributed: nothing is written where the tensors are refused") {
    const Options bad{.lr = -1};
    Model model(bad, 1);
    CHECK(refusal([&] { Step(model.tensors); }) != "");
}
