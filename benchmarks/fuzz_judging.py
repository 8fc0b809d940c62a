from benchmarks.fuzz_kind import Kind
KINDS: dict[str, Kind] = {}
