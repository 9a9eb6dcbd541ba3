"""Draws the miniature world, trains mini-sd, its judge and its helpers on it. Not part of the package."""
