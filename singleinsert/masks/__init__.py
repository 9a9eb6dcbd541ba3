"""The command `python -m singleinsert.masks`: masks for one picture, for a folder of pictures, and their correction."""
