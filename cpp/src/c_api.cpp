// The C interface: keeps what a step takes, and turns exceptions into codes and messages.

#include <fused_rmsprop/fused_rmsprop.h>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <new>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

using namespace fused_rmsprop;

namespace {

struct Settings : Execution, GradientTransform {};

} // namespace

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
constexpr double none = std::numeric_limits<double>::quiet_NaN();

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

[[noreturn]] void refuse(const std::string &message) { throw std::invalid_argument(message); }

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

std::string_view read_name(const char *name) {
    if (name == nullptr)
        refuse("the name is NULL");
    return name;
}

/// The entry of this name in a table, or nullptr.
template <typename Entry, std::size_t count>
const Entry *find(const Entry (&table)[count], const char *name) {
    const auto *found = std::ranges::find(table, read_name(name), &Entry::name);
    return found == std::end(table) ? nullptr : found;
}

template <typename... Tables>
[[noreturn]] void refuse_name(const char *what, const char *name, std::string known,
                              const Tables &...tables) {
    const auto add = [&](const auto &table) {
        for (const auto &entry : table)
            known += (known.empty() ? "" : ", ") + std::string(entry.name);
    };
    (add(tables), ...);
    refuse("there is no " + std::string(what) + " '" + name + "'; there are " + known);
}

void require_whole(const char *name, double value, int most) {
    if (!(value >= 0 && value <= most && value == std::floor(value)))
        refuse(name + std::string(" must be ") +
               (most == 1 ? "0 or 1" : "a whole number from 0 to " + std::to_string(most)));
}

void set_option(Options &options, const char *name, double value) {
    if (const auto *flag = find(flag_options, name)) {
        require_whole(name, value, 1);
        options.*flag->member = value != 0;
    } else if (const auto *number = find(number_options, name)) {
        Options alone; // what options need of each other, a step checks
        alone.*number->member = value;
        validate(alone, DType::float64, false);
        options.*number->member = value;
    } else {
        refuse_name("option", name, "", number_options, flag_options);
    }
}

double get_option(const Options &options, const char *name) {
    if (const auto *flag = find(flag_options, name))
        return options.*flag->member ? 1 : 0;
    if (const auto *number = find(number_options, name))
        return options.*number->member;
    refuse_name("option", name, "", number_options, flag_options);
}

struct Setting {
    const char *name;
    double initial;
    int most; ///< a whole number from 0 to this; 0: any number
    double (*get)(const Settings &);
    void (*set)(Settings &, double);
};

template <auto member>
constexpr Setting setting(const char *name, double initial, int most) {
    return {name, initial, most,
            [](const Settings &settings) { return static_cast<double>(settings.*member); },
            [](Settings &settings, double value) {
                auto &place = settings.*member;
                place = static_cast<std::decay_t<decltype(place)>>(value);
            }};
}

template <auto member>
constexpr Setting limit(const char *name) {
    return {name, none, 0,
            [](const Settings &settings) { return (settings.*member).value_or(none); },
            [](Settings &settings, double value) {
                settings.*member = std::isnan(value) ? std::nullopt : std::optional(value);
            }};
}

constexpr Setting known_settings[] = {
    setting<&Settings::threads>("threads", 0, most_threads),
    setting<&Settings::flush_denormals>("flush_denormals", 1, 1),
    setting<&Settings::grad_scale>("grad_scale", 1, 0),
    limit<&Settings::max_grad_value>("max_grad_value"),
    limit<&Settings::max_grad_norm_per_array>("max_grad_norm_per_array"),
    limit<&Settings::max_grad_norm>("max_grad_norm"),
    setting<&Settings::on_nonfinite>("on_nonfinite", 0, 2),
};

struct Result {
    const char *name;
    double (*get)(const StepResult &);
};

constexpr Result results[] = {
    {"grad_norm", [](const StepResult &r) { return r.grad_norm.value_or(none); }},
    {"nonfinite",
     [](const StepResult &r) { return r.nonfinite == no_tensor ? -1 : double(r.nonfinite); }},
    {"threads_used", [](const StepResult &r) { return double(r.threads); }},
};

void set_setting(Settings &settings, const char *name, double value) {
    const Setting *setting = find(known_settings, name);
    if (setting == nullptr)
        refuse_name("setting", name, "", known_settings);
    if (std::isnan(value))
        value = setting->initial;
    if (setting->most > 0)
        require_whole(name, value, setting->most);
    Settings changed = settings;
    setting->set(changed, value);
    validate(static_cast<const GradientTransform &>(changed), DType::float64);
    settings = changed;
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
    return guarded(optimizer,
                   [=](Optimizer &o) { set_option(at(o.groups, group, "group"), name, value); });
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
