"""The optimizers of the gallery, each as its published formula, in float64 NumPy.

``opt = Adam(lr=0.01)``, then ``x = opt.step(x, grad)``: a step returns the new parameters and
leaves ``x`` as it was. The state starts at zero and lies in the object. ``lr`` may change between
steps. One object trains one array.
"""

import numpy as np

import fused_rmsprop


class SGD:
    """Gradient descent. H. Robbins and S. Monro, 1951, doi:10.1214/aoms/1177729586."""

    def __init__(self, lr):
        self.lr = lr

    def step(self, x, grad):
        return x - self.lr * grad


class Momentum:
    """A velocity ``b`` sums up gradients. B. Polyak, 1964, doi:10.1016/0041-5553(64)90137-5."""

    def __init__(self, lr, momentum=0.9):
        self.lr, self.momentum = lr, momentum
        self.b = 0.0

    def step(self, x, grad):
        self.b = self.momentum * self.b + grad
        return x - self.lr * self.b


class Nesterov(Momentum):
    """The velocity one step ahead. I. Sutskever et al., ICML 2013, after Y. Nesterov, 1983."""

    def step(self, x, grad):
        self.b = self.momentum * self.b + grad
        return x - self.lr * (grad + self.momentum * self.b)


class AdaGrad:
    """Divide by the root of the sum of all squares. J. Duchi et al., JMLR 12, 2011."""

    def __init__(self, lr, eps=1e-10):
        self.lr, self.eps = lr, eps
        self.sum = 0.0

    def step(self, x, grad):
        self.sum = self.sum + grad**2
        return x - self.lr * grad / (np.sqrt(self.sum) + self.eps)


class Adadelta:
    """Steps in the units of ``x``, from an average ``u`` of squared steps. M. Zeiler, 2012.

    arXiv:1212.5701, algorithm 1, which has no learning rate: ``lr=1``.
    """

    def __init__(self, lr=1.0, rho=0.95, eps=1e-6):
        self.lr, self.rho, self.eps = lr, rho, eps
        self.v = self.u = 0.0

    def step(self, x, grad):
        self.v = self.rho * self.v + (1 - self.rho) * grad**2
        delta = np.sqrt(self.u + self.eps) / np.sqrt(self.v + self.eps) * grad
        self.u = self.rho * self.u + (1 - self.rho) * delta**2
        return x - self.lr * delta


class RMSProp:
    """The package's class, called like the others. T. Tieleman and G. Hinton, lecture 6.5, 2012.

    It takes all options of `fused_rmsprop.RMSProp`: ``momentum``, ``nesterov``, ``centered``, ...
    """

    def __init__(self, lr, alpha=0.9, **options):
        self.lr = lr
        self.options = {"alpha": alpha, **options}
        self.opt = None

    def step(self, x, grad):
        if self.opt is None:
            self.x = np.array(x, float)  # the package updates its array in place
            self.opt = fused_rmsprop.RMSProp(self.x, lr=self.lr, **self.options)
        self.x[...] = x
        self.opt.lr = self.lr
        self.opt.step(grad)
        return self.x.copy()


class Adam:
    """RMSProp of an averaged gradient, with bias correction. D. Kingma and J. Ba, 2015.

    arXiv:1412.6980, algorithm 1.
    """

    def __init__(self, lr, betas=(0.9, 0.999), eps=1e-8):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, x, grad):
        beta1, beta2 = self.betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * grad
        self.v = beta2 * self.v + (1 - beta2) * grad**2
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = self.v / (1 - beta2**self.t)
        return x - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay. I. Loshchilov and F. Hutter, 2019, arXiv:1711.05101."""

    def __init__(self, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(lr, betas, eps)
        self.weight_decay = weight_decay

    def step(self, x, grad):
        return super().step(x, grad) - self.lr * self.weight_decay * x
