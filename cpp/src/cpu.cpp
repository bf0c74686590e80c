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

#if defined(__x86_64__)
/// Whether the processor and the operating system, which saves the wide registers, have a set.
/// __builtin_cpu_supports would need a library that clang-cl does not link.
bool has(InstructionSet set) noexcept {
    const auto cpuid = [](unsigned leaf) {
        std::array<unsigned, 4> r{leaf, 0, 0, 0};
        asm volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
        return r;
    };
    constexpr unsigned xgetbv_enabled = 1u << 27, avx2 = 1u << 5;
    constexpr unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // f, dq, bw, vl
    if (cpuid(0)[0] < 7 || (cpuid(1)[2] & xgetbv_enabled) == 0)
        return false;
    unsigned saved = 0, high = 0;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
#if defined(__APPLE__) // saves those of AVX-512 from their first use on, and tells only then
    saved |= (saved & 0x06) == 0x06 ? 0xe0 : 0;
#endif
    const unsigned features = cpuid(7)[1];
    if (set == InstructionSet::avx512)
        return (features & avx512) == avx512 && (saved & 0xe6) == 0xe6;
    return (features & avx2) != 0 && (saved & 0x06) == 0x06;
}
#endif

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
    if (set == InstructionSet::avx2 || set == InstructionSet::avx512)
        return has(set);
#endif
    return std::find(built.begin(), built.end(), set) != built.end();
}

InstructionSet instruction_set() { return active().load(std::memory_order_relaxed); }

void set_instruction_set(std::string_view wanted) {
    active().store(parse(wanted, "set_instruction_set"), std::memory_order_relaxed);
}

} // namespace fused_rmsprop
