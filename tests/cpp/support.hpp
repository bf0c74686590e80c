// What several tests share: random arrays, the instruction sets to try, the options to combine.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

template <typename T>
std::vector<T> random_values(std::size_t size, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<T> normal;
    std::vector<T> values(size);
    for (T &value : values)
        value = normal(engine);
    return values;
}

/// How many threads work where `threads` were asked for: one without OpenMP.
inline int team(int threads) {
    return fused_rmsprop::openmp() == std::string("none") ? 1 : threads;
}

/// Calls `body()` once with each instruction set that this processor supports in use.
template <typename Body>
void for_each_instruction_set(const Body &body) {
    using namespace fused_rmsprop;
    struct Restore {
        InstructionSet before = instruction_set();
        ~Restore() { set_instruction_set(name(before)); }
    } restore;
    for (const InstructionSet set : built_instruction_sets()) {
        if (!supported(set))
            continue;
        set_instruction_set(name(set));
        body();
    }
}

/// Every combination of terms that the formula can have.
inline std::vector<fused_rmsprop::Options> all_options() {
    std::vector<fused_rmsprop::Options> all;
    for (const double weight_decay : {0.0, 0.07})
        for (const bool centered : {false, true})
            for (const double momentum : {0.0, 0.81})
                for (const bool nesterov : {false, true})
                    for (const bool maximize : {false, true})
                        if (momentum > 0 || !nesterov)
                            all.push_back({.lr = 0.013,
                                           .alpha = 0.93,
                                           .eps = 1e-7,
                                           .weight_decay = weight_decay,
                                           .momentum = momentum,
                                           .centered = centered,
                                           .nesterov = nesterov,
                                           .maximize = maximize});
    return all;
}

inline std::string describe(const fused_rmsprop::Options &options) {
    return std::string(name(fused_rmsprop::instruction_set())) +
           (options.weight_decay > 0 ? " weight_decay" : "") +
           (options.centered ? " centered" : "") + (options.momentum > 0 ? " momentum" : "") +
           (options.nesterov ? " nesterov" : "") + (options.maximize ? " maximize" : "");
}
