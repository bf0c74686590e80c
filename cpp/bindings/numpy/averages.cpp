#include "averages.hpp"

#include <cstring>

namespace fused_rmsprop::bindings {
namespace {

constexpr std::size_t average = [] {
    for (std::size_t k = 0; k < state_kind_count; ++k)
        if (state_kinds[k].array == &Tensor::param_avg)
            return k;
    return state_kind_count;
}();

} // namespace

void Averages::enter() {
    auto claim = std::make_unique<Claim>(stepper_.ownership, Reason::averages);
    std::vector<Shown> shown;
    std::vector<const void *> averages;
    for (const HeldGroup &group : stepper_.groups()) {
        group->check_containers();
        for (const Parameter &p : group->parameters()) {
            if (!p.state[average])
                continue;
            p.check();
            const std::size_t bytes = p.count * item_size(p.dtype);
            shown.push_back({p.array, p.what, p.data, p.size * item_size(p.dtype),
                             p.part_of(p.data), bytes,
                             std::make_unique_for_overwrite<std::byte[]>(bytes)});
            averages.push_back(p.state_data(average));
        }
    }
    for (const Shown &p : shown)
        std::memcpy(p.trained.get(), p.data, p.bytes);
    for (std::size_t i = 0; i < shown.size(); ++i)
        std::memcpy(shown[i].data, averages[i], shown[i].bytes);
    shown_ = std::move(shown);
    claim_ = std::move(claim);
}

void Averages::exit() {
    if (const std::optional<std::string> lost = restore())
        throw py::value_error(*lost + " was resized inside use_ema(), so its trained values cannot "
                                      "come back; the other parameters have theirs");
}

/// Returns the name of a parameter that was resized, if there is one.
std::optional<std::string> Averages::restore() noexcept {
    std::optional<std::string> lost;
    for (Shown &p : shown_) {
        const auto array = py::reinterpret_borrow<py::array>(p.array);
        if (data_of(p.array) == p.begin && static_cast<std::size_t>(array.nbytes()) == p.whole)
            std::memcpy(p.data, p.trained.get(), p.bytes);
        else
            lost = std::move(p.what);
    }
    shown_.clear();
    claim_.reset();
    return lost;
}

void Averages::traverse(Visitor &visit) const {
    visit(stepper_object_);
    for (const Shown &p : shown_)
        visit(p.array);
}

void register_averages(py::module_ &m) {
    py::class_<Averages>(m, "Averages", py::is_final(), collected<Averages>())
        .def("__enter__", &Averages::enter)
        .def("__exit__", [](Averages &averages, const py::args &) { averages.exit(); });
}

} // namespace fused_rmsprop::bindings
