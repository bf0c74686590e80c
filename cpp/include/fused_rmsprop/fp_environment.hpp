// The floating-point control state of a running kernel, put back as it was afterwards.
// Set in full, so that results depend neither on the caller's settings nor on the thread that runs
// a slice: OpenMP's workers do not inherit the caller's state.
#pragma once

#include <cfenv>
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fused_rmsprop {

/// For its lifetime: C's default environment. It is slower than ScopedFpEnvironment, which leaves
/// the x87 unit of x86-64 alone; but printf and strtod follow the rounding mode of that unit.
class ScopedDefaultEnvironment {
public:
    ScopedDefaultEnvironment() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~ScopedDefaultEnvironment() { std::fesetenv(&saved_); }
    ScopedDefaultEnvironment(const ScopedDefaultEnvironment &) = delete;

private:
    std::fenv_t saved_;
};

/// For its lifetime: round to nearest, trap nothing, and treat subnormals as zero if asked to
/// (except on processors other than x86-64 and aarch64, which then keep them).
class ScopedFpEnvironment {
public:
    ScopedFpEnvironment(const ScopedFpEnvironment &) = delete;

#if defined(__x86_64__)
    explicit ScopedFpEnvironment(bool flush_denormals) : saved_(_mm_getcsr()) {
        constexpr unsigned all_masked = 0x1f80, flush_both = 0x8040; // subnormal inputs and results
        constexpr unsigned status = 0x003f; // the exceptions that have occurred
        const unsigned wanted = flush_denormals ? all_masked | flush_both : all_masked;
        if (((saved_ ^ wanted) & ~status) != 0) // writing takes far longer than reading
            _mm_setcsr(wanted);
    }
    ~ScopedFpEnvironment() {
        if (_mm_getcsr() != saved_)
            _mm_setcsr(saved_);
    }

private:
    const unsigned saved_;
#elif defined(__aarch64__)
    explicit ScopedFpEnvironment(bool flush_denormals) {
        constexpr std::uint64_t flush_to_zero = std::uint64_t{1} << 24;
        asm volatile("mrs %0, fpcr" : "=r"(saved_) : : "memory");
        asm volatile("mrs %0, fpsr" : "=r"(saved_status_) : : "memory");
        asm volatile("msr fpcr, %0" : : "r"(flush_denormals ? flush_to_zero : 0) : "memory");
    }
    ~ScopedFpEnvironment() {
        asm volatile("msr fpcr, %0" : : "r"(saved_) : "memory");
        asm volatile("msr fpsr, %0" : : "r"(saved_status_) : "memory");
    }

private:
    std::uint64_t saved_, saved_status_;
#else
    explicit ScopedFpEnvironment(bool) {}

private:
    ScopedDefaultEnvironment saved_;
#endif
};

/// Calls `body()` in that environment; the library enters it in no other way. The call goes through
/// a pointer that the compiler cannot see through. Compilers assume that arithmetic depends on
/// nothing but its operands: they move it across the instructions that change the environment, but
/// not out of a function that they do not know.
template <typename Body>
void in_fp_environment(bool flush_denormals, const Body &body) {
    auto *call = +[](const Body &inner) { inner(); };
    asm volatile("" : "+r"(call));
    const ScopedFpEnvironment environment(flush_denormals);
    call(body);
}

} // namespace fused_rmsprop
