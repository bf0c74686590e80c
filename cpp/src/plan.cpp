// Chooses the plan of a piece of work, and keeps what is forced.

#include "plan.hpp"

#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fused_rmsprop {
namespace {

enum class Force : std::int8_t { neither, off, on };

/// One word, so that threads may read it while another sets it.
struct alignas(4) Forced {
    std::int16_t threads = 0; ///< 0: not forced
    Force refined_quotient = Force::neither, prefetch = Force::neither;

    bool operator==(const Forced &) const = default;
};
static_assert(std::atomic<Forced>::is_always_lock_free);

/// Sets the part that `item`, say "prefetch=on", names; false if it names none, or one that is set.
bool set(Forced &forced, std::string_view item) {
    const std::size_t equals = std::min(item.find('='), item.size());
    const std::string_view key = item.substr(0, equals), value = item.substr(equals);
    const auto choose = [&](Force &part, std::string_view off, std::string_view on) {
        const bool good = part == Force::neither && (value == on || value == off);
        part = value == on ? Force::on : Force::off;
        return good;
    };
    if (key == "quotient")
        return choose(forced.refined_quotient, "=division", "=refined");
    if (key == "prefetch")
        return choose(forced.prefetch, "=off", "=on");
    if (key != "threads" || forced.threads != 0 || value.empty())
        return false;
    const char *const end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data() + 1, end, forced.threads);
    return stop == end && error == std::errc{} && forced.threads >= 1 &&
           forced.threads <= most_threads;
}

Forced parse(std::string_view plan, std::string_view source) {
    Forced forced;
    for (std::size_t begin = 0; begin <= plan.size() && !plan.empty();) {
        const std::size_t end = std::min(plan.find(',', begin), plan.size());
        const std::string_view item = plan.substr(begin, end - begin);
        if (!set(forced, item))
            throw std::invalid_argument(
                std::string(source) + ": '" + std::string(plan) + "' has a part '" +
                std::string(item) + "'; valid, each once: threads=1 to " +
                std::to_string(most_threads) +
                ", quotient=refined or division, prefetch=on or off, with commas between");
        begin = end + 1;
    }
    return forced;
}

std::atomic<Forced> &forced() {
    static std::atomic<Forced> plan{[] {
        const char *const wanted = std::getenv("FUSED_RMSPROP_PLAN");
        return parse(wanted == nullptr ? "" : wanted, "FUSED_RMSPROP_PLAN");
    }()};
    return plan;
}

bool refined_is_faster(DType dtype) {
    const Calibration measured = calibration(dtype);
    return measured.refined < measured.division;
}

int available_threads_for(const Execution &execution) {
    const int available = available_threads();
    return execution.most_threads > 0 ? std::min(available, execution.most_threads) : available;
}

/// The number of threads for work on `bytes`; 0 if nobody wants a certain number.
int wanted_threads(std::size_t bytes, const Execution &execution) {
    if (bytes < execution.serial_below_bytes || fork_generation() > 0)
        return 1;
    return execution.threads != 0 ? execution.threads : forced_threads();
}

} // namespace

void force_plan(std::string_view plan) { forced().store(parse(plan, "force_plan")); }

std::string forced_plan() {
    const Forced force = forced();
    std::string plan;
    const auto add = [&](const std::string &item) { plan += (plan.empty() ? "" : ",") + item; };
    if (force.threads != 0)
        add("threads=" + std::to_string(force.threads));
    if (force.refined_quotient != Force::neither)
        add(force.refined_quotient == Force::on ? "quotient=refined" : "quotient=division");
    if (force.prefetch != Force::neither)
        add(force.prefetch == Force::on ? "prefetch=on" : "prefetch=off");
    return plan;
}

int forced_threads() { return forced().load(std::memory_order_relaxed).threads; }

Plan plan_of_step(std::size_t bytes, std::optional<DType> refinable, const Execution &execution) {
    const Forced force = forced().load(std::memory_order_relaxed);
    const auto unless_forced = [](Force part, bool otherwise) {
        return part == Force::neither ? otherwise : part == Force::on;
    };
    Plan first{.threads = wanted_threads(bytes, execution)};
    first.refined_quotient =
        unless_forced(force.refined_quotient,
                      refinable && bytes >= calibrated_from_bytes && refined_is_faster(*refinable));
    first.prefetch = unless_forced(force.prefetch, false);
    Plan other = first;
    if (first.threads == 0) {
        first.threads = 1;
        other.threads = available_threads_for(execution);
    }
    if (execution.tuner == nullptr)
        return {other.threads, first.refined_quotient, first.prefetch};
    if (bytes > in_cache_up_to_bytes) {
        if (refinable && has_refined_quotient())
            other.refined_quotient = unless_forced(force.refined_quotient, !first.refined_quotient);
        other.prefetch = unless_forced(force.prefetch, !first.prefetch);
    }
    return first == other ? first : execution.tuner->choose(first, other);
}

int threads_beside_steps(std::size_t bytes, const Execution &execution) {
    const int wanted = wanted_threads(bytes, execution);
    if (wanted != 0)
        return wanted;
    const int available = available_threads_for(execution);
    return execution.tuner == nullptr ? available
                                      : std::min(available, execution.tuner->chosen().threads);
}

} // namespace fused_rmsprop
