// Fuzzes the C++ library: steps, norms and sums over tensors, options and executions that are read
// from the input must have the bits of the scalar reference, refuse exactly the invalid, touch no
// byte beside their arrays, and leave the floating-point environment as they found it.

#include "input.hpp"
#include "leaf.hpp"
#include "norm.hpp"

#include <fused_rmsprop/fp_environment.hpp>

#include <cfenv>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

using namespace fused_rmsprop;
using namespace fuzz;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Options read_options(Input &in) {
    Options o;
    o.lr = in.number({0.01, 1.0, 0x1p20, 0x1p21, 0.0, 1e-40}, {1e30, 1e39, -0.01, nan});
    o.alpha = in.number({0.9, 0.99, 0.0, 0.999999, 1 - 0x1p-53}, {1e-30, 1.0, -0.1, infinity});
    o.eps = in.number({1e-8, 0x1p-60, 1.0, 1e-18, 0x1p60}, {1e-40, 1e-46, 1e-310, 0x1p61, 0.0});
    const unsigned flags = in.bits<std::uint16_t>();
    if (flags & 1)
        o.weight_decay = in.number({0.1, 1.0, 1e-40}, {1e30, 1e39, -1.0});
    if (flags & 2)
        o.momentum = in.number({0.9, 0.5, 1e-30}, {1 - 0x1p-53, 1.0, nan});
    if (flags & 4)
        o.ema_decay = in.number({0.99, 0.5, 1e-30}, {1 - 0x1p-53, 1.0, -0.0});
    for (unsigned i = 0; i < std::size(flag_options); ++i)
        o.*flag_options[i].member = flags >> (i + 3) & 1;
    o.nesterov = o.nesterov && (o.momentum > 0 || in.one_in(16));
    return o;
}

GradientTransform read_transform(Input &in) {
    GradientTransform t;
    const unsigned flags = in.byte();
    if (flags & 1)
        t.grad_scale = in.number({0.5, -1.0, 1e-30, 0.0}, {1e30, 1e39, infinity});
    if (flags & 2)
        t.max_grad_value = in.number({1.0, 0.01, 0.0, infinity}, {1e-40, 1e30, -1.0, nan});
    if (flags & 4)
        t.max_grad_norm = in.number({1.0, 0.01, 0.0, infinity}, {1e-300, 1e30, -1.0, nan});
    if (flags & 8)
        t.on_nonfinite = flags & 16 ? OnNonfinite::skip_if_it_spreads : OnNonfinite::skip;
    if (flags & 32)
        t.max_grad_norm_per_array =
            in.number({1.0, 0.01, 0.0, infinity}, {1e-300, 1e30, -1.0, nan});
    return t;
}

Execution read_execution(Input &in, Tuner &tuner) {
    Execution e;
    const unsigned flags = in.byte();
    if (flags % 32 == 7) // rarely: starting teams takes most of the time
        e.threads = in.pick({2, 3, 0, 4, 2, 3, -1, 1025, INT_MIN, INT_MAX});
    e.flush_denormals = !(flags >> 5 & 1);
    e.serial_below_bytes = flags >> 6 & 1 ? 0 : in.byte() * 64u;
    e.tuner = flags >> 7 & 1 ? &tuner : nullptr;
    return e;
}

/// Calls in a random rounding mode; returns whether the call was refused.
template <typename Call>
bool refused(Input &in, const Call &call) {
    bool threw = false;
    const int rounding = in.pick({FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO});
    std::fesetround(rounding);
    std::feclearexcept(FE_ALL_EXCEPT);
    try {
        call();
    } catch (const std::invalid_argument &) {
        threw = true;
    }
    const bool kept =
        std::fegetround() == rounding && (threw || std::fetestexcept(FE_ALL_EXCEPT) == 0);
    std::fesetenv(FE_DFL_ENV);
    require(kept, "the floating-point environment is left as it was");
    return threw;
}

bool same_double(double a, double b) {
    return reference::same_bits<double>(std::span(&a, 1), std::span(&b, 1));
}

/// The case that an input describes.
class Case {
public:
    explicit Case(Input &in) : in_(in) {
        const unsigned count = in.byte() % 5;
        for (unsigned i = 0; i < 2; ++i)
            options_[i] = read_options(in);
        for (unsigned i = 0; i < count; ++i)
            leaves_.push_back(std::make_unique<Leaf>(in, options_[in.byte() % 2]));
    }

    void run() {
        const auto built = built_instruction_sets();
        const InstructionSet set = built[in_.byte() % built.size()];
        if (supported(set))
            set_instruction_set(name(set));
        force_plan(in_.pick({"", "quotient=refined", "quotient=division", "prefetch=on",
                             "quotient=refined,prefetch=on", "quotient=division,prefetch=on"}));
        for (unsigned operations = 1 + in_.byte() % 3; operations > 0; --operations) {
            const GradientTransform transform = read_transform(in_);
            const Execution execution = read_execution(in_, tuner_);
            switch (in_.byte() % 8) {
            case 0:
                norm(transform, execution);
                break;
            case 1:
                sum(execution);
                break;
            default:
                step(transform, execution);
            }
            for (const auto &leaf : leaves_)
                require(leaf->as_expected(), "the bits of the reference, and no byte beside them");
        }
    }

private:
    std::vector<Tensor> tensors() const {
        std::vector<Tensor> tensors;
        for (const auto &leaf : leaves_)
            tensors.push_back(leaf->tensor());
        return tensors;
    }

    void step(const GradientTransform &transform, const Execution &execution) {
        const auto all = tensors();
        bool valid = valid_threads(execution.threads);
        for (const Tensor &t : all)
            valid = valid && can_step(t, transform, execution.flush_denormals);
        StepResult result;
        const bool threw =
            refused(in_, [&] { result = fused_rmsprop::step(all, execution, transform); });
        require(threw == !valid, "a step refuses exactly what is invalid");
        if (threw)
            return;

        const ExpectedNorm expected = expected_norm(all, transform, execution.flush_denormals);
        const bool skips = transform.on_nonfinite == OnNonfinite::skip;
        const bool measured = skips || transform.max_grad_norm;
        require(result.grad_norm.has_value() == measured, "the norm is measured if it is needed");
        require(!measured || same_double(*result.grad_norm, static_cast<double>(expected.norm)),
                "the norm of the reference");
        const bool limited = std::isfinite(transform.max_grad_norm.value_or(infinity));
        const bool spreads = transform.on_nonfinite == OnNonfinite::skip_if_it_spreads && limited;
        if (expected.nonfinite != no_tensor) {
            require(result.skipped == (skips || spreads), "skipped if asked");
            require(!measured || result.nonfinite == expected.nonfinite, "the first of them");
        }
        const auto factors = clip_factors(all, transform, execution, expected.norm);
        in_fp_environment(execution.flush_denormals, [&] {
            if (result.skipped && expected.nonfinite == no_tensor)
                expect_overflow(transform, factors, skips ? result.nonfinite : no_tensor);
            for (std::size_t i = 0; i < all.size() && !result.skipped; ++i)
                leaves_[i]->expect_step(transform, factors[i], skips);
        });
    }

    /// The factor of each gradient.
    std::vector<reference::Wide> clip_factors(std::span<const Tensor> all,
                                              const GradientTransform &transform,
                                              const Execution &execution, reference::Wide norm) {
        const auto factor = [](reference::Wide of, double most) -> reference::Wide {
            const bool within = static_cast<double>(of) <= most || std::isinf(most);
            return within ? 1 : reference::quotient(most, of);
        };
        std::vector<reference::Wide> factors(all.size(), 1);
        const double each = transform.max_grad_norm_per_array.value_or(infinity);
        if (each < infinity) {
            double largest = 0, squares = 0;
            std::vector<reference::Wide> clipped;
            for (std::size_t i = 0; i < all.size(); ++i) {
                const reference::Wide own =
                    expected_norm(all.subspan(i, 1), transform, execution.flush_denormals).norm;
                factors[i] = factor(own, each);
                clipped.push_back(reference::product(own, factors[i]));
                largest = std::max(largest, std::min(static_cast<double>(own), each));
            }
            for (const reference::Wide own : clipped) {
                const auto share =
                    own == 0 ? 0 : static_cast<double>(reference::quotient(own, largest));
                squares = squares + share * share;
            }
            norm = reference::product(largest, std::sqrt(squares));
        }
        if (transform.max_grad_norm)
            for (reference::Wide &own : factors)
                own = reference::product(own, factor(norm, *transform.max_grad_norm));
        return factors;
    }

    /// Requires that the step of this tensor makes a finite number infinite or NaN.
    void expect_overflow(const GradientTransform &transform,
                         std::span<const reference::Wide> factors, std::size_t tensor) {
        require(tensor < leaves_.size(), "a skipped step names a tensor");
        require(leaves_[tensor]->overflows(transform, factors[tensor]), "skipped for an overflow");
    }

    void norm(const GradientTransform &transform, const Execution &execution) {
        const auto all = tensors();
        bool valid = valid_threads(execution.threads);
        for (const Tensor &t : all)
            valid = valid && (t.bytes_to_step() == 0 || (valid_array(t.grad, t.dtype) &&
                                                         valid_transform(transform, t.dtype)));
        GradNorm found;
        const bool threw = refused(in_, [&] { found = grad_norm(all, transform, execution); });
        require(threw == !valid, "grad_norm refuses exactly what is invalid");
        if (threw)
            return;
        const ExpectedNorm expected = expected_norm(all, transform, execution.flush_denormals);
        require(same_double(found.norm, static_cast<double>(expected.norm)) &&
                    found.nonfinite == expected.nonfinite,
                "the norm of the reference");
    }

    /// Adds the gradients to the squares.
    void sum(const Execution &execution) {
        std::vector<Sum> sums;
        bool valid = valid_threads(execution.threads);
        for (const auto &leaf : leaves_) {
            const Tensor t = leaf->tensor();
            sums.push_back({t.dtype, t.size, t.square_avg, t.grad, in_.one_in(4)});
            valid = valid && (t.bytes_to_step() == 0 ||
                              (valid_array(t.square_avg, t.dtype) && valid_array(t.grad, t.dtype)));
        }
        const bool threw = refused(in_, [&] { accumulate(sums, execution); });
        require(threw == !valid, "accumulate refuses exactly what is invalid");
        in_fp_environment(execution.flush_denormals, [&] {
            for (std::size_t i = 0; i < sums.size() && !threw; ++i)
                leaves_[i]->expect_sum(sums[i].empty);
        });
    }

    Input &in_;
    Options options_[2];
    std::vector<std::unique_ptr<Leaf>> leaves_;
    Tuner tuner_;
};

} // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    setenv("KMP_BLOCKTIME", "0", 0); // workers that spin would take the time of the fuzzer
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Input in(std::span(data, size));
    Case(in).run();
    return 0;
}
