// A change of an optimizer: collected and checked first, while nothing is written, then carried out
// in one call that runs no Python code. So no interrupt and no lack of memory can leave half of it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "stepper.hpp"

namespace fused_rmsprop::bindings {

class Change {
public:
    /// Claims the optimizer until the change has been released.
    explicit Change(py::object stepper);

    // Each of these adds a part, or throws if it cannot be done, and keeps the objects alive.

    /// Takes options that were validated and need no state that is not there.
    void set_options(const py::object &group, const Options &options);
    /// Takes options with state: a list with one array per parameter of each kind, or None.
    void configure(const py::object &group, const Options &options,
                   const std::array<py::object, array_count> &state);
    /// Sets for each parameter whether its grad_sum holds anything.
    void set_summed(const py::object &group, std::vector<bool> summed);
    /// Sets for each parameter whether steps leave it alone.
    void set_frozen(const py::object &group, std::vector<bool> frozen);
    /// Adds groups; see NumpyStepper::exchange.
    void add(const py::list &groups, bool grouped);
    /// Takes over the settings and counters of a stepper.
    void take_settings(const py::object &from) {
        settings_ = {from, from.cast<const NumpyStepper *>()};
    }
    /// Copies one array's values into another of the same dtype and shape.
    void copy(const py::object &to, const py::object &from);
    /// Replaces values of a dict, whose keys are there already.
    void update(const py::dict &dict, const py::dict &entries);

    /// Writes everything. Throws only if an array has moved since it was added, before it writes.
    void commit();
    void release() { claim_.release(); }

private:
    struct Copy {
        py::object to, values; ///< in the same order
        void *data;            ///< of `to`
        std::size_t bytes;
    };
    struct Entry {
        py::dict dict;
        py::object key, value, old;
    };

    py::object stepper_object_;
    NumpyStepper &stepper_;
    Claim claim_;
    std::vector<std::pair<HeldGroup, Options>> options_;
    std::vector<std::pair<HeldGroup, std::vector<Parameter>>> states_;
    std::vector<std::pair<HeldGroup, std::vector<bool>>> summed_, frozen_;
    std::vector<HeldGroup> groups_;
    bool adds_ = false, grouped_ = false;
    py::object bound_ = py::none(); ///< gradients that are bound no longer
    std::pair<py::object, const NumpyStepper *> settings_ = {};
    std::vector<Copy> copies_;
    std::vector<Entry> entries_;
};

void register_change(py::module_ &m);

} // namespace fused_rmsprop::bindings
