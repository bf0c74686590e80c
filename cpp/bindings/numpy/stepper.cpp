#include "stepper.hpp"

#include <utility>

#include <pybind11/stl.h>

#include <fused_rmsprop/fp_environment.hpp>

#include "../register.hpp"
#include "averages.hpp"
#include "change.hpp"
#include "foreign.hpp"
#include "leafwise.hpp"
#include "sharded.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// All memory that a step of these groups writes to.
WrittenMemory written_by(const std::vector<HeldGroup> &groups) {
    std::vector<Extent> extents;
    for (const HeldGroup &group : groups) {
        for (const Parameter &p : group->parameters()) {
            extents.push_back(p.extent());
            for (std::size_t k = 0; k < array_count; ++k)
                if (p.state[k])
                    extents.push_back(extent_of(p.state[k], p.state_what[k]));
        }
    }
    return written_memory(std::move(extents));
}

/// Lets go of the gradients at the end of the scope.
struct Forget {
    std::vector<py::object> &gradients;
    ~Forget() { forget(gradients); }
};

} // namespace

std::string NumpyStepper::grad_root(std::size_t group) const {
    return grouped_ ? "grads[" + std::to_string(group) + "]" : "grads";
}

std::vector<HeldGroup> NumpyStepper::with_groups(const py::list &added) const {
    auto all = groups_;
    for (const py::handle group : added)
        all.push_back({py::reinterpret_borrow<py::object>(group), group.cast<Group *>()});
    written_by(all); // throws if arrays share memory
    return all;
}

void NumpyStepper::exchange(std::vector<HeldGroup> &groups, bool grouped,
                            py::object &bound) noexcept {
    groups_.swap(groups);
    grouped_ = grouped;
    layouts_.clear(); // stale
    grad_holders_.forget();
    const GilLock lock(mutex);
    std::swap(bound_, bound);
}

bool NumpyStepper::set_options(Group &group, const Options &options, std::int64_t since) {
    const Claim claim(ownership);
    if (changes != since)
        return false;
    group.validate(options, execution.flush_denormals);
    group.set_options(options);
    return true;
}

/// Checks the containers of the parameters, and derives anew what a change has made stale.
void NumpyStepper::refresh() {
    for (const HeldGroup &group : groups_)
        group->check_containers();
    bool fresh = layouts_.size() == groups_.size();
    for (std::size_t i = 0; fresh && i < groups_.size(); ++i)
        fresh = layouts_[i] == groups_[i]->layout();
    if (fresh)
        return;
    layouts_.clear();
    written_ = written_by(groups_);
    slots_.clear();
    tensors_.clear();
    frozen_.clear();
    leaves_.reset();
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        Group &group = *groups_[g].group;
        const std::vector<bool> frozen = group.frozen();
        for (std::size_t i = 0; i < group.parameters().size(); ++i) {
            const Parameter &p = group.parameters()[i];
            slots_.push_back({&group, i, frozen[i], grad_root(g) + p.path});
            Tensor tensor;
            tensor.dtype = p.dtype;
            tensor.size = p.count;
            tensor.param = p.part_of(p.data);
            for (std::size_t k = 0; k < state_kind_count; ++k)
                tensor.*state_kinds[k].array = p.state_data(k);
            tensor.options = &group.options();
            tensors_.push_back(tensor);
            frozen_.push_back(frozen[i]);
        }
        layouts_.push_back(group.layout());
    }
}

void NumpyStepper::bind(const py::object &grads) {
    const Claim claim(ownership);
    const Forget forget{given_};
    if (!grads.is_none())
        read(grads, true);
    py::object bound = grads;
    grad_holders_.forget();
    const GilLock lock(mutex);
    std::swap(bound_, bound); // the old ones end when the lock is gone: that may run code
}

py::object NumpyStepper::step(const py::object &grads, double grad_scale, std::int64_t after) {
    const Claim claim(ownership);
    if (after >= 0 && after != step_count)
        throw std::runtime_error("another step of this optimizer was made while this one asked its "
                                 "functions of the step; nothing has changed");
    const Forget forget{given_};
    if (accumulated > 0) {
        refuse_beside_sums(grads);
        read_sums();
        if (look_for_lost(false))
            read_sums(); // the warning may have run code
        double of_sum = 0;
        in_fp_environment(false, [&] { of_sum = grad_scale / static_cast<double>(accumulated); });
        return run(of_sum);
    }
    read(grads);
    if (look_for_lost(grads.is_none()))
        read(grads); // the warning may have run code
    return run(grad_scale);
}

/// Throws if a step on the mean of accumulated gradients is given others.
void NumpyStepper::refuse_beside_sums(const py::object &grads) {
    if (!grads.is_none())
        throw py::value_error("gradients have been accumulated: step() takes their mean and no "
                              "others; accumulate(grads) adds these, discard_accumulated() "
                              "drops those");
}

void NumpyStepper::accumulate(const py::object &grads) {
    const Claim claim(ownership);
    const Forget forget{given_};
    read(grads);
    sums_.clear();
    for (std::size_t i = 0; i < slots_.size(); ++i)
        sums_.push_back({.dtype = tensors_[i].dtype,
                         .size = tensors_[i].size,
                         .sum = slots_[i].parameter().state_data(grad_sum),
                         .term = tensors_[i].grad,
                         .empty = !slots_[i].group->summed()[slots_[i].index]});
    const Execution how = tuned_execution();
    without_gil(bytes_to_step(tensors_) >= release_gil_from_bytes,
                [&] { fused_rmsprop::accumulate(sums_, how); });
    for (std::size_t i = 0; i < slots_.size(); ++i)
        if (tensors_[i].grad != nullptr)
            slots_[i].group->summed()[slots_[i].index] = true;
    const GilLock lock(mutex);
    ++accumulated;
}

void NumpyStepper::discard_accumulated() {
    const Claim claim(ownership);
    forget_sums();
}

void NumpyStepper::forget_sums() {
    {
        const GilLock lock(mutex);
        accumulated = 0;
    }
    for (const HeldGroup &group : groups_)
        group->summed().assign(group->parameters().size(), false);
}

/// Warns once if other code could reach an array before, and no longer can: the user has most
/// likely put a new array in its place, in a variable. Returns whether it has warned.
bool NumpyStepper::look_for_lost(bool reads_bound) {
    if (!warns_of_lost_ || !Holders::looks_at(step_count))
        return false;
    std::vector<std::string> params, grads;
    for (const HeldGroup &group : groups_)
        group->find_lost(params);
    if (reads_bound) {
        const auto found = unreachable(bound_, 1, 2); // their container and given_ refer to them
        for (std::size_t i = 0; i < slots_.size(); ++i)
            if (given_[i] && grad_holders_.lost(i, given_[i].ptr(), found))
                grads.push_back(slots_[i].grad_what);
    }
    if (params.empty() && grads.empty())
        return false;
    warn_of_lost(params, grads);
    warns_of_lost_ = false;
    return true;
}

/// None, or, if the step was refused, the name and the array of a gradient that is not finite.
py::object NumpyStepper::run(double grad_scale) {
    for (std::size_t i = 0; i < slots_.size(); ++i)
        tensors_[i].step = slots_[i].group->step(slots_[i].index);
    prepare_samplers();
    const Outcome outcome = run_step(tensors_, grad_scale, release_gil_from_bytes, counted() + 1);
    if (outcome == Outcome::refused) {
        const Slot &slot = slots_[nonfinite()];
        if (accumulated > 0)
            return py::make_tuple("the accumulated gradient of " + slot.parameter().what,
                                  slot.parameter().state[grad_sum]);
        return py::make_tuple(slot.grad_what, given_[nonfinite()]);
    }
    if (accumulated > 0)
        forget_sums();
    if (outcome == Outcome::stepped) {
        {
            const GilLock lock(mutex);
            ++step_count;
        }
        for (std::size_t i = 0; i < slots_.size(); ++i)
            if (tensors_[i].grad != nullptr)
                slots_[i].group->count_step(slots_[i].index);
    }
    return py::none();
}

void NumpyStepper::traverse(Visitor &visit) const {
    for (const HeldGroup &group : groups_)
        visit(group.object);
    visit(bound_);
    show_samplers(visit);
    visit.each(given_);
    for (const Slot &slot : slots_)
        visit(slot.ordered_grad);
    if (leaves_)
        visit(leaves_->slots);
}

void NumpyStepper::clear() {
    // Moved out first: destroying an object may run code, which must find nothing here.
    const auto groups = std::exchange(groups_, {});
    const auto slots = std::exchange(slots_, {});
    const auto leaves = std::exchange(leaves_, {});
    py::object bound = py::none();
    {
        const GilLock lock(mutex);
        std::swap(bound_, bound);
    }
    const auto given = std::exchange(given_, {});
    clear_samplers();
    tensors_.clear();
    layouts_.clear();
}

void register_numpy(py::module_ &m) {
    py::class_<Group>(m, "Group", py::is_final(), collected<Group>())
        .def(py::init<const py::object &, const std::string &, const py::str &, bool>(),
             py::arg("params"), py::arg("root"), py::arg("name"), py::arg("from_pickle") = false)
        .def_property_readonly("names", [](const Group &g) { return g.each(&Parameter::name); })
        .def_property_readonly("arrays", [](const Group &g) { return g.each(&Parameter::array); })
        .def_property_readonly("parts", &Group::parts)
        .def("take_parts", &Group::take_parts, py::arg("first"), py::arg("count"))
        .def_property_readonly("dtypes", &Group::dtypes)
        .def_property_readonly("steps", &Group::steps)
        .def_property_readonly("summed", [](const Group &g) { return g.summed(); })
        .def_property_readonly("frozen", &Group::frozen)
        .def("check_unchanged", &Group::check_unchanged)
        .def("validate", &Group::validate, py::arg("options"), py::arg("flush_denormals"));

    py::class_<NumpyStepper, Stepper> stepper(m, "NumpyStepper", py::is_final(),
                                              collected<NumpyStepper>());
    stepper.def(py::init<>())
        .def("set_options", &NumpyStepper::set_options, py::arg("group"), py::arg("options"),
             py::arg("since"))
        .def("bind", &NumpyStepper::bind, py::arg("grads"))
        .def_property_readonly("bound", &NumpyStepper::bound)
        .def(
            "step",
            [](NumpyStepper &self, const py::object &grads, double grad_scale, std::int64_t after) {
                py::object nonfinite = self.step(grads, grad_scale, after);
                self.notify();
                return nonfinite;
            },
            py::arg("grads") = py::none(), py::arg("grad_scale") = 1.0, py::arg("after") = -1)
        .def("accumulate", &NumpyStepper::accumulate, py::arg("grads") = py::none())
        .def("discard_accumulated", &NumpyStepper::discard_accumulated)
        .def("read_here", &NumpyStepper::read_here)
        .def("sharded",
             [](py::object self) { return std::make_unique<ShardedStep>(std::move(self)); })
        .def("change", [](py::object self) { return std::make_unique<Change>(std::move(self)); })
        .def("averages",
             [](py::object self) { return std::make_unique<Averages>(std::move(self)); })
        .def(
            "leafwise",
            [](py::object self, double grad_scale, std::int64_t after, py::object unknown,
               py::object nonfinite) {
                return std::make_unique<Leafwise>(std::move(self), grad_scale, after,
                                                  std::move(unknown), std::move(nonfinite));
            },
            py::arg("grad_scale"), py::arg("after"), py::arg("unknown"), py::arg("nonfinite"));

    const auto add_counter = [&](const char *name, std::int64_t NumpyStepper::*counter) {
        stepper.def_property(
            name,
            [=](const NumpyStepper &s) {
                const GilLock lock(s.mutex);
                return s.*counter;
            },
            [=](NumpyStepper &s, std::int64_t value) {
                const GilLock lock(s.mutex);
                s.*counter = value;
            });
    };
    add_counter("accumulated", &NumpyStepper::accumulated);
    add_counter("step_count", &NumpyStepper::step_count);
    add_counter("changes", &NumpyStepper::changes);

    m.def("is_sequence", [](py::handle nest) { return container_of(nest) == Container::sequence; });
    m.def("zeros_in_order_of", &zeros_in_order_of, py::arg("param"));
    register_change(m);
    register_averages(m);
    register_leafwise(m);
    register_sharded(m);
}

} // namespace fused_rmsprop::bindings
