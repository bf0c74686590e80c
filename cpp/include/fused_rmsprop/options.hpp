// The options of one RMSProp update, and the tables that every other list of them comes from.
#pragma once

#include <cstdint>

namespace fused_rmsprop {

enum class DType : std::uint8_t { float32, float64 };

/// The choices of one RMSProp update; names and defaults are those of torch.optim.RMSprop.
struct Options {
    double lr = 1e-2;             ///< step size
    double alpha = 0.99;          ///< share of the running average that one step keeps
    double eps = 1e-8;            ///< added to the root
    double weight_decay = 0;      ///< L2 penalty, added to the gradient (coupled)
    double momentum = 0;          ///< share of the momentum buffer that one step keeps
    bool centered = false;        ///< divide by the standard deviation of the gradient
    bool nesterov = false;        ///< look ahead along the momentum buffer; needs momentum > 0
    bool maximize = false;        ///< climb instead of descend
    bool eps_inside_sqrt = false; ///< add eps under the root instead
    bool lr_in_momentum = false;  ///< the momentum buffer takes up lr * gradient / root
    bool decoupled_weight_decay = false; ///< shrink the parameter itself by lr * weight_decay
    /// Divide the averages by 1 - alpha^t, the share of them that is not their initial zeros. They
    /// are kept divided, by an alpha that grows from 0: alpha * (1 - alpha^(t-1)) / (1 - alpha^t).
    bool bias_correction = false;
    /// Share that one step keeps of the running average of the parameter; 0: there is none.
    double ema_decay = 0;
};

/// The values that a number may have: all are finite.
enum class Bound : std::uint8_t { non_negative, positive, fraction }; // fraction: >= 0 and < 1

struct NumberOption {
    const char *name;
    double Options::*member;
    Bound bound;
};

struct FlagOption {
    const char *name;
    bool Options::*member;
};

inline constexpr NumberOption number_options[] = {
    {"lr", &Options::lr, Bound::non_negative},
    {"alpha", &Options::alpha, Bound::fraction},
    {"eps", &Options::eps, Bound::positive},
    {"weight_decay", &Options::weight_decay, Bound::non_negative},
    {"momentum", &Options::momentum, Bound::fraction},
    {"ema_decay", &Options::ema_decay, Bound::fraction},
};

inline constexpr FlagOption flag_options[] = {
    {"centered", &Options::centered},
    {"nesterov", &Options::nesterov},
    {"maximize", &Options::maximize},
    {"eps_inside_sqrt", &Options::eps_inside_sqrt},
    {"lr_in_momentum", &Options::lr_in_momentum},
    {"decoupled_weight_decay", &Options::decoupled_weight_decay},
    {"bias_correction", &Options::bias_correction},
};

/// Throws std::invalid_argument, naming the option, unless every option is within its bound and
/// finite in `dtype`, eps does not vanish there, and nesterov has a momentum.
void validate(const Options &options, DType dtype, bool flush_denormals = true);

} // namespace fused_rmsprop
