"""A history as a figure, as a live figure in notebooks, and as HTML."""
