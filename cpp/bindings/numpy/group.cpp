#include "group.hpp"

#include <utility>

namespace fused_rmsprop::bindings {

void Parameter::check() const {
    if (!array.writeable() && came_read_only)
        throw py::value_error(what + " is read-only: it was unpickled into memory that cannot be "
                                     "written to, such as a memory map or a shared buffer; make "
                                     "writable copies that stay linked: "
                                     "model, opt = copy.deepcopy((model, opt))");
    if (!array.writeable())
        throw py::value_error(what + " has become read-only, so it cannot be updated in place; "
                                     "make it writable again: array.flags.writeable = True");
    check_facts();
}

void Parameter::check_facts() const {
    const auto *now = py::detail::array_proxy(array.ptr());
    if (now->data != data || now->descr != descr.ptr() || !layout.matches(strided(array)))
        throw py::value_error(what + " has been resized, reshaped or given another dtype since "
                                     "the optimizer was made; make a new optimizer for it");
}

py::array Parameter::part() const {
    if (!is_cut)
        return array;
    const auto item = static_cast<py::ssize_t>(item_size(dtype));
    return py::array(array.dtype(), std::vector{static_cast<py::ssize_t>(count)}, std::vector{item},
                     part_of(data), array);
}

Group::Group(const py::object &nest, const std::string &root, const py::str &name, bool from_pickle)
    : nest_(nest), root_(root) {
    std::vector<Tree::Leaf> leaves;
    tree_ = Tree(nest, name, leaves);
    steps_ = zero_counters(leaves.size());
    counters_ = steps_.mutable_data();
    summed_.resize(leaves.size());
    frozen_.resize(leaves.size());
    parameters_.reserve(leaves.size());
    for (const Tree::Leaf &leaf : leaves) {
        const std::string what = root + leaf.path;
        py::array array = updatable_array(leaf.value, what, from_pickle);
        parameters_.push_back({.what = what,
                               .path = leaf.path,
                               .name = leaf.name,
                               .array = array,
                               .dtype = dtype_of(array),
                               .size = static_cast<std::size_t>(array.size()),
                               .count = static_cast<std::size_t>(array.size()),
                               .data = data_of(array),
                               .descr = array.dtype(),
                               .layout = Layout(strided(array)),
                               .came_read_only = !array.writeable()});
        given_.push_back(leaf.value);
    }
    leaves.clear();
    if (from_pickle)
        return; // what is being unpickled, or copied, holds all its arrays until it is complete
    // References from frames to the root cannot be told from those that stay.
    if (std::vector<std::string> none; !parameters_.empty() && !nest_.is(parameters_[0].array))
        find_lost(none, PY_SSIZE_T_MAX, held_without_snapshot);
}

void Group::take_parts(const std::vector<std::size_t> &first,
                       const std::vector<std::size_t> &count) {
    if (first.size() != parameters_.size() || count.size() != parameters_.size())
        throw py::value_error("a part needs one beginning and one size per parameter");
    for (std::size_t i = 0; i < parameters_.size(); ++i)
        if (first[i] > parameters_[i].size || count[i] > parameters_[i].size - first[i])
            throw py::value_error("a part goes beyond " + parameters_[i].what);
    const GilLock lock(mutex_);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        parameters_[i].first = first[i];
        parameters_[i].count = count[i];
        parameters_[i].is_cut = true;
    }
    ++layout_;
}

std::vector<py::array> Group::parts() const {
    std::vector<py::array> parts;
    for (const Parameter &parameter : parameters_)
        parts.push_back(parameter.part());
    return parts;
}

void Group::find_lost(std::vector<std::string> &lost, Py_ssize_t of_root, Py_ssize_t of_leaf) {
    const auto found = unreachable(nest_, of_root, of_leaf);
    for (std::size_t i = 0; i < parameters_.size(); ++i)
        if (holders_.lost(i, parameters_[i].array.ptr(), found))
            lost.push_back(parameters_[i].what);
}

std::set<std::string> Group::dtypes() const {
    std::set<std::string> names;
    for (const Parameter &parameter : parameters_)
        names.insert(parameter.dtype == DType::float32 ? "float32" : "float64");
    return names;
}

void Group::check_containers() const {
    if (parameters_.empty())
        return; // also after clear()
    std::size_t next = 0;
    tree_.check_unchanged(nest_, root_, given_, next);
}

void Group::validate(const Options &options, bool flush_denormals) const {
    if (parameters_.empty())
        fused_rmsprop::validate(options, DType::float32, flush_denormals);
    bool seen[2] = {};
    for (const Parameter &parameter : parameters_)
        if (!std::exchange(seen[static_cast<int>(parameter.dtype)], true))
            fused_rmsprop::validate(options, parameter.dtype, flush_denormals);
}

void Group::check_unchanged() const {
    check_containers();
    for (const Parameter &parameter : parameters_)
        parameter.check_facts();
}

std::vector<Parameter> Group::with_state(const Options &options,
                                         const std::array<py::object, array_count> &state) const {
    std::vector<Parameter> changed = parameters_;
    for (const Parameter &p : changed)
        p.came_read_only ? p.check_facts() : p.check(); // the state is compared with it
    for (std::size_t k = 0; k < array_count; ++k) {
        const std::string name = k == grad_sum ? "grad_sum" : name_of(state_kinds[k], options);
        if (k != grad_sum && state_kinds[k].needed(options) && state[k].is_none())
            throw py::value_error("the options need " + name);
        for (Parameter &p : changed)
            p.state[k] = py::object();
        if (state[k].is_none())
            continue;
        const py::list arrays(state[k]);
        if (arrays.size() != changed.size())
            throw py::value_error("a state needs one array per parameter");
        for (std::size_t i = 0; i < changed.size(); ++i) {
            Parameter &p = changed[i];
            p.state_what[k] = "state[" + py::repr(p.name).cast<std::string>() + "]['" + name + "']";
            check_state(arrays[i], p.state_what[k], p.part(), p.what);
            p.state[k] = arrays[i];
        }
    }
    return changed;
}

void Group::traverse(Visitor &visit) const {
    visit(nest_);
    tree_.traverse(visit);
    for (const Parameter &p : parameters_) {
        visit(p.array);
        visit.each(p.state);
    }
}

void Group::clear() {
    ++layout_; // steppers look again, and find nothing
    // Moved out first: destroying an object may run code, which must find nothing here.
    const auto nest = std::exchange(nest_, py::none());
    const auto tree = std::exchange(tree_, {});
    const auto parameters = std::exchange(parameters_, {});
    given_.clear();
    summed_.clear();
}

} // namespace fused_rmsprop::bindings
