"""`./run demo [slurm] [--check]`: a hub to try out, and the round through it that checks itself."""
