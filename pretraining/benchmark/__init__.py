"""The benchmark: exact scores on known tabular processes, with baselines."""
