#include "tree.hpp"

namespace fused_rmsprop::bindings {
namespace {

std::string key_in_brackets(py::handle key) {
    return std::string("[").append(py::repr(key).cast<std::string>()).append("]");
}

/// Owned, because its use may run Python code that takes it out of its list.
py::object item(py::handle sequence, Py_ssize_t index) {
    return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(sequence.ptr(), index));
}

bool is_sequence(py::handle value) {
    return PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
}

} // namespace

Tree::Tree(py::handle nest, const std::string &name, std::vector<Leaf> &leaves, std::string path)
    : path_(std::move(path)) {
    if (Py_EnterRecursiveCall(" while reading the structure of the parameters"))
        throw py::error_already_set(); // a container that contains itself
    const struct Leave {
        ~Leave() { Py_LeaveRecursiveCall(); }
    } leave;
    const auto add = [&](py::handle key, py::handle value) {
        const std::string key_name = py::str(key).cast<std::string>();
        children_.emplace_back(value, name.empty() ? key_name : name + "." + key_name, leaves,
                               path_ + key_in_brackets(key));
        leaf_count_ += children_.back().leaf_count_;
    };
    if (PyDict_Check(nest.ptr())) {
        kind_ = Kind::dict;
        for (const auto &[key, value] : py::reinterpret_borrow<py::dict>(nest)) {
            keys_.push_back(py::reinterpret_borrow<py::object>(key));
            add(key, value);
        }
    } else if (is_sequence(nest)) {
        kind_ = Kind::sequence;
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(nest.ptr()); ++i)
            add(py::int_(i), item(nest, i));
    } else if (nest.is_none()) {
        kind_ = Kind::none;
    } else {
        leaf_count_ = 1;
        leaves.push_back(
            {py::reinterpret_borrow<py::object>(nest), path_, name.empty() ? "param" : name});
    }
}

void Tree::flatten(py::handle nest, const std::string &root, std::vector<py::object> &out) const {
    if (nest.is_none()) {
        out.resize(out.size() + leaf_count_); // none of the leaves below has a gradient
        return;
    }
    const auto wrong_type = [&](const std::string &rest) {
        return py::value_error(root + path_ + " is a " + Py_TYPE(nest.ptr())->tp_name + rest);
    };
    const auto count = [&] { return std::to_string(children_.size()); };
    switch (kind_) {
    case Kind::leaf:
        if (PyDict_Check(nest.ptr()) || is_sequence(nest))
            throw wrong_type(", but the parameter there is a single array");
        out.push_back(py::reinterpret_borrow<py::object>(nest));
        break;
    case Kind::none:
        throw py::value_error(root + path_ + " is given, but the parameter there is None");
    case Kind::sequence:
        if (!is_sequence(nest))
            throw wrong_type("; the parameters there are a list or tuple of " + count());
        flatten_sequence(nest, root, out);
        break;
    case Kind::dict:
        if (!PyDict_Check(nest.ptr()))
            throw wrong_type("; the parameters there are a dict of " + count());
        flatten_dict(nest, root, out);
        break;
    }
}

void Tree::check_unchanged(py::handle nest, const std::string &root,
                           const std::vector<py::handle> &leaves, std::size_t &next) const {
    const auto same_kind = [&] {
        return kind_ == Kind::dict       ? PyDict_Check(nest.ptr()) != 0
               : kind_ == Kind::sequence ? is_sequence(nest)
                                         : true;
    };
    if (nest.ptr() == nullptr || !same_kind() || (kind_ == Kind::leaf && !nest.is(leaves[next++])))
        throw py::value_error(
            root + path_ +
            " is not the array any more that the optimizer was given; write new "
            "values into the array, array[...] = values, or make a new optimizer");
    for (std::size_t i = 0; i < children_.size(); ++i) {
        PyObject *child = nullptr;
        if (kind_ == Kind::dict)
            child = py::detail::dict_getitem(nest.ptr(), keys_[i].ptr());
        else if (static_cast<Py_ssize_t>(i) < PySequence_Fast_GET_SIZE(nest.ptr()))
            child = PySequence_Fast_GET_ITEM(nest.ptr(), static_cast<Py_ssize_t>(i));
        children_[i].check_unchanged(py::reinterpret_borrow<py::object>(child), root, leaves, next);
    }
}

void Tree::flatten_sequence(py::handle nest, const std::string &root,
                            std::vector<py::object> &out) const {
    const auto size = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(nest.ptr()));
    if (size != children_.size())
        throw py::value_error(
            root + path_ + " has " + std::to_string(size) + " items; the parameters there have " +
            std::to_string(children_.size()) + " (give None for one without a gradient)");
    for (std::size_t i = 0; i < size; ++i) {
        const auto at = static_cast<Py_ssize_t>(i);
        if (at >= PySequence_Fast_GET_SIZE(nest.ptr()))
            throw py::value_error(root + path_ + " became shorter while it was read");
        children_[i].flatten(item(nest, at), root, out);
    }
}

void Tree::flatten_dict(py::handle nest, const std::string &root,
                        std::vector<py::object> &out) const {
    for (std::size_t i = 0; i < children_.size(); ++i) {
        PyObject *value = py::detail::dict_getitem(nest.ptr(), keys_[i].ptr());
        if (value == nullptr)
            throw py::value_error(root + children_[i].path_ +
                                  " is missing (give None for one without a gradient)");
        children_[i].flatten(py::reinterpret_borrow<py::object>(value), root, out);
    }
    if (static_cast<std::size_t>(PyDict_Size(nest.ptr())) == children_.size())
        return;
    py::set parameters;
    for (const py::object &key : keys_)
        parameters.add(key);
    for (const auto &item : py::reinterpret_borrow<py::dict>(nest))
        if (!parameters.contains(item.first))
            throw py::value_error(root + path_ + key_in_brackets(item.first) +
                                  " has no parameter of that name");
}

} // namespace fused_rmsprop::bindings
