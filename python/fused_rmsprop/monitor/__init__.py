"""Watches a training: records gradients, updates and learning rates, and says what is wrong."""

from fused_rmsprop.introspection import show_public
from fused_rmsprop.monitor.history import History, Leaf, Series
from fused_rmsprop.monitor.monitor import Monitor
from fused_rmsprop.monitor.report import Finding, Report

__all__ = ["Finding", "History", "Leaf", "Monitor", "Report", "Series"]

show_public(__name__)
