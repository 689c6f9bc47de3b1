"""Pairs, loss and recipes: where encoders come from."""
