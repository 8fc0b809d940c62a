"""The benchmarks' own metrics, equal to their official scorers, each with an interval."""
