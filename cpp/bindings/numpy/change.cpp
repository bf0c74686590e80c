#include "change.hpp"

#include <cstring>

#include <pybind11/stl.h>

namespace fused_rmsprop::bindings {
namespace {

std::size_t bytes_of(const py::object &array) {
    return static_cast<std::size_t>(py::reinterpret_borrow<py::array>(array).nbytes());
}

std::pair<HeldGroup, std::vector<bool>> flagged(const py::object &group, std::vector<bool> flags) {
    auto *const target = group.cast<Group *>();
    if (flags.size() != target->parameters().size())
        throw py::value_error("a group needs one flag per parameter");
    return {HeldGroup{group, target}, std::move(flags)};
}

} // namespace

Change::Change(py::object stepper)
    : stepper_object_(std::move(stepper)), stepper_(stepper_object_.cast<NumpyStepper &>()),
      claim_(stepper_.ownership) {}

void Change::set_options(const py::object &group, const Options &options) {
    options_.emplace_back(HeldGroup{group, group.cast<Group *>()}, options);
}

void Change::configure(const py::object &group, const Options &options,
                       const std::array<py::object, array_count> &state) {
    auto *const target = group.cast<Group *>();
    states_.emplace_back(HeldGroup{group, target}, target->with_state(options, state));
    set_options(group, options);
}

void Change::set_summed(const py::object &group, std::vector<bool> summed) {
    summed_.push_back(flagged(group, std::move(summed)));
}

void Change::set_frozen(const py::object &group, std::vector<bool> frozen) {
    frozen_.push_back(flagged(group, std::move(frozen)));
}

void Change::add(const py::list &groups, bool grouped) {
    groups_ = stepper_.with_groups(groups);
    adds_ = true;
    grouped_ = grouped;
}

void Change::copy(const py::object &to, const py::object &from) {
    const std::string target = "the array to write to", source = "the saved array";
    check_same_kind(from, source, py::reinterpret_borrow<py::array>(to), target);
    // A copy of its own: whatever happens to `from` up to the commit, which may write to it, too.
    const py::array values = zeros_in_order_of(py::reinterpret_borrow<py::array>(to));
    copy_into(values, from);
    copies_.push_back({to, values, data_of(to), bytes_of(to)});
}

void Change::update(const py::dict &dict, const py::dict &entries) {
    for (const auto &[key, value] : entries) {
        if (!PyUnicode_CheckExact(key.ptr()) || !dict.contains(key)) // it runs no code of its own
            throw py::key_error(py::str(key).cast<std::string>());
        entries_.push_back({dict, py::reinterpret_borrow<py::object>(key),
                            py::reinterpret_borrow<py::object>(value), dict[key]});
    }
}

void Change::commit() {
    for (const Copy &copy : copies_)
        if (data_of(copy.to) != copy.data || bytes_of(copy.to) != copy.bytes)
            throw py::value_error("an array was resized while the optimizer was being changed");
    // From here on nothing is allocated and no object is destroyed: `this` keeps the old values.
    for (auto &[group, state] : states_)
        group->exchange(state);
    for (auto &[group, options] : options_)
        group->set_options(options);
    for (auto &[group, summed] : summed_)
        group->summed().swap(summed);
    for (auto &[group, frozen] : frozen_)
        group->exchange_frozen(frozen);
    if (adds_)
        stepper_.exchange(groups_, grouped_, bound_);
    if (settings_.second != nullptr)
        stepper_.take_settings(*settings_.second);
    for (const Copy &copy : copies_)
        std::memcpy(copy.data, data_of(copy.values), copy.bytes);
    for (const Entry &entry : entries_)
        PyDict_SetItem(entry.dict.ptr(), entry.key.ptr(), entry.value.ptr());
    {
        const GilLock lock(stepper_.mutex);
        ++stepper_.changes;
    }
    claim_.release();
}

void register_change(py::module_ &m) {
    py::class_<Change>(m, "Change", py::is_final())
        .def("__enter__", [](py::object self) { return self; })
        .def("__exit__", [](Change &change, const py::args &) { change.release(); })
        .def("set_options", &Change::set_options, py::arg("group"), py::arg("options"))
        .def("configure", &Change::configure, py::arg("group"), py::arg("options"),
             py::arg("state"))
        .def("set_summed", &Change::set_summed, py::arg("group"), py::arg("summed"))
        .def("set_frozen", &Change::set_frozen, py::arg("group"), py::arg("frozen"))
        .def("add", &Change::add, py::arg("groups"), py::arg("grouped"))
        .def("take_settings", &Change::take_settings, py::arg("stepper"))
        .def("copy", &Change::copy, py::arg("to"), py::arg("values"))
        .def("update", &Change::update, py::arg("mapping"), py::arg("entries"))
        .def("commit", &Change::commit);
}

} // namespace fused_rmsprop::bindings
