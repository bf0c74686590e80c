// For monitors: reads single elements of many arrays, and sums over them, in one call each. With
// calls of NumPy for each array, a small model's monitor would take longer than its step.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

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

/// Writes the elements at these positions in C order one after the other, times a factor, or less
/// those that are given; NaN for those of None.
void gather(const py::list &arrays, const py::list &positions, Elements &out,
            const std::optional<Elements> &less, double factor) {
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
    if (less && less->size() != done)
        throw py::value_error("gather needs as many elements to subtract");
    for (py::ssize_t i = 0; i < done; ++i)
        elements[i] = less ? elements[i] - less->data()[i] : elements[i] * factor;
}

/// The sums over the sampled elements of a leaf, in the order of statistics.py.
std::array<double, 10> sums_of(const double *param, const double *grad, const double *update,
                               const double *next, std::int64_t count) {
    double params = 0, updates = 0, squares = 0, following = 0, products = 0;
    std::int64_t finite = 0, moving = 0, lost = 0, compared = 0, reversals = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        params += param[i] * param[i];
        updates += update[i] * update[i];
        following += next[i] * next[i];
        const double product = update[i] * next[i];
        products += product;
        compared += product < 0 || product > 0 ? 1 : 0; // NaN compares with nothing
        reversals += product < 0 ? 1 : 0;
        const bool is_finite = std::isfinite(grad[i]);
        const bool moves = is_finite && grad[i] != 0;
        squares += is_finite ? grad[i] * grad[i] : 0;
        finite += is_finite ? 1 : 0;
        moving += moves ? 1 : 0;
        lost += moves && update[i] == 0 ? 1 : 0;
    }
    const auto number = [](std::int64_t n) { return static_cast<double>(n); };
    return {params,         updates,        squares,      following,        products,
            number(finite), number(moving), number(lost), number(compared), number(reversals)};
}

/// Writes the sums of each leaf into the rows of `out`; `ends` are those of the leaves' samples in
/// the five rows of an observation.
void sum_leaves(const Elements &rows, const Positions &ends, Elements &out) {
    constexpr py::ssize_t
        row_count = 5,
        sum_count = std::tuple_size_v<decltype(sums_of(nullptr, nullptr, nullptr, nullptr, 0))>;
    const py::ssize_t size = rows.ndim() == 2 ? rows.shape(1) : -1;
    if (size < 0 || rows.shape(0) != row_count || out.ndim() != 2 || out.shape(0) != ends.size() ||
        out.shape(1) != sum_count)
        throw py::value_error("sum_leaves needs five rows, and a row of sums for each leaf");
    const double *const from = rows.data();
    double *to = out.mutable_data();
    std::int64_t begin = 0;
    for (py::ssize_t leaf = 0; leaf < ends.size(); ++leaf, to += sum_count) {
        const std::int64_t end = ends.data()[leaf];
        if (end < begin || end > size)
            throw py::value_error("sum_leaves needs ascending ends within the rows");
        const auto row = [&](py::ssize_t index) { return from + index * size + begin; };
        std::ranges::copy(sums_of(row(0), row(1), row(3), row(4), end - begin), to);
        begin = end;
    }
}

} // namespace

void register_sampling(py::module_ &m) {
    m.def("gather", &gather, py::arg("arrays"), py::arg("positions"), py::arg("out").noconvert(),
          py::arg("less").noconvert() = py::none(), py::arg("factor") = 1.0);
    m.def("sum_leaves", &sum_leaves, py::arg("rows").noconvert(), py::arg("ends"),
          py::arg("out").noconvert());
}

} // namespace fused_rmsprop::bindings
