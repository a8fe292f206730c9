"""Sweep presets, found by Hydra as pkg://morlaif.sweeps."""
