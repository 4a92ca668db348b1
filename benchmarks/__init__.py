"""Side-by-side measurements that print JSON; `python -m benchmarks.NAME --help` describes each."""
