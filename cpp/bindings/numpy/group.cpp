#include "group.hpp"

#include <algorithm>
#include <utility>

namespace fused_rmsprop::bindings {

Group::Group(const py::object &nest, const std::string &root, const std::string &name)
    : nest_(nest), root_(root) {
    std::vector<Tree::Leaf> leaves;
    tree_ = Tree(nest, name, leaves);
    steps_ = py::array_t<std::int64_t>(static_cast<py::ssize_t>(leaves.size()));
    counters_ = steps_.mutable_data();
    std::fill_n(counters_, leaves.size(), 0);
    summed_.resize(leaves.size());
    parameters_.reserve(leaves.size());
    for (const Tree::Leaf &leaf : leaves) {
        const std::string what = root + leaf.path;
        const py::array array = updatable_array(leaf.value, what);
        parameters_.push_back({.what = what,
                               .path = leaf.path,
                               .name = leaf.name,
                               .array = array,
                               .data = array.data(),
                               .descr = py::detail::array_proxy(array.ptr())->descr,
                               .layout = Layout(strided(array))});
        given_.push_back(leaf.value);
    }
}

void Group::check_containers() const {
    std::size_t next = 0;
    tree_.check_unchanged(nest_, root_, given_, next);
}

void Group::validate(const Options &options, bool flush_denormals) const {
    if (parameters_.empty())
        fused_rmsprop::validate(options, DType::float32, flush_denormals);
    bool seen[2] = {};
    for (const Parameter &parameter : parameters_) {
        const DType dtype = dtype_of(parameter.array);
        if (!std::exchange(seen[static_cast<int>(dtype)], true))
            fused_rmsprop::validate(options, dtype, flush_denormals);
    }
}

void Group::set_summed(const std::vector<bool> &summed) {
    if (summed.size() != parameters_.size())
        throw py::value_error("summed needs one flag per parameter");
    summed_ = summed;
}

void Group::configure(const Options &options, const std::array<py::object, array_count> &state) {
    std::vector<Parameter> changed = parameters_;
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
            p.state_what[k] = "state['" + p.name + "']['" + name + "']";
            check_state(arrays[i], p.state_what[k], p.array, p.what);
            p.state[k] = arrays[i];
        }
    }
    parameters_ = std::move(changed);
    options_ = options;
    ++layout_;
}

} // namespace fused_rmsprop::bindings
