"""
The observation window
======================

RMSProp forgets. Its average ``v`` weights the squared gradient from ``k`` steps ago by
``(1 - alpha) * alpha**k``. The last ``1 / (1 - alpha)`` gradients, the window, have about two
thirds of the weight: 70 % for ``alpha=0.7``, 65 % for 0.9, 63 % for 0.99. AdaGrad adds up all
squares and never forgets. AdaGrad is from |optimizers.py|.
"""

import matplotlib.pyplot as plt
import numpy as np

from fused_rmsprop import RMSProp

from optimizers import AdaGrad

lines = {
    0.7: {"color": "#E69F00", "linestyle": "-", "linewidth": 1},
    0.9: {"color": "#0072B2", "linestyle": "-", "linewidth": 2},
    0.99: {"color": "black", "linestyle": "--", "linewidth": 2},
}
ages = np.arange(40)
share_in_window = {alpha: 1 - alpha ** (1 / (1 - alpha)) for alpha in lines}

# %%
# Random gradients become ten times as large at step 100, and small again at step 200. We read the
# divisor of the gradient from the state of the optimizers.

size = np.ones(500)
size[100:200] = 10.0
grads = size * np.random.default_rng(0).standard_normal(500)

divisors = {}
for alpha in lines:
    opt = RMSProp(np.zeros(1), alpha=alpha)
    divisors[alpha] = np.empty(500)
    for step, grad in enumerate(grads):
        opt.step(np.array([grad]))
        divisors[alpha][step] = np.sqrt(opt.state["param"]["square_avg"][0])

adagrad, x = AdaGrad(lr=0.01), 0.0
divisors["AdaGrad"] = np.empty(500)
for step, grad in enumerate(grads):
    x = adagrad.step(x, grad)
    divisors["AdaGrad"][step] = np.sqrt(adagrad.sum)

# %%
# A short window follows the gradients soon but is noisy; a long one is steady but slow, above all
# on the way down, because large squares outweigh small ones. AdaGrad's divisor only grows: its
# steps stay small long after the gradients have become small again.

fig, (top, bottom) = plt.subplots(2, figsize=(7, 5.8), layout="constrained")
for alpha, line in lines.items():
    top.plot(ages, (1 - alpha) * alpha**ages, **line, label=f"alpha = {alpha}")
    bottom.plot(divisors[alpha], **line)
top.set(title="Weights in v", xlabel="age of the gradient in steps", ylabel="weight", xlim=(0, 39))
top.legend()

bottom.plot(divisors["AdaGrad"], color="#D55E00", linestyle="-.", linewidth=2)
bottom.text(490, 120, "AdaGrad: root of the sum", ha="right", va="bottom")
bottom.fill_between(range(500), size, color="0.88")
bottom.text(250, 0.35, "size of the gradients", ha="center", va="center")
bottom.text(490, 7, r"RMSProp: $\sqrt{v}$", ha="right")
bottom.set(title="The divisor of the gradient", xlabel="step", yscale="log")
bottom.set(xlim=(0, 500), ylim=(0.2, 300))
plt.show()
