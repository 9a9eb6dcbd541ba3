"""What changes the weights of the base model; every adapter injects and ejects without a trace."""
