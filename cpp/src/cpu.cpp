// Chooses the instruction set, from the sets built, the processor's and the user's wish.

#include <fused_rmsprop/instruction_sets.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fused_rmsprop {
namespace {

constexpr std::array built{
#if defined(__x86_64__)
    InstructionSet::sse2, InstructionSet::avx2, InstructionSet::avx512
#elif defined(__aarch64__)
    InstructionSet::neon
#else
    InstructionSet::generic
#endif
};

InstructionSet parse(std::string_view wanted, std::string_view source) {
    std::string valid;
    bool known = false;
    for (const InstructionSet set : built) {
        known = known || name(set) == wanted;
        if (!supported(set))
            continue;
        if (name(set) == wanted)
            return set;
        valid += (valid.empty() ? "" : ", ") + std::string(name(set));
    }
    throw std::invalid_argument(std::string(source) + ": '" + std::string(wanted) +
                                (known ? "' is not supported by this processor"
                                       : "' is not an instruction set of this build") +
                                "; valid here: " + valid);
}

InstructionSet from_environment() {
    const char *wanted = std::getenv("FUSED_RMSPROP_ISA");
    if (wanted == nullptr || *wanted == '\0')
        return *std::find_if(built.rbegin(), built.rend(), supported); // the widest
    return parse(wanted, "FUSED_RMSPROP_ISA");
}

std::atomic<InstructionSet> &active() {
    static std::atomic<InstructionSet> set{from_environment()};
    return set;
}

} // namespace

std::string_view name(InstructionSet set) noexcept {
    constexpr const char *names[] = {"generic", "neon", "sse2", "avx2", "avx512"};
    return names[static_cast<std::size_t>(set)];
}

std::span<const InstructionSet> built_instruction_sets() noexcept { return built; }

bool supported(InstructionSet set) noexcept {
#if defined(__x86_64__)
    // These ask the operating system too, whether it saves the wide registers.
    if (set == InstructionSet::avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (set == InstructionSet::avx2)
        return __builtin_cpu_supports("avx2");
#endif
    return std::find(built.begin(), built.end(), set) != built.end();
}

InstructionSet instruction_set() { return active().load(std::memory_order_relaxed); }

void set_instruction_set(std::string_view wanted) {
    active().store(parse(wanted, "set_instruction_set"), std::memory_order_relaxed);
}

} // namespace fused_rmsprop
