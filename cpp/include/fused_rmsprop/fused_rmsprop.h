/* The public C interface, for C99 and for every language that calls C functions: one RMSProp step
 * over any number of arrays, in place, in one pass. The C++ interface is fused_rmsprop.hpp.
 *
 * An optimizer holds options, settings, step counts and pointers. All arrays, the state too, are
 * the caller's. Options, settings, results and arrays have names, so that new ones change neither
 * a function nor a constant here.
 *
 * Every function that returns an int returns a negative number for an error, and has then changed
 * nothing; fused_rmsprop_last_error() says what is wrong. */
#ifndef FUSED_RMSPROP_H
#define FUSED_RMSPROP_H

#include <stddef.h>
#include <stdint.h>

/** Grows when a function or constant is removed or changes its meaning, not for additions. */
#define FUSED_RMSPROP_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__) && !defined(_WIN32) /* a DLL exports all; callers need no dllimport */
#pragma GCC visibility push(default)
#endif

/** What a function returns. */
enum {
    FUSED_RMSPROP_OK = 0,
    FUSED_RMSPROP_SKIPPED = 1, /**< a gradient is not finite: the step has changed nothing */
    FUSED_RMSPROP_INVALID_ARGUMENT = -1,
    FUSED_RMSPROP_OUT_OF_MEMORY = -2,
    FUSED_RMSPROP_BUSY = -3, /**< another call, of another thread, uses this optimizer */
    FUSED_RMSPROP_INTERNAL_ERROR = -4
};

/** The element type of an array. */
enum { FUSED_RMSPROP_FLOAT32 = 0, FUSED_RMSPROP_FLOAT64 = 1 };

/** Values of the setting "on_nonfinite": IEEE 754 decides; the step is skipped; it is skipped if
 * clipping by "max_grad_norm" would carry a NaN or an infinity to all arrays. */
enum { FUSED_RMSPROP_PROPAGATE = 0, FUSED_RMSPROP_SKIP = 1, FUSED_RMSPROP_SKIP_IF_IT_SPREADS = 2 };

typedef struct fused_rmsprop_optimizer fused_rmsprop_optimizer;

/** FUSED_RMSPROP_ABI_VERSION of the library that is loaded. A program that finds the library when
 * it runs should compare the two. */
int fused_rmsprop_abi_version(void);

/** The version of the library, as in "1.2.3". */
const char *fused_rmsprop_version(void);

/** The message of the last error in this thread, "" before the first; valid until the next. */
const char *fused_rmsprop_last_error(void);

/** A new optimizer without parameters, whose group 0 has the default options; NULL if there is no
 * memory. */
fused_rmsprop_optimizer *fused_rmsprop_create(void);

/** Frees an optimizer that no call is using, but none of its arrays. NULL is allowed. */
void fused_rmsprop_destroy(fused_rmsprop_optimizer *optimizer);

/** Adds a group with a copy of the options of group 0. Returns its index, or an error. */
int fused_rmsprop_add_group(fused_rmsprop_optimizer *optimizer);

/** Sets an option of a group: "lr", "alpha", "eps", "weight_decay", "momentum", "ema_decay", or,
 * as 0 or 1, "centered", "nesterov", "maximize", "eps_inside_sqrt", "lr_in_momentum",
 * "decoupled_weight_decay", "bias_correction".
 *
 * Once a parameter of the group has made a step, "centered", "lr_in_momentum" and "bias_correction"
 * are fixed: they give the state its meaning. With "centered", the corrected variance of the first
 * step is 0, so that "bias_correction" makes it lr * grad / eps. */
int fused_rmsprop_set_option(fused_rmsprop_optimizer *optimizer, int group, const char *name,
                             double value);

/** Reads an option of a group. */
int fused_rmsprop_get_option(fused_rmsprop_optimizer *optimizer, int group, const char *name,
                             double *value);

/** Adds a parameter of `size` elements of FUSED_RMSPROP_FLOAT32 or FUSED_RMSPROP_FLOAT64, which
 * has no arrays yet. Returns its index, or an error. */
int fused_rmsprop_add_parameter(fused_rmsprop_optimizer *optimizer, int group, int dtype,
                                size_t size);

/** Binds an array of a parameter, which every step then uses: "param", "grad", and the state that
 * the options need: "square_avg" always (with centered it holds the variance, and "variance" names
 * it too), "momentum_buffer" for momentum, "grad_avg" for centered, "param_avg" for ema_decay.
 *
 * State begins as zeros, param_avg as a copy of the parameter. "grad" is only read; while it is
 * NULL, steps leave the parameter and its state alone. No array may overlap another that steps
 * write. NULL unbinds. */
int fused_rmsprop_bind(fused_rmsprop_optimizer *optimizer, int parameter, const char *name,
                       void *array);

/** Sets the number of steps that a parameter has made, at most 2^53, say of a training that is
 * resumed. It matters to the option bias_correction. */
int fused_rmsprop_set_steps(fused_rmsprop_optimizer *optimizer, int parameter, uint64_t steps);

/** Reads the number of steps that a parameter has made. */
int fused_rmsprop_get_steps(fused_rmsprop_optimizer *optimizer, int parameter, uint64_t *steps);

/** Sets a setting; NAN restores its default:
 *
 * - "threads": 0 to 1024; the default 0 takes one thread or all, whichever is measured to be
 *   faster in the loop around the step
 * - "flush_denormals": 0 or 1 (default): subnormal numbers count as zero
 * - "grad_scale": factor of the gradients, by default 1
 * - "max_grad_value", "max_grad_norm_per_array", "max_grad_norm": >= 0; by default none
 * - "on_nonfinite": FUSED_RMSPROP_PROPAGATE (default), ... */
int fused_rmsprop_set(fused_rmsprop_optimizer *optimizer, const char *name, double value);

/** Reads a setting, or a result of the last step that was made or skipped: "grad_norm" before
 * clipping (NaN: not needed, and not measured), "nonfinite", the index of the first parameter whose
 * gradient is not finite or would make the step overflow (-1: none, or not looked for), and
 * "threads_used". A limit that is not set is NaN. */
int fused_rmsprop_get(fused_rmsprop_optimizer *optimizer, const char *name, double *value);

/** Makes one step of all parameters that have a gradient: FUSED_RMSPROP_OK,
 * FUSED_RMSPROP_SKIPPED, or an error, also if none has one. All but overlap is checked before the
 * first write.
 *
 * Bit for bit the same result for every instruction set, number of threads and alignment. The
 * caller's floating-point environment neither matters nor changes. */
int fused_rmsprop_step(fused_rmsprop_optimizer *optimizer);

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
