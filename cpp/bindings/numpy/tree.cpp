#include "tree.hpp"

#include "foreign.hpp"

#include <algorithm>

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

/// The length of any container.
Py_ssize_t size_of(py::handle container) {
    const Py_ssize_t size = PyObject_Size(container.ptr());
    if (size < 0)
        throw py::error_already_set();
    return size;
}

// Each object is owned as soon as it is read: the code of a key may empty its container.

/// Empty at the end of the sequence, also of a list that has become shorter.
py::object item(py::handle sequence, Py_ssize_t index) {
    if (!PyList_Check(sequence.ptr()) && !PyTuple_Check(sequence.ptr()))
        return index < size_of(sequence) ? py::reinterpret_steal<py::object>(
                                               checked(PySequence_GetItem(sequence.ptr(), index)))
                                         : py::object();
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

std::vector<py::object> keys_of(py::handle mapping) {
    std::vector<py::object> keys;
    const auto listed = py::reinterpret_steal<py::list>(checked(
        PyDict_Check(mapping.ptr()) ? PyDict_Keys(mapping.ptr()) : PySequence_List(mapping.ptr())));
    for (const py::handle key : listed)
        keys.push_back(py::reinterpret_borrow<py::object>(key));
    return keys;
}

/// Empty if there is none.
py::object value_of(py::handle dict, py::handle key) {
    if (!PyDict_Check(dict.ptr())) { // a mapping of another kind, which may make missing values
        const int there = PySequence_Contains(dict.ptr(), key.ptr());
        if (there < 0)
            throw py::error_already_set();
        return there == 0 ? py::object()
                          : py::reinterpret_steal<py::object>(
                                checked(PyObject_GetItem(dict.ptr(), key.ptr())));
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *value = nullptr;
    if (PyDict_GetItemRef(dict.ptr(), key.ptr(), &value) < 0)
        throw py::error_already_set();
    return py::reinterpret_steal<py::object>(value);
#else
    return py::reinterpret_borrow<py::object>(py::detail::dict_getitem(dict.ptr(), key.ptr()));
#endif
}

/// The first keys, for errors.
std::string listed(const std::vector<py::object> &keys) {
    constexpr std::size_t most = 6;
    std::string text;
    for (std::size_t i = 0; i < std::min(keys.size(), most); ++i)
        text += (i > 0 ? ", " : "") + py::repr(keys[i]).cast<std::string>();
    return text + (keys.size() > most ? ", ..." : "");
}

bool is_sequence(py::handle value) { return container_of(value) == Container::sequence; }

bool is_mapping(py::handle value) { return container_of(value) == Container::mapping; }

} // namespace

Tree::Tree(py::handle nest, const py::str &name, std::vector<Leaf> &leaves, std::string path,
           int depth)
    : path_(std::move(path)) {
    constexpr int deepest = 200;
    if (depth > deepest)
        throw py::value_error("the parameters are nested more than " + std::to_string(deepest) +
                              " deep: does a container contain itself?");
    const auto add = [&](py::handle key, py::handle value) {
        const py::str key_name = exact(py::str(key));
        const py::str full =
            py::len(name) == 0 ? key_name : py::str(name + py::str(".") + key_name);
        children_.emplace_back(value, full, leaves, path_ + key_in_brackets(key), depth + 1);
        leaf_count_ += children_.back().leaf_count_;
    };
    const Container container = container_of(nest);
    if (container == Container::mapping) {
        kind_ = Kind::dict;
        keys_ = keys_of(nest);
        for (const py::object &key : keys_) {
            const py::object value = value_of(nest, key);
            if (!value)
                throw py::value_error(path_ + key_in_brackets(key) +
                                      " went away while the parameters were read");
            add(key, value);
        }
    } else if (container == Container::sequence) {
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

void Tree::flatten(py::handle nest, const std::string &root, std::vector<py::object> &out,
                   bool bound) const {
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
        if (is_array(nest)) {
            out.push_back(py::reinterpret_borrow<py::object>(nest));
            break;
        }
        if (is_mapping(nest))
            throw wrong_type(", but the parameter there is a single array");
        if (is_sequence(nest))
            throw wrong_type(", but the parameter there is a single array; if these are its "
                             "numbers: np.array(numbers, param.dtype)");
        if (bound)
            check_can_be_bound(nest, root + path_);
        out.push_back(readable(nest, root + path_));
        break;
    case Kind::none:
        throw py::value_error(root + path_ + " is given, but the parameter there is None");
    case Kind::sequence:
        if (!is_sequence(nest))
            throw wrong_type("; the parameters there are a list or tuple of " + count());
        flatten_sequence(nest, root, out, bound);
        break;
    case Kind::dict:
        if (!is_mapping(nest))
            throw wrong_type("; the parameters there are a dict of " + count() + ": " +
                             listed(keys_));
        flatten_dict(nest, root, out, bound);
        break;
    }
}

void Tree::check_unchanged(py::handle nest, const std::string &root,
                           const std::vector<py::handle> &leaves, std::size_t &next) const {
    const auto same_kind = [&] {
        return kind_ == Kind::dict       ? is_mapping(nest)
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

void Tree::flatten_sequence(py::handle nest, const std::string &root, std::vector<py::object> &out,
                            bool bound) const {
    const auto size = static_cast<std::size_t>(size_of(nest));
    if (size != children_.size())
        throw py::value_error(
            root + path_ + " has " + std::to_string(size) + " items; the parameters there had " +
            std::to_string(children_.size()) +
            " when the optimizer was made (give None for one "
            "without a gradient; add_param_group() or a new optimizer takes one added since)");
    for (std::size_t i = 0; i < size; ++i) {
        const py::object value = item(nest, static_cast<Py_ssize_t>(i));
        if (!value)
            throw py::value_error(root + path_ + " became shorter while it was read");
        children_[i].flatten(value, root, out, bound);
    }
}

void Tree::flatten_dict(py::handle nest, const std::string &root, std::vector<py::object> &out,
                        bool bound) const {
    for (std::size_t i = 0; i < children_.size(); ++i) {
        const py::object value = value_of(nest, keys_[i]);
        if (!value)
            throw py::value_error(
                root + children_[i].path_ + " is missing (give None for one without a gradient)" +
                (size_of(nest) > 0 ? "; its keys are " + listed(keys_of(nest)) : ""));
        children_[i].flatten(value, root, out, bound);
    }
    if (static_cast<std::size_t>(size_of(nest)) == children_.size())
        return;
    py::set parameters;
    for (const py::object &key : keys_)
        parameters.add(key);
    for (const py::object &key : keys_of(nest))
        if (!parameters.contains(key))
            throw py::value_error(
                root + path_ + key_in_brackets(key) +
                " has no parameter of that name: none was there when the optimizer was "
                "made (add_param_group() or a new optimizer takes one added "
                "since)");
}

} // namespace fused_rmsprop::bindings
