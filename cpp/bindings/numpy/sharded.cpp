#include "sharded.hpp"

#include <stdexcept>

#include <pybind11/stl.h>

#include <fused_rmsprop/fp_environment.hpp>

namespace fused_rmsprop::bindings {

void ShardedStep::need_claim() const {
    if (!claim_)
        throw std::runtime_error("the step has not begun, or is over");
}

py::bytes ShardedStep::begin(const py::object &grads, bool of_sums, std::int64_t after) {
    auto claim = std::make_unique<Claim>(stepper_.ownership);
    if (after >= 0 && after != stepper_.step_count)
        throw std::runtime_error("another step of this optimizer was made while this one asked its "
                                 "functions of the step; nothing has changed");
    stepper_.refresh();
    if (of_sums)
        NumpyStepper::refuse_beside_sums(grads);
    else
        stepper_.read(grads);
    if (stepper_.look_for_lost(!of_sums && grads.is_none()) && !of_sums)
        stepper_.read(grads); // the warning may have run code
    std::string has(stepper_.slots_.size(), '\0');
    summed_before_.clear();
    own_grads_.assign(has.size(), nullptr);
    for (std::size_t i = 0; i < has.size(); ++i) {
        const Slot &slot = stepper_.slots_[i];
        if (!slot.frozen)
            slot.parameter().check();
        has[i] = !of_sums && stepper_.given_[i] && !slot.frozen ? 1 : 0;
        if (has[i])
            own_grads_[i] = static_cast<const std::byte *>(stepper_.tensors_[i].grad) -
                            slot.parameter().first * item_size(slot.parameter().dtype);
        summed_before_.push_back(slot.group->summed()[slot.index]);
    }
    of_sums_ = stepper_.accumulated > 0;
    claim_ = std::move(claim);
    return has;
}

void ShardedStep::take(const std::vector<std::string> &has_gradient, bool joined) {
    need_claim();
    const std::size_t leaves = stepper_.slots_.size();
    for (const std::string &has : has_gradient)
        if (has.size() != leaves)
            throw py::value_error("one byte for each leaf is needed");
    first_term_.assign(leaves, nobody);
    for (std::size_t i = 0; i < leaves; ++i)
        for (std::size_t r = has_gradient.size(); r-- > 0;)
            if (has_gradient[r][i])
                first_term_[i] = joined ? 0 : r;
    has_gradient_ = has_gradient;
    if (joined) { // one term with the gradients of all
        has_gradient_.assign(1, std::string(leaves, '\0'));
        for (std::size_t i = 0; i < leaves; ++i)
            has_gradient_[0][i] = first_term_[i] != nobody;
    }
}

py::bytes ShardedStep::active() const {
    std::string active(stepper_.slots_.size(), '\0');
    for (std::size_t i = 0; i < active.size(); ++i)
        active[i] = first_term_[i] != nobody || (summed_before_[i] && !stepper_.slots_[i].frozen);
    return active;
}

void ShardedStep::read_grads(const Stream &stream, std::size_t begin, std::size_t end,
                             const py::array &out) const {
    need_claim();
    stream.check(begin, end, out);
    void *const buffer = const_cast<void *>(out.data());
    const auto read = [&]<typename T>(const Stream::Run &run, std::size_t offset, T *to) {
        const auto *grad = reinterpret_cast<const T *>(own_grads_[run.leaf]);
        if (grad == nullptr)
            std::fill_n(to + offset, run.size, T(-0.0));
        else
            std::copy_n(grad + run.first, run.size, to + offset);
    };
    without_gil(true, [&] {
        stream.each(begin, end, [&](const Stream::Run &run, std::size_t offset) {
            if (stepper_.tensors_[run.leaf].dtype == DType::float32)
                read(run, offset, static_cast<float *>(buffer));
            else
                read(run, offset, static_cast<double *>(buffer));
        });
    });
}

void ShardedStep::add(const Stream &own, std::size_t begin, std::size_t end,
                      const py::list &terms) {
    need_claim();
    if (terms.size() != has_gradient_.size())
        throw py::value_error("one term for each process is needed");
    std::vector<const std::byte *> buffers;
    for (const py::handle term : terms) {
        if (!term.is_none())
            own.check(begin, end, term.cast<py::array>());
        buffers.push_back(term.is_none()
                              ? nullptr
                              : static_cast<const std::byte *>(term.cast<py::array>().data()));
    }
    const Execution how = stepper_.tuned_execution();
    for (std::size_t r = 0; r < buffers.size(); ++r)
        for (std::size_t i = 0; i < own_grads_.size() && buffers[r] == nullptr; ++i)
            if (has_gradient_[r][i] && own_grads_[i] == nullptr)
                throw py::value_error("None stands for gradients that this process does not have");
    without_gil(true, [&] {
        std::vector<Sum> sums;
        for (std::size_t r = 0; r < buffers.size(); ++r) {
            sums.clear();
            own.each(begin, end, [&](const Stream::Run &run, std::size_t offset) {
                if (!has_gradient_[r][run.leaf])
                    return;
                const Parameter &p = stepper_.slots_[run.leaf].parameter();
                const std::size_t item = item_size(p.dtype);
                auto *const sum = static_cast<std::byte *>(p.state_data(grad_sum));
                const auto *const mine = own_grads_[run.leaf] + run.first * item;
                sums.push_back({.dtype = p.dtype,
                                .size = run.size,
                                .sum = sum + (run.first - p.first) * item,
                                .term = buffers[r] == nullptr ? mine : buffers[r] + offset * item,
                                .empty = !summed_before_[run.leaf] && first_term_[run.leaf] == r});
            });
            fused_rmsprop::accumulate(sums, how);
        }
    });
}

void ShardedStep::keep_sums(std::int64_t gradients) {
    need_claim();
    for (std::size_t i = 0; i < first_term_.size(); ++i)
        if (first_term_[i] != nobody)
            stepper_.slots_[i].group->summed()[stepper_.slots_[i].index] = true;
    {
        const GilLock lock(stepper_.mutex);
        stepper_.accumulated += gradients;
    }
    keeps_ = true;
    abandon();
}

bool ShardedStep::needs_all_gradients() const {
    return fused_rmsprop::needs_all_gradients(stepper_.settings(1).transform);
}

bool ShardedStep::measure(double grad_scale, std::int64_t gradients,
                          std::vector<std::size_t> chunks, py::object join, py::object least) {
    need_claim();
    const py::bytes some = active();
    const std::string active(some);
    for (std::size_t i = 0; i < active.size(); ++i) {
        const Slot &slot = stepper_.slots_[i];
        Tensor &t = stepper_.tensors_[i];
        t.grad = active[i] ? slot.parameter().state_data(grad_sum) : nullptr;
        t.step = slot.group->step(slot.index);
    }
    in_fp_environment(false, [&] { grad_scale_ = grad_scale / static_cast<double>(gradients); });
    settings_ = stepper_.settings(grad_scale_);
    settings_.execution = stepper_.tuned_execution();
    stepper_.prepare_samplers();
    peers_.emplace(std::move(chunks), std::move(join), std::move(least));
    without_gil(true, [&] {
        step_.emplace(stepper_.tensors_, settings_.execution, settings_.transform, &*peers_);
    });
    if (step_->result().skipped && settings_.refuses_nonfinite) {
        refused_by_ = step_->result().nonfinite;
        return false;
    }
    sampled_.emplace(stepper_.held_samplers());
    sampled_->before(stepper_.tensors_, stepper_.known_by_, stepper_.frozen_);
    return !step_->result().skipped;
}

py::tuple ShardedStep::gradient(std::size_t leaf) const {
    need_claim();
    const Slot &slot = stepper_.slots_.at(leaf);
    const py::object &sum = slot.parameter().state[grad_sum];
    const py::object given = of_sums_ ? py::none() : stepper_.given_[leaf];
    return py::make_tuple(slot.grad_what, given ? given : py::none(), slot.parameter().what,
                          sum ? sum : py::none());
}

/// The parts of the tensors that elements of the stream of this process's own parts are.
std::vector<Part> ShardedStep::parts_of(const Stream &own, std::size_t begin,
                                        std::size_t end) const {
    std::vector<Part> parts;
    own.each(begin, end, [&](const Stream::Run &run, std::size_t) {
        const Parameter &p = stepper_.slots_[run.leaf].parameter();
        parts.push_back({run.leaf, run.first - p.first, run.size});
    });
    return parts;
}

void ShardedStep::update(const Stream &own, std::size_t begin, std::size_t end) {
    need_claim();
    if (!step_ || step_->result().skipped)
        throw std::runtime_error("the step was not measured, or is skipped");
    without_gil(true, [&] { step_->update(parts_of(own, begin, end)); });
}

void ShardedStep::finish() {
    need_claim();
    if (!step_ || refused_by_)
        throw std::runtime_error("the step was not measured, or is refused");
    const bool stepped =
        stepper_.record(step_->result(), settings_) == NumpyStepper::Outcome::stepped;
    stepper_.forget_sums();
    sampled_->after(stepper_.tensors_, stepper_.known_by_, grad_scale_);
    sampled_->end(settings_.transform, step_->result().grad_norm,
                  stepper_.counted() + (stepped ? 1 : 0));
    if (stepped) {
        {
            const GilLock lock(stepper_.mutex);
            ++stepper_.step_count;
        }
        for (std::size_t i = 0; i < stepper_.slots_.size(); ++i)
            if (stepper_.tensors_[i].grad != nullptr)
                stepper_.slots_[i].group->count_step(stepper_.slots_[i].index);
    }
    keeps_ = true;
    abandon();
}

void ShardedStep::abandon() noexcept {
    if (!claim_)
        return;
    step_.reset();
    if (!keeps_ && !of_sums_)
        stepper_.forget_sums();
    forget(stepper_.given_); // these may run code
    sampled_.reset();
    peers_.reset();
    claim_.reset();
}

void ShardedStep::traverse(Visitor &visit) const {
    visit(stepper_object_);
    if (sampled_)
        sampled_->traverse(visit);
}

void register_sharded(py::module_ &m) {
    py::class_<Stream>(m, "Stream", py::is_final(), collected<Stream>())
        .def(py::init<py::object, const std::vector<std::array<std::size_t, 3>> &>(),
             py::arg("stepper"), py::arg("runs"))
        .def_property_readonly("size", &Stream::size)
        .def("read_params", &Stream::read_params, py::arg("begin"), py::arg("end"), py::arg("out"))
        .def("write_params", &Stream::write_params, py::arg("begin"), py::arg("end"),
             py::arg("values"));
    py::class_<ShardedStep>(m, "ShardedStep", py::is_final(), collected<ShardedStep>())
        .def("begin", &ShardedStep::begin, py::arg("grads"), py::arg("of_sums"), py::arg("after"))
        .def("take", &ShardedStep::take, py::arg("has_gradient"), py::arg("joined"))
        .def("active", &ShardedStep::active)
        .def("read_grads", &ShardedStep::read_grads, py::arg("stream"), py::arg("begin"),
             py::arg("end"), py::arg("out"))
        .def("add", &ShardedStep::add, py::arg("own"), py::arg("begin"), py::arg("end"),
             py::arg("terms"))
        .def("keep_sums", &ShardedStep::keep_sums, py::arg("gradients"))
        .def_property_readonly("needs_all_gradients", &ShardedStep::needs_all_gradients)
        .def("measure", &ShardedStep::measure, py::arg("grad_scale"), py::arg("gradients"),
             py::arg("chunks"), py::arg("join"), py::arg("least"))
        .def_property_readonly("refused_by", &ShardedStep::refused_by)
        .def("gradient", &ShardedStep::gradient, py::arg("leaf"))
        .def("update", &ShardedStep::update, py::arg("own"), py::arg("begin"), py::arg("end"))
        .def("finish", &ShardedStep::finish)
        .def("abandon", &ShardedStep::abandon);
}

} // namespace fused_rmsprop::bindings
