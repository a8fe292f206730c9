"""What a stage takes of a machine, as arithmetic: no torch, and nothing is launched."""
