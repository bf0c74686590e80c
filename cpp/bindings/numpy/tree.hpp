// Nested sequences and mappings: remembers the structure of the parameters and reads gradients of
// the same structure. Knows containers; of their leaves only which are arrays.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "../garbage.hpp"

namespace fused_rmsprop::bindings {

namespace py = pybind11;

class Tree {
public:
    struct Leaf {
        py::object value;
        std::string path; ///< as one writes it in Python: ['layer1']['W']
        py::str name;     ///< joined by dots: layer1.W
    };

    Tree() = default;

    /// Reads the structure of `nest`; appends its leaves to `leaves`. None is not a leaf.
    /// `name` and `path` are put in front of every leaf's.
    Tree(py::handle nest, const py::str &name, std::vector<Leaf> &leaves, std::string path = {},
         int depth = 0);

    /// Appends the leaves of `nest`, in the order of construction, to `out`, an empty object for
    /// each that is None and a NumPy array for each array of another library; those cannot be
    /// `bound`. Throws a ValueError that begins with `root` and the path to where the structure
    /// differs.
    void flatten(py::handle nest, const std::string &root, std::vector<py::object> &out,
                 bool bound) const;

    /// Throws a ValueError, naming the first, if a leaf of `nest` is another object than that at
    /// its place in `leaves`, from `next` on.
    void check_unchanged(py::handle nest, const std::string &root,
                         const std::vector<py::handle> &leaves, std::size_t &next) const;

    void traverse(Visitor &visit) const {
        visit.each(keys_);
        for (const Tree &child : children_)
            child.traverse(visit);
    }

private:
    enum class Kind { leaf, none, sequence, dict };

    void flatten_sequence(py::handle nest, const std::string &root, std::vector<py::object> &out,
                          bool bound) const;
    void flatten_dict(py::handle nest, const std::string &root, std::vector<py::object> &out,
                      bool bound) const;

    Kind kind_ = Kind::leaf;
    std::string path_;
    std::size_t leaf_count_ = 0;
    std::vector<py::object> keys_;
    std::vector<Tree> children_;
};

} // namespace fused_rmsprop::bindings
