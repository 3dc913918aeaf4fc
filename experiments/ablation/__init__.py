"""The ablation of staged fitting."""
