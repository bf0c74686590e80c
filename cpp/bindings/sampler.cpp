#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <new>
#include <numeric>
#include <tuple>
#include <utility>

#include <pybind11/stl.h>

#include "sampled_sums.hpp"

namespace fused_rmsprop::bindings {
namespace {

constexpr std::size_t option_count = std::size(number_options) + 1; // and eps_inside_sqrt
constexpr std::size_t limit_count = 3;

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
                 std::int64_t made, std::int64_t uncounted, py::object on_full)
    : params_(params), every_(every), on_full_(std::move(on_full)), steps_(made),
      uncounted_(uncounted) {
    using Places = std::vector<std::int64_t>;
    for (const py::handle item : leaves) {
        auto [places, shape, strides, group] =
            item.cast<std::tuple<Places, Places, Places, std::size_t>>();
        const auto size =
            std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies());
        for (const std::int64_t place : places)
            if (place < 0 || place >= size || shape.size() != strides.size())
                throw py::index_error("a sampled element lies outside of its leaf");
        const std::size_t index = leaves_.size(), count = places.size();
        if (index < params.size())
            by_param_[params[index].ptr()] = index;
        leaves_.emplace_back(std::move(places), static_cast<std::size_t>(size), group, elements_);
        leaves_.back().set_order(shape, strides);
        groups_ = std::max(groups_, group + 1);
        elements_ += count;
    }
    frozen_.resize(leaves_.size());
    for (Sample *const sample : {&now_, &observed_}) {
        for (auto *const row : {&sample->param, &sample->grad, &sample->average, &sample->update})
            row->resize(elements_);
        sample->seen.resize(leaves_.size());
        sample->with_grad.resize(leaves_.size());
        sample->options.resize(option_count * groups_);
    }
}

void Sampler::set_order(std::size_t leaf, std::span<const std::int64_t> shape,
                        std::span<const std::int64_t> strides) {
    const GilLock lock(mutex_);
    if (leaf < leaves_.size())
        leaves_[leaf].set_order(shape, strides);
}

std::vector<std::string> Sampler::option_names() {
    std::vector<std::string> names;
    for (const NumberOption &option : number_options)
        names.emplace_back(option.name);
    names.emplace_back("eps_inside_sqrt");
    return names;
}

void Sampler::prepare() {
    abandon();
    look_at_params();
}

void Sampler::look_at_params() {
    {
        const GilLock lock(mutex_);
        if (closed_ || wait_ > 0)
            return;
    }
    for (std::size_t i = 0; i < params_.size(); ++i) {
        const py::object param = params_[i];
        const auto requires_grad = py::getattr(param, "requires_grad", py::none());
        set_frozen(i, requires_grad.ptr() == Py_False);
    }
}

void Sampler::set_frozen(std::size_t leaf, bool frozen) noexcept {
    const GilLock lock(mutex_);
    if (leaf < frozen_.size())
        frozen_[leaf] = frozen ? 1 : 0;
}

bool Sampler::begin() noexcept {
    const GilLock lock(mutex_);
    if (closed_ || (wait_ > 0 && !awaits_))
        return false;
    try {
        reserve(); // so that the end of the step needs no memory
    } catch (const std::bad_alloc &) {
        return false;
    }
    is_first_ = wait_ == 0;
    std::ranges::fill(now_.seen, 0);
    std::ranges::fill(now_.with_grad, 0);
    std::ranges::fill(now_.options, nan);
    under_way_ = true;
    return true;
}

bool Sampler::begin_elsewhere() {
    prepare();
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
    if (!under_way_ || leaf >= leaves_.size() || tensor.size != leaves_[leaf].size())
        return;
    leaves_[leaf].gather(tensor.dtype, tensor.param, 1, at(now_.param, leaf));
    now_.seen[leaf] = 1;
}

void Sampler::after(std::size_t leaf, const Tensor &tensor, double factor) {
    const GilLock lock(mutex_);
    if (!under_way_ || leaf >= leaves_.size() || now_.seen[leaf] == 0)
        return;
    const SampledLeaf &of = leaves_[leaf];
    double *const update = at(now_.update, leaf);
    const double *const param = at(now_.param, leaf);
    of.gather(tensor.dtype, tensor.param, 1, update);
    for (std::size_t i = 0; i < of.count(); ++i)
        update[i] -= param[i];
    now_.seen[leaf] = 2;
    if (!is_first_)
        return;
    of.gather(tensor.dtype, tensor.grad, factor, at(now_.grad, leaf));
    of.gather(tensor.dtype, tensor.square_avg, 1, at(now_.average, leaf));
    now_.with_grad[leaf] = tensor.grad != nullptr;
    take_options(of.group(), *tensor.options);
}

void Sampler::put_before(std::size_t leaf, const Elements &param) {
    const GilLock lock(mutex_);
    if (!under_way_)
        return;
    if (leaf >= leaves_.size() || param.size() != static_cast<py::ssize_t>(leaves_[leaf].count()))
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
    const std::size_t count = leaves_[leaf].count();
    for (const Elements *const given :
         {&param, grad ? &*grad : nullptr, average ? &*average : nullptr})
        if (given != nullptr && given->size() != static_cast<py::ssize_t>(count))
            throw py::value_error("a sampler needs as many elements of a leaf as it samples");
    std::ranges::transform(std::span(param.data(), count), std::span(at(now_.param, leaf), count),
                           at(now_.update, leaf), std::minus());
    now_.seen[leaf] = 2;
    if (!is_first_)
        return;
    const auto put = [&](const std::optional<Elements> &given, double *out) {
        given ? std::copy_n(given->data(), count, out) : std::fill_n(out, count, nan);
    };
    put(grad, at(now_.grad, leaf));
    put(average, at(now_.average, leaf));
    now_.with_grad[leaf] = grad.has_value();
    take_options(leaves_[leaf].group(), options);
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

void Sampler::end(const GradientTransform &transform, std::optional<double> grad_norm,
                  std::optional<std::int64_t> made) noexcept {
    const GilLock lock(mutex_);
    elsewhere_ = false;
    count(made);
    if (!std::exchange(under_way_, false)) {
        awaits_ = false; // a step that nobody saw lies between
        return;
    }
    settle();
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

void Sampler::pass(std::optional<std::int64_t> made) noexcept {
    const GilLock lock(mutex_);
    count(made);
    awaits_ = false;
}

void Sampler::count(std::optional<std::int64_t> made) noexcept {
    steps_ = made ? *made - uncounted_ : steps_ + 1;
    if (wait_ > 0)
        --wait_;
}

/// Settles which leaves the step under way has shown.
void Sampler::settle() noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        const bool is_left_alone = is_first_ && frozen_[i] != 0 && now_.with_grad[i] == 0;
        now_.seen[i] = now_.seen[i] == 2 && !is_left_alone ? 1 : 0;
    }
}

/// Adds the observation to those that wait; `next` is the step after it.
void Sampler::finish(const Sample *next) noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        std::array<double, sum_count> sums{};
        if (observed_.seen[i] != 0)
            sums = sums_of(at(observed_.param, i), at(observed_.grad, i), at(observed_.update, i),
                           next != nullptr && next->seen[i] != 0
                               ? next->update.data() + leaves_[i].begin()
                               : nullptr,
                           observed_.limits[2], leaves_[i].count());
        else
            std::fill_n(at(observed_.average, i), leaves_[i].count(), nan);
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

/// Adds an observation that awaits another update, which does not come.
void Sampler::finish_alone() {
    if (!awaits_)
        return;
    reserve();
    awaits_ = false;
    finish(nullptr);
}

void Sampler::follow(std::int64_t made) {
    const GilLock lock(mutex_);
    steps_ = made - uncounted_;
    finish_alone();
}

void Sampler::close() {
    const GilLock lock(mutex_);
    if (std::exchange(closed_, true))
        return;
    under_way_ = false;
    finish_alone();
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
    if (const py::object call = on_full_; call && is_full())
        call();
}

std::size_t Sampler::leaf_of(const void *param) const noexcept {
    const auto found = by_param_.find(param);
    return found == by_param_.end() ? leaves_.size() : found->second;
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

} // namespace fused_rmsprop::bindings
