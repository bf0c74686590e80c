// All loops for one instruction set. kernels.cpp includes this file once for each.

#include "gradients.inl"
#include "update.inl"

namespace {

template <typename T>
constexpr Kernels<T> all{select<T>, average<T>, limit<T>, add_squares<T>, add<T>};

} // namespace
