"""REINFORCE on the cart-pole in pure NumPy: dynamics, policy and policy gradient.

Dynamics: Barto, Sutton and Anderson (IEEE Trans. SMC 13, 1983). Policy gradient: Williams
(Machine Learning 8, 1992).
"""

import numpy as np

from fused_rmsprop import RMSProp

LIMIT = 200  # the maximum length of an episode


def push(state, right):
    """Push many carts to the right or left with 10 N and return their states after 20 ms."""
    _, speed, angle, spin = state.T
    force = np.where(right, 10.0, -10.0)
    sin, cos = np.sin(angle), np.cos(angle)
    pushed = (force + 0.05 * spin**2 * sin) / 1.1  # masses: pole 0.1, cart 1.0; half length 0.5
    spin_rate = (9.8 * sin - cos * pushed) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    rate = pushed - 0.05 * spin_rate * cos / 1.1
    return state + 0.02 * np.stack([speed, rate, spin, spin_rate], axis=1)


def policy(params, states):
    """Return the probability of pushing to the right, and the hidden layer."""
    hidden = np.tanh(states @ params["W"] + params["b"])
    return 1 / (1 + np.exp(-(hidden @ params["out"]))), hidden


def play(params, rng, episodes):
    """Play episodes in parallel; return states, actions and a mask of running episodes."""
    state = rng.uniform(-0.05, 0.05, (episodes, 4))
    running = np.ones(episodes, bool)
    states, actions, alive = [], [], []
    while running.any() and len(states) < LIMIT:
        right = rng.random(episodes) < policy(params, state)[0]
        states.append(state)
        actions.append(right)
        alive.append(running)
        state = np.where(running[:, None], push(state, right), state)
        running = running & (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < np.radians(12))
    return np.array(states), np.array(actions), np.array(alive)


def gradients(params, states, actions, alive):
    """Estimate the gradients of the expected episode length."""
    returns = np.zeros(alive.shape)
    ahead = np.zeros(alive.shape[1])
    for t in reversed(range(len(alive))):
        returns[t] = ahead = alive[t] + 0.99 * ahead  # the reward is 1 per step
    baseline = (returns * alive).sum(1, keepdims=True) / alive.sum(1, keepdims=True)
    advantage = (returns - baseline)[alive] / (returns[alive].std() + 1e-8)

    p, hidden = policy(params, states[alive])
    logit = (actions[alive] - p) * advantage / len(p)
    below = np.outer(logit, params["out"]) * (1 - hidden**2)
    return {"W": states[alive].T @ below, "b": below.sum(0), "out": hidden.T @ logit}


def main(updates=60, episodes=32, seed=0):
    """Train the policy and return the mean number of steps (at most 200) the pole stays up."""
    rng = np.random.default_rng(seed)
    params = {"W": rng.standard_normal((4, 16)), "b": np.zeros(16), "out": np.zeros(16)}
    opt = RMSProp(params, lr=0.02, alpha=0.9, maximize=True)
    for update in range(updates):
        states, actions, alive = play(params, rng, episodes)
        opt.step(gradients(params, states, actions, alive))
        if update % 10 == 0:
            print(f"after {update:3d} updates the pole stays up {alive.sum(0).mean():5.1f} steps")
    score = float(play(params, rng, 100)[2].sum(0).mean())
    print(f"after {updates:3d} updates the pole stays up {score:5.1f} steps (of at most {LIMIT})")
    return score


if __name__ == "__main__":
    main()
