"""Studies that compare methods, settings and samplers; they run from a clone."""
