"""
Sparse data
===========

In counts of words, a few words are in every text and most are in hardly any (Zipf's law: the word
of rank r is r times as rare as the first). The gradient of a rare word's weight is almost always
zero. Gradient descent sums up gradients, so a weight learns as much as its word is frequent.
AdaGrad was invented for such data: it divides by the root of the sum of all squares, which is small
for rare words. RMSProp divides by the root of the running mean, and does almost the same.

The model is logistic regression, on texts of 100 words out of 3000, drawn at random; every word has
a true weight. Each optimizer has the learning rate that is best for unseen texts.
All optimizers are from |optimizers.py|.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from optimizers import SGD, AdaGrad, RMSProp

TEXTS, WORDS = 2000, 3000
rng = np.random.default_rng(0)
share = 1 / np.arange(1, WORDS + 1)
true_weights = 0.5 * rng.standard_normal(WORDS)
counts = rng.multinomial(100, share / share.sum(), size=2 * TEXTS).astype(float)
labels = rng.random(2 * TEXTS) < 1 / (1 + np.exp(-counts @ true_weights))
train, test = slice(TEXTS), slice(TEXTS, None)


def learn(opt, epochs=5):
    """Return the weights and the mean log loss of unseen texts."""
    w, order = np.zeros(WORDS), np.random.default_rng(1)
    for _ in range(epochs):
        for batch in np.split(order.permutation(TEXTS), TEXTS // 50):
            x = counts[batch]
            w = opt.step(w, x.T @ (1 / (1 + np.exp(-x @ w)) - labels[batch]) / len(x))
    return w, np.mean(np.logaddexp(0, np.where(labels[test], -1, 1) * (counts[test] @ w)))


# %%
# The slope of the learned weights over the true ones is the share that was learned. It is computed
# for groups of words that are about equally frequent.
#
# In the rarest group SGD learns less than a tenth of what the others do, and the unseen texts pay
# for it. A word that is in most texts is learned by all three.

texts_with = (counts[train] > 0).sum(axis=0)
edges = np.geomspace(5, TEXTS + 1, 9)
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
slopes, losses = {}, {}
for opt, style in (SGD(0.02), "s--"), (AdaGrad(0.05), "^:"), (RMSProp(0.005, alpha=0.9), "o-"):
    name = type(opt).__name__
    w, losses[name] = learn(opt)
    bins = [(texts_with >= low) & (texts_with < high) for low, high in pairwise(edges)]
    slopes[name] = np.array([w[b] @ true_weights[b] / np.sum(true_weights[b] ** 2) for b in bins])
    color = {"SGD": "#D55E00", "AdaGrad": "black", "RMSProp": "#0072B2"}[name]
    label = f"{name}, lr={opt.lr}: log loss {losses[name]:.2f}"
    ax.loglog(np.sqrt(edges[1:] * edges[:-1]), slopes[name], style, color=color, label=label)
ax.set(xlabel=f"number of texts with the word, of {TEXTS}", ylabel="learned share of the weight")
ax.legend()
plt.show()
