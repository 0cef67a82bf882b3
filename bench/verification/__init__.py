"""Everything that has to be seen on a machine of one's own, step by step, in one report."""
