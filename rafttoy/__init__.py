"""Measures and predicts the ceiling of a Raft proposal pipeline: one pipeline, run for real and in a calibrated simulation."""

from __future__ import annotations

__version__ = "0.1.0"
