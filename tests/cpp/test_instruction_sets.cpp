// Which instruction set is in use: names, the widest by default, forced by call or environment.

#include "support.hpp"

#include <algorithm>
#include <cstdlib>

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

std::string set_or_error() {
    try {
        return std::string(name(instruction_set()));
    } catch (const std::invalid_argument &error) {
        return error.what();
    }
}

// Before any test has set another one.
const std::string at_start = set_or_error();

std::vector<std::string> valid_names() {
    std::vector<std::string> names;
    for (const InstructionSet set : built_instruction_sets())
        if (supported(set))
            names.emplace_back(name(set));
    return names;
}

void lists_the_valid_names(const std::string &message) {
    for (const std::string &valid : valid_names())
        CHECK(message.find(valid, message.find("valid here")) != std::string::npos);
}

} // namespace

// ctest runs this case once more for each value that the variable can have, and for wrong ones.
TEST_CASE("instruction sets: FUSED_RMSPROP_ISA") {
    const char *variable = std::getenv("FUSED_RMSPROP_ISA");
    const std::string wanted = variable == nullptr ? "" : variable;
    const auto valid = valid_names();
    if (wanted.empty()) {
        CHECK(at_start == valid.back());
    } else if (std::find(valid.begin(), valid.end(), wanted) != valid.end()) {
        CHECK(at_start == wanted);
    } else {
        CHECK(at_start.starts_with("FUSED_RMSPROP_ISA: '" + wanted + "'"));
        lists_the_valid_names(at_start);
    }
}

TEST_CASE("instruction sets: those of the architecture are built, and the baseline is supported") {
    const auto built = built_instruction_sets();
    REQUIRE(!built.empty());
    CHECK(supported(built.front()));
#if defined(__x86_64__)
    CHECK(name(built.front()) == "sse2");
    CHECK(name(built.back()) == "avx512");
    CHECK_FALSE(supported(InstructionSet::neon));
#if !defined(_MSC_VER)
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    CHECK(supported(InstructionSet::avx512) == avx512);
    CHECK(supported(InstructionSet::avx2) == (__builtin_cpu_supports("avx2") != 0));
#endif
#elif defined(__aarch64__)
    CHECK(name(built.front()) == "neon");
    CHECK_FALSE(supported(InstructionSet::avx2));
#endif
}

TEST_CASE("instruction sets: each supported one can be put to use") {
    std::vector<std::string> used;
    const auto before = instruction_set();
    for_each_instruction_set([&] { used.emplace_back(name(instruction_set())); });
    CHECK(used == valid_names());
    CHECK(instruction_set() == before);
}

TEST_CASE("instruction sets: an unknown or foreign name is refused and changes nothing") {
    const auto before = instruction_set();
    for (const std::string wrong : {"", "AVX2", "sse", "avx1024",
#if defined(__x86_64__)
                                    "neon"
#else
                                    "avx2"
#endif
         }) {
        std::string message;
        try {
            set_instruction_set(wrong);
        } catch (const std::invalid_argument &error) {
            message = error.what();
        }
        CHECK(message.starts_with("set_instruction_set: '" + wrong + "'"));
        lists_the_valid_names(message);
        CHECK(instruction_set() == before);
    }
}
