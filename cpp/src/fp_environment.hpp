// The floating-point control state of a running kernel, put back as it was afterwards.
// Set in full, so that results depend neither on what the caller has set nor on which thread runs
// a slice: OpenMP's workers do not inherit the caller's state.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace fused_rmsprop {

/// For its lifetime: round to nearest, trap nothing, and treat subnormals as zero if asked to
/// (except on processors other than x86-64 and aarch64, which then keep them).
class ScopedFpEnvironment {
public:
    explicit ScopedFpEnvironment([[maybe_unused]] bool flush_denormals) {
#if defined(__x86_64__)
        constexpr unsigned all_masked = 0x1f80, flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
        constexpr unsigned status = 0x003f; // the exceptions that have occurred
        const unsigned wanted =
            all_masked | (flush_denormals ? flush_to_zero | denormals_are_zero : 0);
        saved_ = _mm_getcsr();
        if (((saved_ ^ wanted) & ~status) != 0) // writing takes far longer than reading
            _mm_setcsr(wanted);
#elif defined(__aarch64__)
        constexpr std::uint64_t flush_to_zero = std::uint64_t{1} << 24;
        asm volatile("mrs %0, fpcr" : "=r"(saved_) : : "memory");
        asm volatile("mrs %0, fpsr" : "=r"(saved_status_) : : "memory");
        asm volatile("msr fpcr, %0" : : "r"(flush_denormals ? flush_to_zero : 0) : "memory");
#else
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
#endif
    }

    ~ScopedFpEnvironment() {
#if defined(__x86_64__)
        if (_mm_getcsr() != saved_)
            _mm_setcsr(saved_);
#elif defined(__aarch64__)
        asm volatile("msr fpcr, %0" : : "r"(saved_) : "memory");
        asm volatile("msr fpsr, %0" : : "r"(saved_status_) : "memory");
#else
        std::fesetenv(&saved_);
#endif
    }

    ScopedFpEnvironment(const ScopedFpEnvironment &) = delete;
    ScopedFpEnvironment &operator=(const ScopedFpEnvironment &) = delete;

private:
#if defined(__x86_64__)
    unsigned saved_;
#elif defined(__aarch64__)
    std::uint64_t saved_, saved_status_;
#else
    std::fenv_t saved_;
#endif
};

} // namespace fused_rmsprop
