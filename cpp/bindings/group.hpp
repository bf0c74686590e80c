// A parameter group: arrays that share options, each with its state, held alive and checked.
// It keeps what Python gives it; it allocates no state and decides nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "tree.hpp"

namespace fused_rmsprop::bindings {

struct Parameter {
    std::string what; ///< as errors call it: params['layer1']['W']
    std::string path; ///< the part of it behind the root: ['layer1']['W']
    std::string name; ///< as users look it up: layer1.W
    py::array array;
    Fingerprint as_given; ///< of the array, at construction
    py::object square_avg = py::none(), momentum_buffer = py::none(), grad_avg = py::none();
    /// What errors call those: the same with the name of the state behind it.
    std::string square_avg_what = {}, momentum_buffer_what = {}, grad_avg_what = {};
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

    /// Takes options and state together; on an error nothing has changed. A state is a list with
    /// one array per parameter, or None where the options do not need it.
    void configure(const Options &options, const py::list &square_avg,
                   const py::object &momentum_buffer, const py::object &grad_avg);

    const Options &options() const { return options_; }
    const Tree &tree() const { return tree_; }
    const std::vector<Parameter> &parameters() const { return parameters_; }

    /// Counts the changes of configure(): what was derived from an older layout is stale.
    std::uint64_t layout() const { return layout_; }

    void count_step(std::size_t index) { counters_[index] += 1; }

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
    Options options_;
    std::uint64_t layout_ = 0;
};

} // namespace fused_rmsprop::bindings
