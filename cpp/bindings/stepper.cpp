#include "stepper.hpp"

#include <pybind11/stl.h>

#include "register.hpp"

namespace fused_rmsprop::bindings {

std::size_t bytes_to_step(std::span<const Tensor> tensors) {
    std::size_t bytes = 0;
    for (const Tensor &tensor : tensors)
        bytes += tensor.bytes_to_step();
    return bytes;
}

void Stepper::set_on_nonfinite(const std::string &name) {
    for (const OnNonfiniteName value : {propagate, skip, raise})
        if (name == on_nonfinite_names[value]) {
            const GilLock lock(mutex);
            on_nonfinite_ = value;
            return;
        }
    throw py::value_error("on_nonfinite has no value '" + name + "'");
}

Execution Stepper::tuned_execution() {
    const GilLock lock(mutex);
    Execution tuned = execution;
    tuned.tuner = &tuner(tuned.threads);
    return tuned;
}

Stepper::Settings Stepper::settings(double grad_scale) const {
    const GilLock lock(mutex);
    Settings now{execution, transform, on_nonfinite_ == raise};
    now.transform.grad_scale = grad_scale;
    now.transform.on_nonfinite =
        on_nonfinite_ == propagate ? OnNonfinite::propagate : OnNonfinite::skip;
    if (on_nonfinite_ == propagate && transform.max_grad_norm && !warned_of_spreading) {
        now.transform.on_nonfinite = OnNonfinite::skip_if_it_spreads;
        now.refuses_nonfinite = true;
    }
    return now;
}

Stepper::Outcome Stepper::run_step(std::span<const Tensor> tensors, double grad_scale,
                                   std::size_t release_gil_from_bytes,
                                   std::optional<std::int64_t> made, Peers *peers) {
    Settings tuned = settings(grad_scale);
    tuned.execution.tuner = &tuner(tuned.execution.threads);
    if (!any_sampler(&Sampler::is_due)) {
        const Outcome outcome = run_step(tensors, tuned, release_gil_from_bytes, peers);
        if (outcome != Outcome::refused)
            pass_samplers(made);
        return outcome;
    }
    SampledStep sampled(held_samplers());
    sampled.before(tensors, known_by_, frozen_);
    const Outcome outcome = run_step(tensors, tuned, release_gil_from_bytes, peers);
    if (outcome != Outcome::refused) {
        sampled.after(tensors, known_by_, grad_scale);
        sampled.end(tuned.transform, transform_and_norm().second, made);
    }
    return outcome;
}

Stepper::Outcome Stepper::run_step(std::span<const Tensor> tensors, const Settings &settings,
                                   std::size_t release_gil_from_bytes, Peers *peers) {
    StepResult result;
    without_gil(bytes_to_step(tensors) >= release_gil_from_bytes,
                [&] { result = step(tensors, settings.execution, settings.transform, peers); });
    return record(result, settings);
}

Stepper::Outcome Stepper::record(const StepResult &result, const Settings &settings) {
    if (result.skipped && settings.refuses_nonfinite) {
        nonfinite_ = result.nonfinite;
        return Outcome::refused;
    }
    const GilLock lock(mutex);
    grad_norm = result.grad_norm;
    if (result.skipped) {
        ++skipped_steps;
        return Outcome::skipped;
    }
    threads_used = result.threads;
    return Outcome::stepped;
}

py::list Stepper::samplers() const {
    py::list objects;
    for (const HeldSampler &sampler : held_samplers())
        objects.append(sampler.object);
    return objects;
}

void Stepper::add_sampler(const py::object &sampler) {
    HeldSampler held{sampler, sampler.cast<Sampler *>()};
    const GilLock lock(mutex);
    samplers_.push_back(std::move(held));
}

void Stepper::remove_sampler(const py::object &sampler) {
    const GilLock lock(mutex); // the caller holds the sampler: its end runs no code here
    std::erase_if(samplers_, [&](const HeldSampler &held) { return held.object.is(sampler); });
}

void Stepper::notify() const {
    if (!any_sampler(&Sampler::is_full))
        return;
    for (const HeldSampler &sampler : held_samplers())
        sampler->notify();
}

void Stepper::prepare_samplers() const {
    if (!any_sampler(&Sampler::needs_preparation))
        return;
    for (const HeldSampler &sampler : held_samplers())
        sampler->prepare();
}

/// Counts a step that none of them samples.
void Stepper::pass_samplers(std::optional<std::int64_t> made) const noexcept {
    const GilLock lock(mutex);
    for (const HeldSampler &sampler : samplers_)
        if (!sampler->is_shown_elsewhere())
            sampler->pass(made);
}

void Stepper::show_samplers(Visitor &visit) const {
    for (const HeldSampler &sampler : samplers_)
        visit(sampler.object);
}

void Stepper::clear_samplers() {
    std::vector<HeldSampler> held; // they end when the lock is gone: that may run code
    const GilLock lock(mutex);
    samplers_.swap(held);
}

void register_stepper(py::module_ &m) {
    m.attr("chunk_size") = chunk_size;
    py::class_<Claim>(m, "Claim", py::is_final())
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](Claim &claim, const py::args &) { claim.release(); });

    py::class_<Stepper> stepper(m, "Stepper");
    stepper
        .def(
            "claim", [](Stepper &self) { return std::make_unique<Claim>(self.ownership); },
            py::keep_alive<0, 1>())
        .def(
            "reading",
            [](Stepper &self) { return std::make_unique<Claim>(self.ownership, Claim::Reading{}); },
            py::keep_alive<0, 1>())
        .def_property_readonly("samplers", &Stepper::samplers)
        .def("add_sampler", &Stepper::add_sampler, py::arg("sampler"))
        .def("remove_sampler", &Stepper::remove_sampler, py::arg("sampler"))
        .def("prepare_samplers", &Stepper::prepare_samplers)
        .def("notify", &Stepper::notify)
        .def_property("on_nonfinite", &Stepper::on_nonfinite, &Stepper::set_on_nonfinite)
        .def_property(
            "threads",
            [](const Stepper &s) {
                const GilLock lock(s.mutex);
                return s.execution.threads == 0 ? std::nullopt : std::optional(s.execution.threads);
            },
            [](Stepper &s, std::optional<int> threads) {
                const GilLock lock(s.mutex);
                s.execution.threads = threads.value_or(0);
            });
    const auto locked = [&](const char *name, auto get, auto set) {
        stepper.def_property(
            name,
            [=](const Stepper &s) {
                const GilLock lock(s.mutex);
                return get(s);
            },
            set);
    };
    const auto add_result = [&](const char *name, auto member) {
        locked(name, [=](const Stepper &s) { return s.*member; }, nullptr);
    };
    const auto add_setting = [&](const char *name, auto part, auto member) {
        using Value = std::decay_t<decltype(std::declval<Stepper &>().*part.*member)>;
        locked(
            name, [=](const Stepper &s) { return s.*part.*member; },
            [=](Stepper &s, const Value &value) {
                const GilLock lock(s.mutex);
                s.*part.*member = value;
            });
    };
    add_result("grad_norm", &Stepper::grad_norm);
    add_result("threads_used", &Stepper::threads_used);
    locked(
        "skipped_steps", [](const Stepper &s) { return s.skipped_steps; },
        [](Stepper &s, std::int64_t steps) {
            const GilLock lock(s.mutex);
            s.skipped_steps = steps;
        });
    locked(
        "warned_of_spreading", [](const Stepper &s) { return s.warned_of_spreading; },
        [](Stepper &s, bool warned) {
            const GilLock lock(s.mutex);
            s.warned_of_spreading = warned;
        });
    add_setting("flush_denormals", &Stepper::execution, &Execution::flush_denormals);
    add_setting("most_threads", &Stepper::execution, &Execution::most_threads);
    add_setting("serial_below_bytes", &Stepper::execution, &Execution::serial_below_bytes);
    add_setting("max_grad_norm", &Stepper::transform, &GradientTransform::max_grad_norm);
    add_setting("max_grad_norm_per_array", &Stepper::transform,
                &GradientTransform::max_grad_norm_per_array);
    add_setting("max_grad_value", &Stepper::transform, &GradientTransform::max_grad_value);
}

} // namespace fused_rmsprop::bindings
