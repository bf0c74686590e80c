// A parameter group: arrays that share options, each with its state, held alive and checked.
// It keeps what Python gives it; it allocates no state and decides nothing.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "tree.hpp"

namespace fused_rmsprop::bindings {

/// The arrays beside a parameter: those of the library's state_kinds, in their order, and the sum
/// of gradients that accumulate() adds to.
constexpr std::size_t grad_sum = state_kind_count, array_count = state_kind_count + 1;

struct Parameter {
    std::string what; ///< as errors call it: params['layer1']['W']
    std::string path; ///< the part of it behind the root: ['layer1']['W']
    std::string name; ///< as users look it up: layer1.W
    py::array array;
    const void *data, *descr;                             ///< of the array, at construction
    Layout<py::ssize_t> layout;                           ///< likewise
    std::array<py::object, array_count> state = {};       ///< null: there is none
    std::array<std::string, array_count> state_what = {}; ///< as errors call those

    void *state_data(std::size_t k) const { return state[k] ? data_of(state[k]) : nullptr; }
};

class Group {
public:
    /// Takes the arrays in `nest`. In errors its leaves are `root` and their path; users look
    /// them up by their names with `name` in front.
    Group(const py::object &nest, const std::string &root, const std::string &name);

    /// This member of all parameters.
    template <typename T>
    std::vector<T> each(T Parameter::*member) const {
        std::vector<T> values;
        for (const Parameter &parameter : parameters_)
            values.push_back(parameter.*member);
        return values;
    }

    py::array_t<std::int64_t> steps() const { return steps_; }

    /// Throws if the user has put another array in the place of one of the group's: training would
    /// go on with the old one, unseen.
    void check_containers() const;

    /// Throws std::invalid_argument unless the options suit all arrays of the group.
    void validate(const Options &options, bool flush_denormals) const;

    /// Takes options that were validated and need no state that is not there.
    void set_options(const Options &options) { options_ = options; }

    /// Takes options and state together; on an error nothing has changed. Each kind of state is a
    /// list with one array per parameter, or None where the options do not need it.
    void configure(const Options &options, const std::array<py::object, array_count> &state);

    const Options &options() const { return options_; }
    const Tree &tree() const { return tree_; }
    const std::vector<Parameter> &parameters() const { return parameters_; }

    /// Counts the calls of configure(): pointers taken before the last are stale.
    std::uint64_t layout() const { return layout_; }

    std::uint64_t step(std::size_t index) const {
        return static_cast<std::uint64_t>(counters_[index]);
    }
    void count_step(std::size_t index) { counters_[index] += 1; }

    /// Whether there is anything in each parameter's grad_sum.
    const std::vector<bool> &summed() const { return summed_; }
    void set_summed(const std::vector<bool> &summed);
    void mark_summed(std::size_t index) { summed_[index] = true; }

private:
    py::object nest_;
    std::string root_;
    Tree tree_;
    std::vector<Parameter> parameters_;
    std::vector<py::handle> given_; ///< the arrays of parameters_, in order
    py::array_t<std::int64_t> steps_;
    std::int64_t *counters_; ///< the memory of steps_, whatever a user does to the array object
    std::vector<bool> summed_;
    Options options_;
    std::uint64_t layout_ = 0;
};

} // namespace fused_rmsprop::bindings
