"""Report on runs: one page with the verdict, curves, diagnostics, faults and settings."""
