"""The parts of the benchmark: offline, online, bandit, speed."""
