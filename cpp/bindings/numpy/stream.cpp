#include "stream.hpp"

#include <array>
#include <cstring>

namespace fused_rmsprop::bindings {
namespace {

/// The parameter of a leaf, of all groups' in their order.
const Parameter &parameter_of(const NumpyStepper &stepper, std::size_t leaf) {
    for (const HeldGroup &group : stepper.groups()) {
        if (leaf < group->parameters().size())
            return group->parameters()[leaf];
        leaf -= group->parameters().size();
    }
    throw py::value_error("there is no such leaf");
}

} // namespace

Stream::Stream(py::object stepper, const std::vector<std::array<std::size_t, 3>> &runs)
    : stepper_(std::move(stepper)) {
    const auto &owner = stepper_.cast<const NumpyStepper &>();
    std::size_t end = 0;
    for (const auto &[leaf, first, size] : runs) {
        const Parameter &p = parameter_of(owner, leaf);
        if (first > p.size || size > p.size - first || (end > 0 && item_size(p.dtype) != item_))
            throw py::value_error("a run goes beyond its leaf, or has another dtype");
        item_ = item_size(p.dtype);
        runs_.push_back({leaf, first, size});
        ends_.push_back(end += size);
    }
}

void Stream::check(std::size_t begin, std::size_t end, const py::array &array) const {
    if (begin > end || end > size() || (array.flags() & py::array::c_style) == 0 ||
        static_cast<std::size_t>(array.nbytes()) < (end - begin) * item_)
        throw py::value_error("the buffer does not suit the elements");
}

template <typename Copy>
void Stream::copy_params(std::size_t begin, std::size_t end, const py::array &array,
                         const Copy &copy) const {
    check(begin, end, array);
    const auto &owner = stepper_.cast<const NumpyStepper &>();
    auto *const buffer = static_cast<std::byte *>(const_cast<void *>(array.data()));
    without_gil(true, [&] {
        each(begin, end, [&](const Run &run, std::size_t offset) {
            const Parameter &p = parameter_of(owner, run.leaf);
            auto *const param = static_cast<std::byte *>(p.data);
            if (data_of(p.array) == param)
                copy(param + run.first * item_, buffer + offset * item_, run.size * item_);
        });
    });
}

void Stream::read_params(std::size_t begin, std::size_t end, const py::array &out) const {
    copy_params(begin, end, out, [](const std::byte *param, std::byte *buffer, std::size_t bytes) {
        std::memcpy(buffer, param, bytes);
    });
}

void Stream::write_params(std::size_t begin, std::size_t end, const py::array &values) const {
    copy_params(begin, end, values,
                [](std::byte *param, const std::byte *buffer, std::size_t bytes) {
                    std::memcpy(param, buffer, bytes);
                });
}

} // namespace fused_rmsprop::bindings
