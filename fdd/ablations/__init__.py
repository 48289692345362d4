"""The paper's tables, run and compared: see ``tools/run_ablations.py``."""
