"""`./run demo [slurm|kubernetes|both] [--check]`: a hub to try out, and a round that checks it."""
