"""Held-out scores beside baselines."""
