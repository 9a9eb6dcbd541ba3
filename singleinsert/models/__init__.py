"""The base model: loading it, its noise schedule, its text encoder with concepts written in, drawing from it."""
