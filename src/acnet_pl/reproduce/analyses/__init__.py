"""What is computed on trained networks and shown in a report, one module each: an `ANALYSIS`."""
