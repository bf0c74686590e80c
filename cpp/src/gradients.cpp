// Gradients outside of an update: their norm, whether they are finite, their sum.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "gradients.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "slices.hpp"
#include "team.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace fused_rmsprop {
namespace {

// The order of additions depends on the tensors' sizes alone: elements are summed by chunks of a
// tensor, chunks by segments, and segments in their order.
constexpr std::size_t segments = 1024;

std::size_t own_chunks(const Tensor &t) {
    return t.bytes_to_step() == 0 ? 0 : (t.size + chunk_size - 1) / chunk_size;
}

/// Sums up chunks of gradients.
struct Squares {
    InstructionSet set;
    Factors<float> scale32;
    Factors<double> scale64;
    double limit;

    template <typename T>
    SquareSum of_chunk(const Tensor &t, std::size_t index, int power,
                       const Factors<T> &factors) const {
        const kernels::Loops<T> &loops = kernels::loops_for<T>(set);
        const kernels::Scaling<T> scaling{factors.second, static_cast<T>(limit),
                                          std::ldexp(1, power)};
        const std::size_t first = index * chunk_size, size = std::min(chunk_size, t.size - first);
        const T *elements = static_cast<const T *>(t.grad) + first;
        T scaled[chunk_size];
        if (factors.first != 1) {
            loops.limit(scaled, elements, {factors.first, std::numeric_limits<T>::infinity()},
                        size);
            elements = scaled;
        }
        const kernels::SquareSum found = loops.add_squares(elements, scaling, size);
        return {found.sum, found.finite};
    }

    SquareSum of_chunk(const Tensor &t, std::size_t index, int power) const {
        return t.dtype == DType::float32 ? of_chunk(t, index, power, scale32)
                                         : of_chunk(t, index, power, scale64);
    }
};

double total(std::span<const SquareSum> chunks) {
    const std::size_t used = std::min(chunks.size(), segments);
    double sum = 0;
    for (std::size_t i = 0, c = 0; i < used; ++i) {
        double of_segment = 0;
        for (const std::size_t end = share(chunks.size(), i + 1, used); c < end; ++c)
            of_segment += chunks[c].sum;
        sum += of_segment;
    }
    return sum;
}

/// The power of two by which elements are multiplied if their squares add up to this: those of
/// float64 overflow beyond 1e154, and vanish below 1e-154.
int power_for(double squares, bool finite) {
    return finite && std::isinf(squares) ? -600 : squares < 0x1p-900 ? 600 : 0;
}

Scale root(double squares, int power) {
    Scale norm = Scale::of(std::sqrt(squares));
    norm.exponent -= power;
    return norm;
}

template <typename T>
void add(InstructionSet set, const Sum &s, std::size_t first, std::size_t size) {
    T *const sum = static_cast<T *>(s.sum) + first;
    const T *const term = static_cast<const T *>(s.term) + first;
    if (s.empty)
        std::copy_n(term, size, sum);
    else
        kernels::loops_for<T>(set).add(sum, term, size);
}

void check(std::span<const Tensor> tensors, const GradientTransform &transform,
           const Execution &execution) {
    validate(execution);
    for (std::size_t i = 0; i < tensors.size(); ++i)
        if (const Tensor &t = tensors[i]; t.bytes_to_step() > 0) {
            need(t.grad, t.dtype, "tensors", i, "grad");
            validate(transform, t.dtype);
        }
}

void add_all(std::span<const Sum> sums, const Execution &execution) {
    validate(execution);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        if (bytes_of(sums[i]) == 0)
            continue;
        need(sums[i].sum, sums[i].dtype, "sums", i, "sum");
        need(sums[i].term, sums[i].dtype, "sums", i, "term");
        bytes += bytes_of(sums[i]);
    }
    const InstructionSet set = instruction_set();
    run_kernels(threads_beside_steps(bytes, execution), execution.flush_denormals,
                [&](int index, int count) {
                    const auto body = [&](const Sum &s, std::size_t first, std::size_t size) {
                        (s.dtype == DType::float32 ? add<float> : add<double>)(set, s, first, size);
                    };
                    for_slice(sums, bytes, index, count, body);
                });
}

} // namespace

SquareSums::SquareSums(std::span<const Tensor> tensors, const GradientTransform &transform,
                       const Execution &execution, Peers *peers)
    : tensors_(tensors), transform_(transform), execution_(execution), peers_(peers) {
    measure([](std::size_t) { return 0; });
}

std::size_t SquareSums::chunks_of(std::size_t tensor) const {
    return peers_ == nullptr ? own_chunks(tensors_[tensor]) : peers_->chunks_of(tensor);
}

/// Calls `visit(tensor, its chunks)` for each tensor.
template <typename Visit>
void SquareSums::each_tensor(const Visit &visit) const {
    std::size_t seen = 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
        const std::size_t count = chunks_of(i);
        visit(i, chunks_.subspan(seen, count));
        seen += count;
    }
}

/// Sums up all chunks; elements of tensor i are multiplied by 2 to the `power_of(i)`.
template <typename Power>
void SquareSums::measure(const Power &power_of) {
    std::vector<SquareSum> &own = *own_;
    std::size_t chunks = 0, bytes = 0;
    for (const Tensor &t : tensors_) {
        chunks += own_chunks(t);
        bytes += t.bytes_to_step();
    }
    own.resize(chunks);
    const Scale scale = Scale::of(transform_.grad_scale);
    const Squares squares{instruction_set(), Factors<float>(scale), Factors<double>(scale),
                          transform_.max_grad_value.value_or(INFINITY)};
    const std::span<SquareSum> out(own);
    run_kernels(threads_beside_steps(bytes, execution_), execution_.flush_denormals,
                [&](int index, int count) {
                    const auto i = static_cast<std::size_t>(index);
                    const auto n = static_cast<std::size_t>(count);
                    std::size_t c = share(chunks, i, n);
                    const std::size_t end = share(chunks, i + 1, n);
                    std::size_t seen = 0; // chunks of the tensors before
                    for (std::size_t k = 0; c < end; seen += own_chunks(tensors_[k++]))
                        for (; c < std::min(end, seen + own_chunks(tensors_[k])); ++c)
                            out[c] = squares.of_chunk(tensors_[k], c - seen, power_of(k));
                });
    chunks_ = out;
    if (peers_ == nullptr)
        return;
    std::size_t whole = 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i)
        whole += peers_->chunks_of(i);
    joined_.resize(whole);
    peers_->join(out, joined_);
    chunks_ = joined_;
}

Scale SquareSums::norm() {
    double squares = total(chunks_);
    const int power = power_for(squares, nonfinite() == no_tensor);
    if (power != 0 && !chunks_.empty()) {
        measure([=](std::size_t) { return power; });
        squares = total(chunks_);
        magnified_ = true;
    }
    return root(squares, power);
}

void SquareSums::norms(std::span<Scale> each) {
    if (std::exchange(magnified_, false))
        measure([](std::size_t) { return 0; });
    Scratch<int> scratch;
    std::vector<int> &powers = *scratch;
    powers.assign(tensors_.size(), 0);
    bool again = false;
    each_tensor([&](std::size_t i, std::span<const SquareSum> chunks) {
        const double squares = total(chunks);
        if (!chunks.empty())
            powers[i] = power_for(squares, std::ranges::all_of(chunks, &SquareSum::finite));
        again = again || powers[i] != 0;
        each[i] = root(squares, 0);
    });
    if (!again)
        return;
    magnified_ = true;
    measure([&](std::size_t i) { return powers[i]; });
    each_tensor([&](std::size_t i, std::span<const SquareSum> chunks) {
        each[i] = root(total(chunks), powers[i]);
    });
}

std::size_t SquareSums::nonfinite() const {
    std::size_t found = no_tensor;
    each_tensor([&](std::size_t i, std::span<const SquareSum> chunks) {
        if (found == no_tensor && !std::ranges::all_of(chunks, &SquareSum::finite))
            found = i;
    });
    return found;
}

GradNorm grad_norm(std::span<const Tensor> tensors, const GradientTransform &transform,
                   const Execution &execution) {
    GradNorm result;
    in_fp_environment(false, [&] {
        check(tensors, transform, execution);
        SquareSums squares(tensors, transform, execution, nullptr);
        result.nonfinite = squares.nonfinite();
        result.norm = squares.norm().value();
    });
    return result;
}

void accumulate(std::span<const Sum> sums, const Execution &execution) {
    in_fp_environment(false, [&] { add_all(sums, execution); });
}

} // namespace fused_rmsprop
