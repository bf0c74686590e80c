// Claims of an optimizer: one call, or one change of several calls, has it at a time. A claim for a
// change is void in a forked child, where the thread that made it may not exist.
#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include <fused_rmsprop/threads.hpp>

namespace fused_rmsprop::bindings {

/// `averages` and `leafwise` are the claims of use_ema() and leafwise(). They stay valid in a
/// forked child, which is inside the `with` block too.
enum class Reason : std::uint8_t { change, averages, leafwise };

class Ownership {
public:
    /// The owner in one word: the low bit is set, then the reason, the process and the thread.
    using Token = std::uint64_t;
    static constexpr Token nobody = 0;

    /// Throws std::runtime_error if the optimizer is claimed.
    Token acquire(Reason reason) {
        const Token mine = token(reason);
        Token owner = owner_.load();
        do {
            if (owner != nobody && (same_process(owner, mine) || is_for_block(owner)))
                throw std::runtime_error(refusal(owner, mine));
        } while (!owner_.compare_exchange_weak(owner, mine));
        return mine;
    }

    void release(Token claim) noexcept {
        owner_.compare_exchange_strong(claim, nobody); // before a later look at another flag
    }

    /// Whether this thread is in the middle of a change. As long as Python code runs, the change
    /// has written nothing.
    bool is_changed_here() const noexcept {
        return owner_.load(std::memory_order_relaxed) == token(Reason::change);
    }

private:
    static constexpr unsigned reason_bit = 1, process_bit = 3, thread_bit = 32;

    static Token token(Reason reason) noexcept {
        static std::atomic<std::uint32_t> threads{0};
        thread_local const Token thread = ++threads;
        const Token process = static_cast<Token>(fork_generation()) & 0x1FFFFFFF;
        return 1 | static_cast<Token>(reason) << reason_bit | process << process_bit |
               thread << thread_bit;
    }
    static Reason reason_of(Token owner) noexcept {
        return static_cast<Reason>(owner >> reason_bit & 3);
    }
    static bool is_for_block(Token owner) noexcept { return reason_of(owner) != Reason::change; }
    static bool same_thread(Token a, Token b) noexcept {
        return a >> thread_bit == b >> thread_bit;
    }
    static bool same_process(Token a, Token b) noexcept {
        return static_cast<std::uint32_t>(a) >> process_bit ==
               static_cast<std::uint32_t>(b) >> process_bit;
    }
    static const char *refusal(Token owner, Token mine) noexcept {
        if (reason_of(owner) == Reason::leafwise)
            return "this optimizer is inside leafwise(), in the middle of the updates of one step: "
                   "leave the with block first";
        if (reason_of(owner) == Reason::averages)
            return "this optimizer is inside use_ema(), where the parameters are their averages: "
                   "leave the with block first";
        return same_thread(owner, mine)
                   ? "this optimizer is in the middle of a step, or of a change, which runs the "
                     "code that makes this call: a hook, a signal handler or a container's method"
                   : "this optimizer is in the middle of a step, or of a change, in another "
                     "thread: "
                     "call it from one thread at a time, say under a threading.Lock()";
    }

    std::atomic<Token> owner_{nobody};
};

/// Claims an optimizer until the end of the scope.
class Claim {
public:
    explicit Claim(Ownership &ownership, Reason reason = Reason::change)
        : ownership_(&ownership), token_(ownership.acquire(reason)) {}
    ~Claim() { release(); }
    Claim(const Claim &) = delete;
    Claim &operator=(const Claim &) = delete;

    /// A claim for reading, which the thread that is changing the optimizer gets too.
    struct Reading {};
    Claim(Ownership &ownership, Reading)
        : ownership_(&ownership),
          token_(ownership.is_changed_here() ? Ownership::nobody
                                             : ownership.acquire(Reason::change)) {}

    void release() noexcept {
        if (token_ != Ownership::nobody)
            ownership_->release(token_);
        token_ = Ownership::nobody;
    }

private:
    Ownership *ownership_;
    Ownership::Token token_;
};

} // namespace fused_rmsprop::bindings
