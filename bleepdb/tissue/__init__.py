"""Sections and slides: readers, tiles, mask."""
