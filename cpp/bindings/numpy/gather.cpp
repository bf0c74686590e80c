// Reads single elements of many arrays in one call, for monitors: with a call for each array, that
// of a small model would take longer than its step.
#include <algorithm>
#include <cstdint>
#include <limits>

#include <pybind11/numpy.h>

#include "../register.hpp"

namespace fused_rmsprop::bindings {
namespace {

using Positions = py::array_t<std::int64_t, py::array::c_style>;
using Elements = py::array_t<double, py::array::c_style>;

/// The distance in memory of an element, by its index in C order.
py::ssize_t offset(const py::array &array, std::int64_t index) {
    py::ssize_t bytes = 0;
    for (py::ssize_t axis = array.ndim() - 1; axis >= 0; --axis) {
        bytes += index % array.shape(axis) * array.strides(axis);
        index /= array.shape(axis);
    }
    return bytes;
}

template <class T>
void gather_from(const py::array &array, const Positions &positions, double *out) {
    const auto *const data = static_cast<const char *>(array.data());
    const bool in_order = (array.flags() & py::array::c_style) != 0;
    const std::int64_t *const indices = positions.data();
    for (py::ssize_t i = 0; i < positions.size(); ++i) {
        if (indices[i] < 0 || indices[i] >= array.size())
            throw py::index_error("an array has become smaller than the monitor knows it");
        const py::ssize_t at =
            in_order ? indices[i] * py::ssize_t{sizeof(T)} : offset(array, indices[i]);
        out[i] = static_cast<double>(*reinterpret_cast<const T *>(data + at));
    }
}

/// Writes the elements at these positions in C order one after the other; NaN for those of None.
void gather(const py::list &arrays, const py::list &positions, Elements &out) {
    double *const elements = out.mutable_data();
    py::ssize_t done = 0;
    if (arrays.size() != positions.size())
        throw py::value_error("gather needs the positions of each array");
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        const auto of_array = py::cast<Positions>(positions[i]);
        if (done + of_array.size() > out.size())
            throw py::value_error("gather has more elements than room");
        if (arrays[i].is_none())
            std::fill_n(elements + done, of_array.size(), std::numeric_limits<double>::quiet_NaN());
        else if (const py::object item = arrays[i]; py::isinstance<py::array_t<float>>(item))
            gather_from<float>(py::reinterpret_borrow<py::array>(item), of_array, elements + done);
        else if (py::isinstance<py::array_t<double>>(item))
            gather_from<double>(py::reinterpret_borrow<py::array>(item), of_array, elements + done);
        else
            throw py::type_error("gather reads arrays of float32 and float64");
        done += of_array.size();
    }
}

} // namespace

void register_gather(py::module_ &m) {
    m.def("gather", &gather, py::arg("arrays"), py::arg("positions"), py::arg("out").noconvert());
}

} // namespace fused_rmsprop::bindings
