// A parameter group: arrays that share options, each with its state, held alive and checked.
// It keeps what Python gives it; it allocates no state and decides nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "../garbage.hpp"
#include "../gil.hpp"
#include "arrays.hpp"
#include "holders.hpp"
#include "tree.hpp"

namespace fused_rmsprop::bindings {

/// The arrays beside a parameter: those of the library's state_kinds, in their order, and the sum
/// of gradients that accumulate() adds to.
constexpr std::size_t grad_sum = state_kind_count, array_count = state_kind_count + 1;

/// A user can give an array object another shape, dtype or memory at any time. Therefore its facts
/// are taken once, after all checks, and compared with the object before each use.
struct Parameter {
    std::string what; ///< as errors call it: params['layer1']['W']
    std::string path; ///< the part of it behind the root: ['layer1']['W']
    py::str name;     ///< as users look it up: layer1.W
    py::array array;
    DType dtype;
    std::size_t size; ///< in elements
    /// The run of elements, in their order in memory, that this process steps and has the state of.
    std::size_t first = 0, count;
    bool is_cut = false; ///< whether state has the shape of that run, even if it is all elements
    void *data;
    py::object descr; ///< the dtype object
    Layout<py::ssize_t> layout;
    bool came_read_only = false;                    ///< from a pickle, say out of a memory map
    std::array<py::object, array_count> state = {}; ///< null: there is none
    std::array<std::string, array_count> state_what = {}; ///< as errors call those

    /// Where that run begins in an array of all elements.
    template <typename Void>
    Void *part_of(Void *whole) const {
        using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
        return static_cast<Byte *>(whole) + first * item_size(dtype);
    }
    py::array part() const; ///< that run, or all of the array

    void *state_data(std::size_t k) const { return state[k] ? data_of(state[k]) : nullptr; }
    Extent extent() const {
        const auto begin = reinterpret_cast<std::uintptr_t>(data);
        return {.begin = begin, .end = begin + size * item_size(dtype), .what = &what};
    }

    /// Throws unless the array can still be updated where it lay.
    void check() const;
    /// The same for an array that is only read.
    void check_facts() const;
};

class Group {
    /// An array's references: from its container, and from `Parameter::array`. Later Python's
    /// snapshot of the nest has another.
    static constexpr Py_ssize_t held_without_snapshot = 2;

public:
    /// Takes the arrays in `nest`. In errors its leaves are `root` and their path; users look
    /// them up by their names with `name` in front. Refuses read-only arrays, unless they come
    /// from a pickle: then only steps do.
    Group(const py::object &nest, const std::string &root, const py::str &name, bool from_pickle);

    /// Steps only a run of each parameter's elements, from `first` on. Call it before there is
    /// state.
    void take_parts(const std::vector<std::size_t> &first, const std::vector<std::size_t> &count);

    /// The arrays that steps update, as state is shaped.
    std::vector<py::array> parts() const;

    /// This member of all parameters.
    template <typename T>
    std::vector<T> each(T Parameter::*member) const {
        const GilLock lock(mutex_);
        std::vector<T> values;
        for (const Parameter &parameter : parameters_)
            values.push_back(parameter.*member);
        return values;
    }

    /// The names of the dtypes that its arrays have.
    std::set<std::string> dtypes() const;

    py::array_t<std::int64_t> steps() const { return steps_; }

    /// Throws if the user has put another array in the place of one of the group's: training would
    /// go on with the old one, unseen.
    void check_containers() const;

    /// Throws then, too, and if an array is not as it was: a saved one would be another.
    void check_unchanged() const;

    /// Throws std::invalid_argument unless the options suit all arrays of the group.
    void validate(const Options &options, bool flush_denormals) const;

    /// Takes options that were validated and need no state that is not there.
    void set_options(const Options &options) noexcept { options_ = options; }

    /// The parameters with that state, checked: each kind is a list with one array per parameter,
    /// or None where the options do not need it.
    std::vector<Parameter> with_state(const Options &options,
                                      const std::array<py::object, array_count> &state) const;

    /// Swaps in the result of with_state().
    void exchange(std::vector<Parameter> &parameters) noexcept {
        const GilLock lock(mutex_);
        parameters_.swap(parameters);
        ++layout_;
    }

    const Options &options() const { return options_; }
    const Tree &tree() const { return tree_; }
    const std::vector<Parameter> &parameters() const { return parameters_; }

    /// Counts the exchanges: pointers and flags taken before the last are stale.
    std::uint64_t layout() const { return layout_; }

    std::uint64_t step(std::size_t index) const {
        return static_cast<std::uint64_t>(counters_[index]);
    }
    void count_step(std::size_t index) { counters_[index] += 1; }

    /// Appends the names of arrays that other code could reach before, and no longer can. `of_root`
    /// references to the outermost container, and `of_leaf` to each array, are not that code's.
    void find_lost(std::vector<std::string> &lost, Py_ssize_t of_root = 1,
                   Py_ssize_t of_leaf = held_without_snapshot + 1);

    /// For each parameter, whether its grad_sum holds anything.
    const std::vector<bool> &summed() const { return summed_; }
    std::vector<bool> &summed() { return summed_; }

    /// For each parameter, whether steps leave it alone.
    std::vector<bool> frozen() const {
        const GilLock lock(mutex_);
        return frozen_;
    }
    void exchange_frozen(std::vector<bool> &frozen) noexcept {
        const GilLock lock(mutex_);
        frozen_.swap(frozen);
        ++layout_;
    }

    void traverse(Visitor &visit) const;
    void clear();

private:
    mutable GilMutex mutex_; ///< for each() and frozen(), which need no claim
    py::object nest_;
    std::string root_;
    Tree tree_;
    std::vector<Parameter> parameters_;
    std::vector<py::handle> given_; ///< the arrays of parameters_, in order
    py::array_t<std::int64_t> steps_;
    std::int64_t *counters_; ///< the memory of steps_, whatever a user does to the array object
    std::vector<bool> summed_, frozen_;
    Holders holders_;
    Options options_;
    std::uint64_t layout_ = 0;
};

} // namespace fused_rmsprop::bindings
