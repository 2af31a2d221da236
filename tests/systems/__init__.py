"""The real systems that tests, benchmarks and the demo run on, a package for each."""
