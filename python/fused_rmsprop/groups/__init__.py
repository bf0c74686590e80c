"""Parameter groups: arrays that share options, their state, and how users see them."""
