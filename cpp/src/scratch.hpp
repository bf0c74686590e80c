// Memory for the length of a step, which a later step takes over.
#pragma once

#include <atomic>
#include <vector>

namespace fused_rmsprop {

/// A vector, taken at its first use. Its memory is kept for the next Scratch, so that later steps
/// allocate nothing; what it holds at first is left over. It is not thread_local: MinGW frees such
/// objects when their thread ends, and destroys them afterwards.
template <typename T>
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    ~Scratch() {
        for (auto &place : kept)
            if (values_ != nullptr)
                values_ = place.exchange(values_);
        delete values_;
    }

    std::vector<T> &operator*() {
        for (auto &place : kept)
            if (values_ == nullptr)
                values_ = place.exchange(nullptr);
        if (values_ == nullptr)
            values_ = new std::vector<T>;
        return *values_;
    }

private:
    // One for each thread that steps at the same time; if there are more threads, the others
    // allocate.
    static inline std::atomic<std::vector<T> *> kept[8]{};
    std::vector<T> *values_ = nullptr;
};

} // namespace fused_rmsprop
