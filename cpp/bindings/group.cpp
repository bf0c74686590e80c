#include "group.hpp"

#include <algorithm>

namespace fused_rmsprop::bindings {

Group::Group(const py::object &nest, const std::string &root, const std::string &name)
    : Group(nest, root, name, {}) {}

Group::Group(const py::object &nest, const std::string &root, const std::string &name,
             std::vector<Tree::Leaf> &&leaves)
    : nest_(nest), root_(root), tree_(nest, name, leaves),
      steps_(static_cast<py::ssize_t>(leaves.size())), counters_(steps_.mutable_data()),
      summed_(leaves.size()) {
    std::fill_n(counters_, leaves.size(), 0);
    parameters_.reserve(leaves.size());
    for (const Tree::Leaf &leaf : leaves) {
        const std::string what = root + leaf.path;
        const py::array array = updatable_array(leaf.value, what);
        parameters_.push_back({.what = what,
                               .path = leaf.path,
                               .name = leaf.name,
                               .array = array,
                               .as_given = Fingerprint(array)});
        given_.push_back(leaf.value);
    }
}

void Group::check_containers() const {
    std::size_t next = 0;
    tree_.check_unchanged(nest_, root_, given_, next);
}

std::vector<std::string> Group::names() const {
    std::vector<std::string> names;
    for (const Parameter &parameter : parameters_)
        names.push_back(parameter.name);
    return names;
}

std::vector<py::array> Group::arrays() const {
    std::vector<py::array> arrays;
    for (const Parameter &parameter : parameters_)
        arrays.push_back(parameter.array);
    return arrays;
}

void Group::validate(const Options &options, bool flush_denormals) const {
    bool seen[2] = {parameters_.empty(), false}; // an empty group: by the rules of float32
    if (seen[0])
        fused_rmsprop::validate(options, DType::float32, flush_denormals);
    for (const Parameter &parameter : parameters_) {
        const DType dtype = dtype_of(parameter.array);
        if (!seen[static_cast<int>(dtype)])
            fused_rmsprop::validate(options, dtype, flush_denormals);
        seen[static_cast<int>(dtype)] = true;
    }
}

void Group::set_summed(const std::vector<bool> &summed) {
    if (summed.size() != parameters_.size())
        throw py::value_error("summed needs one flag per parameter");
    summed_ = summed;
}

void Group::configure(const Options &options, const std::array<py::object, state_count> &state) {
    const char *const names[state_count] = {options.centered ? "variance" : "square_avg",
                                            "momentum_buffer", "grad_avg", "param_avg", "grad_sum"};
    const bool needed[state_count] = {true, options.momentum > 0, options.centered,
                                      options.ema_decay > 0, false};
    std::vector<Parameter> changed = parameters_;
    for (std::size_t kind = 0; kind < state_count; ++kind) {
        if (needed[kind] && state[kind].is_none())
            throw py::value_error(std::string("the options need ") + names[kind]);
        const py::list arrays = state[kind].is_none() ? py::list() : py::list(state[kind]);
        if (!state[kind].is_none() && py::len(arrays) != changed.size())
            throw py::value_error("a state needs one array per parameter");
        for (std::size_t i = 0; i < changed.size(); ++i) {
            Parameter &p = changed[i];
            p.state[kind] = py::object();
            if (state[kind].is_none())
                continue;
            p.state_what[kind] = "state['" + p.name + "']['" + names[kind] + "']";
            check_state(arrays[i], p.state_what[kind], p.array, p.what);
            p.state[kind] = arrays[i];
        }
    }
    parameters_ = std::move(changed);
    options_ = options;
    ++layout_;
}

} // namespace fused_rmsprop::bindings
