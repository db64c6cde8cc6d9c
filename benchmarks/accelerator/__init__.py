"""All measurements of an accelerator, in order of their worth, within the minutes that a machine is available."""
