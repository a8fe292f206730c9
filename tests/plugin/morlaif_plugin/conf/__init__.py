"""Presets, laid out as those of morlaif are."""
