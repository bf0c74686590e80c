// Lets Python's garbage collector see the objects that a C++ object holds, so that cycles through
// it are freed: a container of parameters may well lead back to its optimizer.
#pragma once

#include <algorithm>

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// Shows objects to the collector.
class Visitor {
public:
    Visitor(visitproc visit, void *arg) : visit_(visit), arg_(arg) {}

    void operator()(const py::object &object) {
        if (result_ == 0 && object) // any other result ends the traversal
            result_ = visit_(object.ptr(), arg_);
    }
    template <typename Objects>
    void each(const Objects &objects) {
        std::ranges::for_each(objects, [this](const py::object &object) { (*this)(object); });
    }
    int result() const { return result_; }

private:
    visitproc visit_;
    void *arg_;
    int result_ = 0;
};

/// For py::class_<T>: T has `void traverse(Visitor &) const`, which shows each reference that it
/// holds once, and `void clear()`, which lets go of them. T stays usable afterwards, but empty.
/// `finalize()`, if there is one, is called before anything is cleared.
template <typename T>
py::custom_type_setup collected() {
    return py::custom_type_setup([](PyHeapTypeObject *heap_type) {
        // Null until the object is constructed.
        static constexpr auto value_of = [](PyObject *self) -> T * {
            auto held = reinterpret_cast<py::detail::instance *>(self)->get_value_and_holder();
            return held.holder_constructed() ? held.value_ptr<T>() : nullptr;
        };
        PyTypeObject &type = heap_type->ht_type;
        type.tp_flags |= Py_TPFLAGS_HAVE_GC;
        type.tp_traverse = [](PyObject *self, visitproc visit, void *arg) {
            Py_VISIT(Py_TYPE(self));
            Visitor visitor(visit, arg);
            if (const T *value = value_of(self))
                value->traverse(visitor);
            return visitor.result();
        };
        type.tp_clear = [](PyObject *self) {
            if (T *value = value_of(self))
                value->clear();
            return 0;
        };
        if constexpr (requires(T value) { value.finalize(); })
            type.tp_finalize = [](PyObject *self) {
                if (T *value = value_of(self))
                    value->finalize();
            };
    });
}

} // namespace fused_rmsprop::bindings
