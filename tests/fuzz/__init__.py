"""Inputs made at random, led by what code they reach: loaders, snapshots, calls; `make fuzz SECONDS=600` runs them."""
