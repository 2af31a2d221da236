"""Benchmarks beside a rival, in one run on one machine: `./run bench NAME`.

Each prints what it does, a table, and as its last line one line of JSON.
"""
