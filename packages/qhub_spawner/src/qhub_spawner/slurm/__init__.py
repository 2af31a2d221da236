"""The Slurm backend: pure parsers and rules beside one door that talks to Slurm."""
