// Who has an optimizer: one call, or one change made of several, at a time. A claim does not
// survive fork(): the thread that made it is not there in the child.
#pragma once

#include <stdexcept>
#include <string>

#include <fused_rmsprop/threads.hpp>

namespace fused_rmsprop::bindings {

class Ownership {
public:
    /// Throws std::runtime_error if somebody has the optimizer; `why` is then the message, for a
    /// claim that lasts as long as the user wants (and that a forked child is inside, too).
    void acquire(const std::string &why) {
        const int current = fork_generation();
        if (generation_ == current || (generation_ != nobody && !why_.empty()))
            throw std::runtime_error(why_.empty() ? "this optimizer is in the middle of a step, or "
                                                    "of a change, in another thread"
                                                  : why_);
        why_ = why;
        generation_ = current;
    }
    void release() { generation_ = nobody; }

private:
    static constexpr int nobody = -1;

    int generation_ = nobody; ///< of the process that has it
    std::string why_;
};

/// Has an optimizer to the end of the scope.
class Claim {
public:
    explicit Claim(Ownership &ownership, const std::string &why = {}) : ownership_(&ownership) {
        ownership.acquire(why);
    }
    ~Claim() { release(); }
    Claim(const Claim &) = delete;
    Claim &operator=(const Claim &) = delete;

    void release() {
        if (ownership_ != nullptr)
            ownership_->release();
        ownership_ = nullptr;
    }

private:
    Ownership *ownership_;
};

} // namespace fused_rmsprop::bindings
