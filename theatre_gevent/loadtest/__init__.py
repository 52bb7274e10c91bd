"""The load test behind `loadtest.py`: a host kept busy by workers that address random actors.

cli        the command: options in, exit code out
options    flags, profiles, durations and sizes
console    what the command prints, where it can
files      the files that a run writes
run        one host's part of a test: a spec in, a plain dict out
workload   the actor, the workers, and what they count
histogram  latencies, mergeable over hosts
monitor    memory, CPU and garbage collection of the process
result     the shape of what a part returns, and how parts become one
report     what is printed and written
profiling  `-cpuprofile` and `-memprofile`
"""
