# cython: language_level=3
"""A training loop in Cython, without the GIL."""

cdef extern from "fused_rmsprop/fused_rmsprop.h":
    ctypedef struct fused_rmsprop_optimizer:
        pass
    int FUSED_RMSPROP_FLOAT32
    const char *fused_rmsprop_last_error() nogil
    fused_rmsprop_optimizer *fused_rmsprop_create() nogil
    void fused_rmsprop_destroy(fused_rmsprop_optimizer *) nogil
    int fused_rmsprop_set_option(fused_rmsprop_optimizer *, int, const char *, double) nogil
    int fused_rmsprop_add_parameter(fused_rmsprop_optimizer *, int, int, size_t) nogil
    int fused_rmsprop_bind(fused_rmsprop_optimizer *, int, const char *, void *) nogil
    int fused_rmsprop_step(fused_rmsprop_optimizer *) nogil


def train(float[::1] param, float[::1] grad, float[::1] square_avg, double lr, int batches):
    """Minimize sum(param**2) / 2 in place."""
    cdef Py_ssize_t i, size = param.shape[0]
    cdef int code = 0
    if size == 0 or grad.shape[0] != size or square_avg.shape[0] != size:
        raise ValueError("the arrays must have elements, and equally many")
    opt = fused_rmsprop_create()
    with nogil:
        if (
            fused_rmsprop_set_option(opt, 0, "lr", lr) < 0
            or fused_rmsprop_add_parameter(opt, 0, FUSED_RMSPROP_FLOAT32, size) < 0
            or fused_rmsprop_bind(opt, 0, "param", &param[0]) < 0
            or fused_rmsprop_bind(opt, 0, "grad", &grad[0]) < 0
            or fused_rmsprop_bind(opt, 0, "square_avg", &square_avg[0]) < 0
        ):
            code = -1
        for _ in range(batches if code == 0 else 0):
            for i in range(size):
                grad[i] = param[i]
            code = fused_rmsprop_step(opt)
            if code < 0:
                break
    fused_rmsprop_destroy(opt)
    if code < 0:
        raise ValueError(fused_rmsprop_last_error().decode())
