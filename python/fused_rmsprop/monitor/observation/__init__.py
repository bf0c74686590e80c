"""Looks at the steps of an optimizer, takes samples, and makes points of them."""
