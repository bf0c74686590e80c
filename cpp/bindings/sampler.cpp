#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>
#include <utility>

#include <pybind11/stl.h>

#include "register.hpp"
#include "sampled_sums.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t option_count = std::size(number_options) + 1; // and eps_inside_sqrt
constexpr std::size_t limit_count = 3;
constexpr std::size_t most_logged = 1000;

template <class T>
void gather_from(const Sampler::Leaf &leaf, const void *array, double factor, double *out) {
    const T *const elements = static_cast<const T *>(array);
    for (const std::int64_t position : leaf.positions)
        *out++ = factor * static_cast<double>(elements[position]);
}

/// Writes the sampled elements of an array, times a factor; NaN if there is no array.
void gather(const Sampler::Leaf &leaf, DType dtype, const void *array, double factor, double *out) {
    if (array == nullptr)
        std::fill_n(out, leaf.positions.size(), nan);
    else if (dtype == DType::float32)
        gather_from<float>(leaf, array, factor, out);
    else
        gather_from<double>(leaf, array, factor, out);
}

PyObject *pointer_to(const py::object &object) { return object.ptr(); }

template <class T>
void append(std::vector<T> &queue, std::span<const T> row) noexcept {
    queue.insert(queue.end(), row.begin(), row.end()); // there is room: reserve()
}

template <class T>
py::array_t<T> as_array(const std::vector<T> &values, std::vector<py::ssize_t> shape) {
    return py::array_t<T>(std::move(shape), values.data());
}

} // namespace

Sampler::Sampler(const py::list &leaves, const py::list &params, std::int64_t every,
                 std::int64_t made, py::object on_full)
    : params_(params), every_(every), on_full_(std::move(on_full)), steps_(made) {
    for (const py::handle item : leaves) {
        auto [positions, size, group] =
            item.cast<std::tuple<std::vector<std::int64_t>, std::size_t, std::size_t>>();
        for (const std::int64_t position : positions)
            if (position < 0 || static_cast<std::size_t>(position) >= size)
                throw py::index_error("a sampled element lies outside of its leaf");
        groups_ = std::max(groups_, group + 1);
        if (leaves_.size() < params.size())
            by_param_[params[leaves_.size()].ptr()] = leaves_.size();
        const std::size_t count = positions.size();
        leaves_.push_back({std::move(positions), size, group, elements_});
        elements_ += count;
    }
    for (Sample *const sample : {&now_, &observed_}) {
        for (auto *const row : {&sample->param, &sample->grad, &sample->average, &sample->update})
            row->resize(elements_);
        sample->seen.resize(leaves_.size());
        sample->with_grad.resize(leaves_.size());
        sample->options.resize(option_count * groups_);
    }
}

std::vector<std::string> Sampler::option_names() {
    std::vector<std::string> names;
    for (const NumberOption &option : number_options)
        names.emplace_back(option.name);
    names.emplace_back("eps_inside_sqrt");
    return names;
}

bool Sampler::begin() {
    const GilLock lock(mutex_);
    if (closed_ || (wait_ > 0 && !awaits_))
        return false;
    reserve(); // so that the end of the step needs no memory
    is_first_ = wait_ == 0;
    std::ranges::fill(now_.seen, 0);
    std::ranges::fill(now_.with_grad, 0);
    std::ranges::fill(now_.options, nan);
    under_way_ = true;
    return true;
}

bool Sampler::begin_elsewhere() {
    {
        const GilLock lock(mutex_);
        elsewhere_ = true;
    }
    return begin();
}

void Sampler::abandon() noexcept {
    const GilLock lock(mutex_);
    under_way_ = elsewhere_ = false;
}

/// Makes room for one more observation.
void Sampler::reserve() {
    const auto grow = [](auto &rows, std::size_t more) {
        if (rows.capacity() < rows.size() + more)
            rows.reserve(std::max(2 * rows.capacity(), rows.size() + more));
    };
    grow(queue_.sums, leaves_.size() * sum_count);
    grow(queue_.averages, elements_);
    grow(queue_.options, now_.options.size());
    grow(queue_.limits, limit_count);
    grow(queue_.grad_norms, 1);
    grow(queue_.steps, 1);
    grow(queue_.seen, leaves_.size());
    grow(queue_.with_grad, leaves_.size());
}

void Sampler::before(std::size_t leaf, const Tensor &tensor) {
    const GilLock lock(mutex_);
    if (!under_way_ || leaf >= leaves_.size() || tensor.size != leaves_[leaf].size)
        return;
    gather(leaves_[leaf], tensor.dtype, tensor.param, 1, at(now_.param, leaf));
    now_.seen[leaf] = 1;
}

void Sampler::after(std::size_t leaf, const Tensor &tensor, double factor) {
    const GilLock lock(mutex_);
    if (!under_way_ || leaf >= leaves_.size() || now_.seen[leaf] == 0)
        return;
    const Leaf &of = leaves_[leaf];
    double *const update = at(now_.update, leaf);
    const double *const param = at(now_.param, leaf);
    gather(of, tensor.dtype, tensor.param, 1, update);
    for (std::size_t i = 0; i < of.positions.size(); ++i)
        update[i] -= param[i];
    if (!is_first_)
        return;
    gather(of, tensor.dtype, tensor.grad, factor, at(now_.grad, leaf));
    gather(of, tensor.dtype, tensor.square_avg, 1, at(now_.average, leaf));
    now_.with_grad[leaf] = tensor.grad != nullptr;
    take_options(of.group, *tensor.options);
}

void Sampler::put_before(std::size_t leaf, const Elements &param) {
    const GilLock lock(mutex_);
    if (!under_way_)
        return;
    if (leaf >= leaves_.size() || param.size() != std::ssize(leaves_[leaf].positions))
        throw py::value_error("a sampler needs as many elements of a leaf as it samples");
    std::copy_n(param.data(), param.size(), at(now_.param, leaf));
    now_.seen[leaf] = 1;
}

void Sampler::put_after(std::size_t leaf, const Elements &param,
                        const std::optional<Elements> &grad, const std::optional<Elements> &average,
                        const Options &options) {
    const GilLock lock(mutex_);
    if (!under_way_ || leaf >= leaves_.size() || now_.seen[leaf] == 0)
        return;
    const std::size_t count = leaves_[leaf].positions.size();
    for (const Elements *const given :
         {&param, grad ? &*grad : nullptr, average ? &*average : nullptr})
        if (given != nullptr && given->size() != static_cast<py::ssize_t>(count))
            throw py::value_error("a sampler needs as many elements of a leaf as it samples");
    std::ranges::transform(std::span(param.data(), count), std::span(at(now_.param, leaf), count),
                           at(now_.update, leaf), std::minus());
    if (!is_first_)
        return;
    const auto put = [&](const std::optional<Elements> &given, double *out) {
        given ? std::copy_n(given->data(), count, out) : std::fill_n(out, count, nan);
    };
    put(grad, at(now_.grad, leaf));
    put(average, at(now_.average, leaf));
    now_.with_grad[leaf] = grad.has_value();
    take_options(leaves_[leaf].group, options);
}

void Sampler::take_options(std::size_t group, const Options &options) {
    double *const first = now_.options.data() + group;
    if (!std::isnan(*first))
        return;
    std::size_t row = 0;
    for (const NumberOption &option : number_options)
        first[row++ * groups_] = options.*option.member;
    first[row * groups_] = options.eps_inside_sqrt ? 1 : 0;
}

void Sampler::end(const GradientTransform &transform, std::optional<double> grad_norm) noexcept {
    const GilLock lock(mutex_);
    elsewhere_ = false;
    ++steps_;
    if (wait_ > 0)
        --wait_;
    if (!std::exchange(under_way_, false)) {
        awaits_ = false; // a step that nobody saw lies between
        return;
    }
    if (std::exchange(awaits_, false))
        finish(&now_);
    if (!is_first_)
        return;
    now_.step = steps_;
    now_.grad_norm = grad_norm.value_or(nan);
    now_.limits[0] = transform.max_grad_norm.value_or(nan);
    now_.limits[1] = transform.max_grad_norm_per_array.value_or(nan);
    now_.limits[2] = transform.max_grad_value.value_or(nan);
    std::swap(now_, observed_);
    awaits_ = true;
    wait_ = every_ - 1;
}

/// Adds the observation to those that wait; `next` is the step after it.
void Sampler::finish(const Sample *next) noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        std::array<double, sum_count> sums{};
        if (observed_.seen[i] != 0)
            sums = sums_of(at(observed_.param, i), at(observed_.grad, i), at(observed_.update, i),
                           next != nullptr && next->seen[i] != 0
                               ? next->update.data() + leaves_[i].begin
                               : nullptr,
                           observed_.limits[2], leaves_[i].positions.size());
        else
            std::fill_n(at(observed_.average, i), leaves_[i].positions.size(), nan);
        append(queue_.sums, std::span<const double>(sums));
    }
    append(queue_.averages, std::span<const double>(observed_.average));
    append(queue_.options, std::span<const double>(observed_.options));
    append(queue_.limits, std::span<const double>(observed_.limits));
    append(queue_.seen, std::span<const std::uint8_t>(observed_.seen));
    append(queue_.with_grad, std::span<const std::uint8_t>(observed_.with_grad));
    queue_.grad_norms.push_back(observed_.grad_norm);
    queue_.steps.push_back(observed_.step);
}

void Sampler::close() {
    const GilLock lock(mutex_);
    if (std::exchange(closed_, true))
        return;
    under_way_ = false;
    if (std::exchange(awaits_, false)) {
        reserve();
        finish(nullptr);
    }
}

py::dict Sampler::take() {
    Queue taken;
    {
        const GilLock lock(mutex_);
        std::swap(taken, queue_);
    }
    const py::ssize_t n = std::ssize(taken.steps), leaves = std::ssize(leaves_);
    const auto count = static_cast<py::ssize_t>(elements_),
               groups = static_cast<py::ssize_t>(groups_);
    py::dict arrays;
    arrays["steps"] = as_array(taken.steps, {n});
    arrays["sums"] = as_array(taken.sums, {n, leaves, sum_count});
    arrays["averages"] = as_array(taken.averages, {n, count});
    arrays["options"] = as_array(taken.options, {n, option_count, groups});
    arrays["limits"] = as_array(taken.limits, {n, limit_count});
    arrays["grad_norms"] = as_array(taken.grad_norms, {n});
    arrays["seen"] = as_array(taken.seen, {n, leaves}).attr("view")("bool");
    arrays["with_grad"] = as_array(taken.with_grad, {n, leaves}).attr("view")("bool");
    return arrays;
}

void Sampler::notify() const {
    {
        const GilLock lock(mutex_);
        if (closed_ || queue_.steps.size() < room_)
            return;
    }
    if (const py::object call = on_full_)
        call();
}

std::size_t Sampler::leaf_of(const void *param) const noexcept {
    const auto found = by_param_.find(param);
    return found == by_param_.end() ? leaves_.size() : found->second;
}

bool Sampler::log(const py::dict &named) {
    const GilLock lock(mutex_); // nothing of the following runs Python code
    if (closed_ || logged_.size() >= most_logged)
        return false;
    const std::size_t before = logged_.size();
    Py_ssize_t position = 0;
    PyObject *name = nullptr, *value = nullptr;
    while (PyDict_Next(named.ptr(), &position, &name, &value)) {
        const auto known = std::ranges::find(names_, name, pointer_to); // they are interned
        if (known == names_.end() || !PyFloat_CheckExact(value)) {
            logged_.resize(before);
            return false;
        }
        logged_.push_back(
            {static_cast<std::size_t>(known - names_.begin()), steps_, PyFloat_AS_DOUBLE(value)});
    }
    return true;
}

void Sampler::learn(const std::vector<py::str> &names) {
    const GilLock lock(mutex_);
    for (const py::str &name : names)
        if (std::ranges::find(names_, name.ptr(), pointer_to) == names_.end())
            names_.push_back(name);
}

py::list Sampler::take_logged() {
    std::vector<Logged> taken;
    std::vector<py::str> names;
    {
        const GilLock lock(mutex_);
        std::swap(taken, logged_);
        names = names_;
    }
    py::list values;
    for (const Logged &each : taken)
        values.append(py::make_tuple(names[each.name], each.step, each.value));
    return values;
}

void Sampler::traverse(Visitor &visit) const {
    visit(params_);
    visit(on_full_);
}

void Sampler::clear() {
    // Moved out first: destroying an object may run code, which must find nothing here.
    const auto params = std::exchange(params_, py::list());
    const auto call = std::exchange(on_full_, py::object());
    by_param_.clear();
}

void register_sampler(py::module_ &m) {
    py::class_<Sampler>(m, "Sampler", py::is_final(), collected<Sampler>())
        .def(py::init<const py::list &, const py::list &, std::int64_t, std::int64_t, py::object>(),
             py::arg("leaves"), py::arg("params"), py::arg("every"), py::arg("steps"),
             py::arg("on_full"))
        .def_static("option_names", &Sampler::option_names)
        .def_property("steps", &Sampler::steps, &Sampler::set_steps)
        .def("set_room", &Sampler::set_room, py::arg("room"))
        .def("begin", &Sampler::begin_elsewhere)
        .def("put_before", &Sampler::put_before, py::arg("leaf"), py::arg("param"))
        .def("put_after", &Sampler::put_after, py::arg("leaf"), py::arg("param"), py::arg("grad"),
             py::arg("average"), py::arg("options"))
        .def(
            "end",
            [](Sampler &self, const Stepper &stepper) {
                const auto [transform, grad_norm] = stepper.transform_and_norm();
                self.end(transform, grad_norm);
            },
            py::arg("stepper"))
        .def("abandon", &Sampler::abandon)
        .def("close", &Sampler::close)
        .def("take", &Sampler::take)
        .def("learn", &Sampler::learn, py::arg("names"))
        .def("log", &Sampler::log, py::arg("named"))
        .def("take_logged", &Sampler::take_logged);
}

} // namespace fused_rmsprop::bindings
