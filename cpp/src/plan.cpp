// Chooses the number of threads of a piece of work.

#include "plan.hpp"

namespace fused_rmsprop {
namespace {

bool is_serial(std::size_t bytes, const Execution &execution) {
    return bytes < execution.serial_below_bytes || fork_generation() > 0;
}

} // namespace

int threads_for_step(std::size_t bytes, const Execution &execution) {
    if (is_serial(bytes, execution))
        return 1;
    const int team = execution.threads == 0 ? available_threads() : execution.threads;
    return execution.tuner == nullptr ? team : execution.tuner->choose(team);
}

int threads_beside_steps(std::size_t bytes, const Execution &execution) {
    if (execution.tuner == nullptr)
        return threads_for_step(bytes, execution);
    return is_serial(bytes, execution) ? 1 : execution.tuner->chosen();
}

} // namespace fused_rmsprop
