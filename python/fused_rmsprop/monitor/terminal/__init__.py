"""A history as curves in a terminal."""
