// What the C interface calls by name: options, settings and results, from tables.
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "team.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace fused_rmsprop::c_names {

inline constexpr double none = std::numeric_limits<double>::quiet_NaN();

struct Settings : Execution, GradientTransform {};

[[noreturn]] inline void refuse(const std::string &message) {
    throw std::invalid_argument(message);
}

inline std::string_view read_name(const char *name) {
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

inline void require_whole(const char *name, double value, int most) {
    if (!(value >= 0 && value <= most && value == std::floor(value)))
        refuse(name + std::string(" must be ") +
               (most == 1 ? "0 or 1" : "a whole number from 0 to " + std::to_string(most)));
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

inline constexpr Setting known_settings[] = {
    setting<&Settings::threads>("threads", 0, most_threads),
    setting<&Settings::flush_denormals>("flush_denormals", 1, 1),
    setting<&Settings::grad_scale>("grad_scale", 1, 0),
    limit<&Settings::max_grad_value>("max_grad_value"),
    limit<&Settings::max_grad_norm_per_array>("max_grad_norm_per_array"),
    limit<&Settings::max_grad_norm>("max_grad_norm"),
    setting<&Settings::on_nonfinite>("on_nonfinite", 0, 2),
};

/// Flags that give the state its meaning.
inline constexpr bool Options::*fixed_flags[] = {&Options::centered, &Options::lr_in_momentum,
                                                 &Options::bias_correction};

/// Sets an option; `stepped`: a step was made with these options.
inline void set_option(Options &options, const char *name, double value, bool stepped) {
    if (const auto *flag = find(flag_options, name)) {
        require_whole(name, value, 1);
        if (stepped && options.*flag->member != (value != 0) &&
            std::ranges::find(fixed_flags, flag->member) != std::end(fixed_flags))
            refuse(std::string(name) + " is fixed once a parameter of the group has made a step, "
                                       "because it gives the state its meaning: set it before, or "
                                       "in a new optimizer");
        options.*flag->member = value != 0;
    } else if (const auto *number = find(number_options, name)) {
        Options alone; // what options need of each other, a step checks
        alone.*number->member = value;
        validate(alone, DType::float64, false);
        options.*number->member = value;
    } else if (find(known_settings, name) != nullptr) {
        refuse(std::string(name) +
               " is a setting of the whole optimizer: "
               "fused_rmsprop_set(optimizer, \"" +
               name + "\", value)");
    } else {
        refuse_name("option", name, "", number_options, flag_options);
    }
}

inline double get_option(const Options &options, const char *name) {
    if (const auto *flag = find(flag_options, name))
        return options.*flag->member ? 1 : 0;
    if (const auto *number = find(number_options, name))
        return options.*number->member;
    refuse_name("option", name, "", number_options, flag_options);
}

struct Result {
    const char *name;
    double (*get)(const StepResult &);
};

inline constexpr Result results[] = {
    {"grad_norm", [](const StepResult &r) { return r.grad_norm.value_or(none); }},
    {"nonfinite",
     [](const StepResult &r) { return r.nonfinite == no_tensor ? -1 : double(r.nonfinite); }},
    {"threads_used", [](const StepResult &r) { return double(r.threads); }},
};

inline void set_setting(Settings &settings, const char *name, double value) {
    const Setting *setting = find(known_settings, name);
    if (setting == nullptr && (find(number_options, name) || find(flag_options, name)))
        refuse(std::string(name) +
               " is an option of a group: "
               "fused_rmsprop_set_option(optimizer, group, \"" +
               name + "\", value)");
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

} // namespace fused_rmsprop::c_names
