"""Where clusters run: Slurm, Kubernetes, or beside the gateway."""
