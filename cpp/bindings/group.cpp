#include "group.hpp"

#include <algorithm>

namespace fused_rmsprop::bindings {

Group::Group(const py::object &nest, const std::string &root, const std::string &name)
    : Group(nest, root, name, {}) {}

Group::Group(const py::object &nest, const std::string &root, const std::string &name,
             std::vector<Tree::Leaf> &&leaves)
    : nest_(nest), root_(root), tree_(nest, name, leaves),
      steps_(static_cast<py::ssize_t>(leaves.size())), counters_(steps_.mutable_data()) {
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

void Group::configure(const Options &options, const py::list &square_avg,
                      const py::object &momentum_buffer, const py::object &grad_avg) {
    if ((options.momentum > 0 && momentum_buffer.is_none()) ||
        (options.centered && grad_avg.is_none()))
        throw py::value_error("momentum needs momentum_buffer, centered needs grad_avg");
    const auto parts = [&](const py::object &list) {
        if (!list.is_none() && py::len(list) != parameters_.size())
            throw py::value_error("a state needs one array per parameter");
        return list.is_none() ? py::list() : list.cast<py::list>();
    };
    const py::list square = parts(square_avg), momentum = parts(momentum_buffer),
                   average = parts(grad_avg);

    std::vector<Parameter> changed = parameters_;
    for (std::size_t i = 0; i < changed.size(); ++i) {
        Parameter &p = changed[i];
        const auto take = [&](const py::list &list, const char *key,
                              std::string &what) -> py::object {
            what = "state['" + p.name + "']['" + key + "']";
            if (py::len(list) == 0)
                return py::none();
            check_state(list[i], what, p.array, p.what);
            return list[i];
        };
        p.square_avg =
            take(square, options.centered ? "variance" : "square_avg", p.square_avg_what);
        p.momentum_buffer = take(momentum, "momentum_buffer", p.momentum_buffer_what);
        p.grad_avg = take(average, "grad_avg", p.grad_avg_what);
    }
    parameters_ = std::move(changed);
    options_ = options;
    ++layout_;
}

} // namespace fused_rmsprop::bindings
