// Which instruction set the kernels use: query it, force it. All sets give the same bits.
#pragma once

#include <span>
#include <string_view>

namespace fused_rmsprop {

/// `generic` is plain C++ for processors other than x86-64 and aarch64.
enum class InstructionSet { generic, neon, sse2, avx2, avx512 };

std::string_view name(InstructionSet set) noexcept;

/// The sets that this library was built with, narrowest first.
std::span<const InstructionSet> built_instruction_sets() noexcept;

/// Whether this processor and its operating system can run `set`.
bool supported(InstructionSet set) noexcept;

/// The set in use: the widest supported one, unless the environment variable FUSED_RMSPROP_ISA,
/// read at the first call, or set_instruction_set() names another. Throws std::invalid_argument,
/// listing the valid names, if the variable names no set that this processor supports.
InstructionSet instruction_set();

/// Uses the set called `name` from now on, in the whole process. Throws as instruction_set()
/// does, for a wrong `name` too.
void set_instruction_set(std::string_view name);

} // namespace fused_rmsprop
