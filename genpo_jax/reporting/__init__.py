"""Report on runs: one page that says whether they learned, why not, and how to run them again."""
