"""What a fit runs on: examples in batches, processes, devices, threads; checks before the first step."""
