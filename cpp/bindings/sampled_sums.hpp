// The sums over sampled elements that a monitor's statistics are made of.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>

namespace fused_rmsprop::bindings {

/// The sums over the sampled elements of a leaf, in the order of statistics.py. Without `next`
/// there was no second update.
inline std::array<double, 11> sums_of(const double *param, const double *grad, const double *update,
                                      const double *next, double limit, std::size_t count) {
    double params = 0, updates = 0, squares = 0, following = 0, products = 0, limited = 0;
    std::int64_t finite = 0, moving = 0, lost = 0, compared = 0, reversals = 0;
    for (std::size_t i = 0; i < count; ++i) {
        params += param[i] * param[i];
        updates += update[i] * update[i];
        if (next != nullptr) {
            following += next[i] * next[i];
            const double product = update[i] * next[i];
            products += product;
            compared += product < 0 || product > 0 ? 1 : 0; // NaN compares with nothing
            reversals += product < 0 ? 1 : 0;
        }
        const bool is_finite = std::isfinite(grad[i]);
        const bool moves = is_finite && grad[i] != 0;
        const double square = is_finite ? grad[i] * grad[i] : 0;
        squares += square;
        limited += square > limit * limit ? limit * limit : square; // NaN limits nothing
        finite += is_finite ? 1 : 0;
        moving += moves ? 1 : 0;
        lost += moves && update[i] == 0 ? 1 : 0;
    }
    const auto number = [](std::int64_t n) { return static_cast<double>(n); };
    return {params,       updates,          squares,          limited,
            following,    products,         number(finite),   number(moving),
            number(lost), number(compared), number(reversals)};
}
inline constexpr std::size_t sum_count =
    std::tuple_size_v<decltype(sums_of(nullptr, nullptr, nullptr, nullptr, 0, 0))>;

} // namespace fused_rmsprop::bindings
