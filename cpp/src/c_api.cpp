// The C interface: keeps what a step takes, and turns exceptions into codes and messages.

#include <fused_rmsprop/fused_rmsprop.h>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "c_names.hpp"
#include "exact_math.hpp"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>
#include <deque>
#include <new>
#include <ranges>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

using namespace fused_rmsprop;
using namespace fused_rmsprop::c_names;

struct fused_rmsprop_optimizer {
    std::deque<Options> groups{1}; // whose addresses stay
    std::vector<Tensor> parameters;
    Tuner tuner;
    Settings settings{{.threads = 0, .tuner = &tuner}, {}};
    StepResult result;
    std::atomic<int> claimed{0}; ///< by a process: 1 + its fork_generation()
};

namespace {

using Optimizer = fused_rmsprop_optimizer;

struct Busy {};

/// The call of one thread. In a forked child, a claim of the parent is void.
class Claim {
public:
    explicit Claim(Optimizer &optimizer) : claimed_(optimizer.claimed) {
        const int mine = 1 + fork_generation();
        int owner = 0;
        while (!claimed_.compare_exchange_weak(owner, mine, std::memory_order_acquire))
            if (owner == mine)
                throw Busy{};
    }
    ~Claim() { claimed_.store(0, std::memory_order_release); }
    Claim(const Claim &) = delete;

private:
    std::atomic<int> &claimed_;
};

thread_local char last_error[1024] = "";

int fail(int code, const char *message) noexcept {
    const std::size_t size = std::min(std::strlen(message), sizeof last_error - 1);
    std::memmove(last_error, message, size);
    last_error[size] = '\0';
    return code;
}

/// Calls `call(*optimizer)`, alone. Its result, if any, or the code of what it throws.
template <typename Call>
int guarded(Optimizer *optimizer, const Call &call) noexcept {
    try {
        if (optimizer == nullptr)
            refuse("the optimizer is NULL: make one with fused_rmsprop_create()");
        const Claim claim(*optimizer);
        if constexpr (std::is_void_v<decltype(call(*optimizer))>)
            return call(*optimizer), FUSED_RMSPROP_OK;
        else
            return call(*optimizer);
    } catch (const Busy &) {
        return fail(FUSED_RMSPROP_BUSY, "this optimizer is in the middle of another call: call "
                                        "it from one thread at a time");
    } catch (const std::invalid_argument &error) {
        return fail(FUSED_RMSPROP_INVALID_ARGUMENT, error.what());
    } catch (const std::bad_alloc &) {
        return fail(FUSED_RMSPROP_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception &error) {
        return fail(FUSED_RMSPROP_INTERNAL_ERROR, error.what());
    } catch (...) {
        return fail(FUSED_RMSPROP_INTERNAL_ERROR, "an exception of unknown type");
    }
}

/// The index of what is appended to `items`.
template <typename Items, typename... Arguments>
int append(Items &items, const char *what, Arguments &&...arguments) {
    if (items.size() == INT_MAX)
        refuse(std::string("there are too many ") + what + "s");
    items.emplace_back(std::forward<Arguments>(arguments)...);
    return static_cast<int>(items.size() - 1);
}

template <typename Items>
auto &at(Items &items, int index, const char *what) {
    if (index < 0 || static_cast<std::size_t>(index) >= items.size())
        refuse("there is no " + std::string(what) + " " + std::to_string(index) +
               ": the optimizer has " + std::to_string(items.size()) + "; fused_rmsprop_add_" +
               what + "() returned the index");
    return items[static_cast<std::size_t>(index)];
}

template <typename T>
T &needed(T *out) {
    if (out == nullptr)
        refuse("the pointer to the result is NULL");
    return *out;
}

double get_value(const Optimizer &optimizer, const char *name) {
    if (const Setting *setting = find(known_settings, name))
        return setting->get(optimizer.settings);
    if (const Result *result = find(results, name))
        return result->get(optimizer.result);
    refuse_name("setting or result", name, "", known_settings, results);
}

void bind(Tensor &tensor, int index, const char *name, void *array) {
    const std::string_view wanted = read_name(name);
    if (reinterpret_cast<std::uintptr_t>(array) % item_size(tensor.dtype) != 0)
        refuse("parameter " + std::to_string(index) + ": " + name +
               " is not aligned to its element type");
    if (wanted == "grad") {
        tensor.grad = array;
        return;
    }
    if (wanted == "param") {
        tensor.param = array;
        return;
    }
    for (const StateKind &kind : state_kinds)
        if (wanted == kind.name || wanted == kind.name_if_centered) {
            tensor.*kind.array = array;
            return;
        }
    refuse_name("array", name, "param, grad, variance", state_kinds);
}

/// Throws an error that says which group or parameter a step was refused for, and how to mend it.
void explain_refusal(const Optimizer &optimizer) {
    for (std::size_t i = 0; i < optimizer.parameters.size(); ++i) {
        const Tensor &t = optimizer.parameters[i];
        if (t.bytes_to_step() == 0)
            continue;
        const auto require = [&](const void *array, const char *name, const std::string &why) {
            if (array == nullptr)
                refuse("parameter " + std::to_string(i) + " has no " + name + why +
                       ": fused_rmsprop_bind(optimizer, " + std::to_string(i) + ", \"" + name +
                       "\", array)");
        };
        require(t.param, "param", "");
        for (const StateKind &kind : state_kinds)
            if (kind.needed(*t.options))
                require(t.*kind.array, name_of(kind, *t.options),
                        std::string(", which ") + kind.needed_by + " needs and which begins as " +
                            kind.start);
        try {
            validate(*t.options, t.dtype, optimizer.settings.flush_denormals);
        } catch (const std::invalid_argument &error) {
            refuse("parameter " + std::to_string(i) + ": " + error.what());
        }
    }
}

int make_step(Optimizer &optimizer) {
    if (std::ranges::all_of(optimizer.parameters, [](auto &p) { return p.grad == nullptr; }))
        refuse("no parameter has a gradient: fused_rmsprop_bind(optimizer, parameter, \"grad\", "
               "array)");
    try {
        optimizer.result = step(optimizer.parameters, optimizer.settings, optimizer.settings);
    } catch (const std::invalid_argument &) {
        explain_refusal(optimizer);
        throw;
    }
    if (optimizer.result.skipped)
        return FUSED_RMSPROP_SKIPPED;
    for (Tensor &tensor : optimizer.parameters)
        tensor.step += tensor.grad != nullptr;
    return FUSED_RMSPROP_OK;
}

} // namespace

int fused_rmsprop_abi_version(void) { return FUSED_RMSPROP_ABI_VERSION; }

const char *fused_rmsprop_version(void) { return version(); }

const char *fused_rmsprop_last_error(void) { return last_error; }

fused_rmsprop_optimizer *fused_rmsprop_create(void) {
    try {
        return new Optimizer;
    } catch (...) {
        fail(FUSED_RMSPROP_OUT_OF_MEMORY, "out of memory");
        return nullptr;
    }
}

void fused_rmsprop_destroy(fused_rmsprop_optimizer *optimizer) { delete optimizer; }

int fused_rmsprop_add_group(fused_rmsprop_optimizer *optimizer) {
    return guarded(optimizer, [](Optimizer &o) { return append(o.groups, "group", o.groups[0]); });
}

int fused_rmsprop_set_option(fused_rmsprop_optimizer *optimizer, int group, const char *name,
                             double value) {
    return guarded(optimizer, [=](Optimizer &o) {
        Options &options = at(o.groups, group, "group");
        const bool stepped = std::ranges::any_of(o.parameters, [&](const Tensor &parameter) {
            return parameter.options == &options && parameter.step > 0;
        });
        set_option(options, name, value, stepped);
    });
}

int fused_rmsprop_get_option(fused_rmsprop_optimizer *optimizer, int group, const char *name,
                             double *value) {
    return guarded(optimizer, [=](Optimizer &o) {
        needed(value) = get_option(at(o.groups, group, "group"), name);
    });
}

int fused_rmsprop_add_parameter(fused_rmsprop_optimizer *optimizer, int group, int dtype,
                                size_t size) {
    return guarded(optimizer, [=](Optimizer &o) {
        Tensor tensor;
        tensor.options = &at(o.groups, group, "group");
        if (dtype != FUSED_RMSPROP_FLOAT32 && dtype != FUSED_RMSPROP_FLOAT64)
            refuse("dtype must be FUSED_RMSPROP_FLOAT32 or FUSED_RMSPROP_FLOAT64, got " +
                   std::to_string(dtype));
        tensor.dtype = DType(dtype);
        if (size > PTRDIFF_MAX / item_size(tensor.dtype))
            refuse("no array has " + std::to_string(size) + " elements");
        tensor.size = size;
        return append(o.parameters, "parameter", tensor);
    });
}

int fused_rmsprop_bind(fused_rmsprop_optimizer *optimizer, int parameter, const char *name,
                       void *array) {
    return guarded(optimizer, [=](Optimizer &o) {
        bind(at(o.parameters, parameter, "parameter"), parameter, name, array);
    });
}

int fused_rmsprop_set_steps(fused_rmsprop_optimizer *optimizer, int parameter, uint64_t steps) {
    return guarded(optimizer, [=](Optimizer &o) {
        if (steps > std::uint64_t{1} << 53) // as in Python
            refuse("no training makes " + std::to_string(steps) + " steps; at most 2^53 count");
        at(o.parameters, parameter, "parameter").step = steps;
    });
}

int fused_rmsprop_get_steps(fused_rmsprop_optimizer *optimizer, int parameter, uint64_t *steps) {
    return guarded(optimizer, [=](Optimizer &o) {
        needed(steps) = at(o.parameters, parameter, "parameter").step;
    });
}

int fused_rmsprop_set(fused_rmsprop_optimizer *optimizer, const char *name, double value) {
    return guarded(optimizer, [=](Optimizer &o) { set_setting(o.settings, name, value); });
}

int fused_rmsprop_get(fused_rmsprop_optimizer *optimizer, const char *name, double *value) {
    return guarded(optimizer, [=](Optimizer &o) { needed(value) = get_value(o, name); });
}

int fused_rmsprop_step(fused_rmsprop_optimizer *optimizer) { return guarded(optimizer, make_step); }
