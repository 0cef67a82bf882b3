"""Tests, in the folders of what they test."""

import os

# Before torch and numpy are imported, here and in processes that tests start: models of tests are so small that several
# threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
