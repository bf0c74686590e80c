#include "logged_values.hpp"

#include <utility>

namespace fused_rmsprop::bindings {

void LoggedValues::learn(const std::vector<py::str> &names) {
    const GilLock lock(mutex_);
    for (const py::str &name : names)
        if (by_name_.emplace(name.ptr(), names_.size()).second)
            names_.push_back(name);
}

bool LoggedValues::add(std::int64_t step, const py::dict &named) {
    const GilLock lock(mutex_); // nothing of the following runs Python code
    if (values_.size() >= most)
        return false;
    const std::size_t before = values_.size();
    Py_ssize_t position = 0;
    PyObject *name = nullptr, *value = nullptr;
    while (PyDict_Next(named.ptr(), &position, &name, &value)) {
        const auto known = by_name_.find(name);
        if (known == by_name_.end() || !PyFloat_CheckExact(value)) {
            values_.resize(before);
            return false;
        }
        values_.push_back({known->second, step, PyFloat_AS_DOUBLE(value)});
    }
    return true;
}

py::list LoggedValues::take() {
    std::vector<Value> taken;
    std::vector<py::str> names;
    {
        const GilLock lock(mutex_);
        std::swap(taken, values_);
        names = names_;
    }
    std::vector<std::pair<py::list, py::list>> by_name(names.size());
    for (const Value &each : taken) {
        by_name[each.name].first.append(each.step);
        by_name[each.name].second.append(each.value);
    }
    py::list values;
    for (std::size_t i = 0; i < names.size(); ++i)
        if (const auto &[steps, numbers] = by_name[i]; !steps.empty())
            values.append(py::make_tuple(names[i], steps, numbers));
    return values;
}

} // namespace fused_rmsprop::bindings
