#include "tree.hpp"

namespace fused_rmsprop::bindings {
namespace {

std::string key_in_brackets(py::handle key) {
    return std::string("[").append(py::repr(key).cast<std::string>()).append("]");
}

/// A new reference, or the exception that there is instead of one.
PyObject *checked(PyObject *made) {
    if (made == nullptr)
        throw py::error_already_set();
    return made;
}

/// The text as an exact str: a subclass could hash and compare in its own way.
py::str exact(const py::str &text) {
    return py::reinterpret_steal<py::str>(checked(PyUnicode_FromObject(text.ptr())));
}

// Each object is owned as soon as it is read: the code of a key may empty its container.

/// Empty if the list has become shorter.
py::object item(py::handle sequence, Py_ssize_t index) {
#if PY_VERSION_HEX >= 0x030D0000
    if (PyList_Check(sequence.ptr())) { // which another thread may change
        PyObject *const value = PyList_GetItemRef(sequence.ptr(), index);
        if (value == nullptr)
            PyErr_Clear();
        return py::reinterpret_steal<py::object>(value);
    }
#endif
    return index < PySequence_Fast_GET_SIZE(sequence.ptr())
               ? py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(sequence.ptr(), index))
               : py::object();
}

std::vector<py::object> keys_of(py::handle dict) {
    std::vector<py::object> keys;
    const auto listed = py::reinterpret_steal<py::list>(checked(PyDict_Keys(dict.ptr())));
    for (const py::handle key : listed)
        keys.push_back(py::reinterpret_borrow<py::object>(key));
    return keys;
}

/// Empty if there is none.
py::object value_of(py::handle dict, py::handle key) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *value = nullptr;
    if (PyDict_GetItemRef(dict.ptr(), key.ptr(), &value) < 0)
        throw py::error_already_set();
    return py::reinterpret_steal<py::object>(value);
#else
    return py::reinterpret_borrow<py::object>(py::detail::dict_getitem(dict.ptr(), key.ptr()));
#endif
}

bool is_sequence(py::handle value) {
    return PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
}

} // namespace

Tree::Tree(py::handle nest, const py::str &name, std::vector<Leaf> &leaves, std::string path)
    : path_(std::move(path)) {
    if (Py_EnterRecursiveCall(" while reading the structure of the parameters"))
        throw py::error_already_set(); // a container that contains itself
    const struct Leave {
        ~Leave() { Py_LeaveRecursiveCall(); }
    } leave;
    const auto add = [&](py::handle key, py::handle value) {
        const py::str key_name = exact(py::str(key));
        const py::str full =
            py::len(name) == 0 ? key_name : py::str(name + py::str(".") + key_name);
        children_.emplace_back(value, full, leaves, path_ + key_in_brackets(key));
        leaf_count_ += children_.back().leaf_count_;
    };
    if (PyDict_Check(nest.ptr())) {
        kind_ = Kind::dict;
        keys_ = keys_of(nest);
        for (const py::object &key : keys_) {
            const py::object value = value_of(nest, key);
            if (!value)
                throw py::value_error(path_ + key_in_brackets(key) +
                                      " went away while the parameters were read");
            add(key, value);
        }
    } else if (is_sequence(nest)) {
        kind_ = Kind::sequence;
        for (Py_ssize_t i = 0; const py::object value = item(nest, i); ++i)
            add(py::int_(i), value);
    } else if (nest.is_none()) {
        kind_ = Kind::none;
    } else {
        leaf_count_ = 1;
        leaves.push_back({py::reinterpret_borrow<py::object>(nest), path_,
                          py::len(name) == 0 ? py::str("param") : exact(name)});
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
        py::object child;
        if (kind_ == Kind::dict)
            child = value_of(nest, keys_[i]);
        else
            child = item(nest, static_cast<Py_ssize_t>(i));
        children_[i].check_unchanged(child, root, leaves, next);
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
        const py::object value = item(nest, static_cast<Py_ssize_t>(i));
        if (!value)
            throw py::value_error(root + path_ + " became shorter while it was read");
        children_[i].flatten(value, root, out);
    }
}

void Tree::flatten_dict(py::handle nest, const std::string &root,
                        std::vector<py::object> &out) const {
    for (std::size_t i = 0; i < children_.size(); ++i) {
        const py::object value = value_of(nest, keys_[i]);
        if (!value)
            throw py::value_error(root + children_[i].path_ +
                                  " is missing (give None for one without a gradient)");
        children_[i].flatten(value, root, out);
    }
    if (static_cast<std::size_t>(PyDict_Size(nest.ptr())) == children_.size())
        return;
    py::set parameters;
    for (const py::object &key : keys_)
        parameters.add(key);
    for (const py::object &key : keys_of(nest))
        if (!parameters.contains(key))
            throw py::value_error(root + path_ + key_in_brackets(key) +
                                  " has no parameter of that name");
}

} // namespace fused_rmsprop::bindings
