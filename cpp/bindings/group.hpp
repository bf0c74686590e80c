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

/// What there can be beside a parameter. grad_sum is what accumulate() sums up.
enum StateKind : std::size_t { square_avg, momentum_buffer, grad_avg, param_avg, grad_sum };
constexpr std::size_t state_count = 5;

struct Parameter {
    std::string what; ///< as errors call it: params['layer1']['W']
    std::string path; ///< the part of it behind the root: ['layer1']['W']
    std::string name; ///< as users look it up: layer1.W
    py::array array;
    Fingerprint as_given;                                 ///< of the array, at construction
    std::array<py::object, state_count> state = {};       ///< by StateKind; null: there is none
    std::array<std::string, state_count> state_what = {}; ///< as errors call those

    void *state_data(StateKind kind) const { return state[kind] ? data_of(state[kind]) : nullptr; }
};

class Group {
public:
    /// Takes the arrays in `nest`. In errors its leaves are `root` and their path; users look
    /// them up by their names with `name` in front.
    Group(const py::object &nest, const std::string &root, const std::string &name);

    std::vector<std::string> names() const;
    std::vector<py::array> arrays() const;
    py::array_t<std::int64_t> steps() const { return steps_; }

    /// Throws if the user has put another array in the place of one of the group's: training would
    /// go on with the old one, unseen.
    void check_containers() const;

    /// Throws std::invalid_argument unless the options suit all arrays of the group.
    void validate(const Options &options, bool flush_denormals) const;

    /// Takes options that were validated and need no state that is not there.
    void set_options(const Options &options) { options_ = options; }

    /// Takes options and state together; on an error nothing has changed. By StateKind, a state is
    /// a list with one array per parameter, or None where the options do not need it.
    void configure(const Options &options, const std::array<py::object, state_count> &state);

    const Options &options() const { return options_; }
    const Tree &tree() const { return tree_; }
    const std::vector<Parameter> &parameters() const { return parameters_; }

    /// Counts the changes of configure(): what was derived from an older layout is stale.
    std::uint64_t layout() const { return layout_; }

    std::uint64_t step(std::size_t index) const {
        return static_cast<std::uint64_t>(counters_[index]);
    }
    void count_step(std::size_t index) { counters_[index] += 1; }

    /// Whether there is anything in each parameter's grad_sum.
    const std::vector<bool> &summed() const { return summed_; }
    bool summed(std::size_t index) const { return summed_[index]; }
    void set_summed(const std::vector<bool> &summed);
    void mark_summed(std::size_t index) { summed_[index] = true; }

private:
    Group(const py::object &nest, const std::string &root, const std::string &name,
          std::vector<Tree::Leaf> &&leaves);

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
