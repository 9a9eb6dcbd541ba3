"""SID's six biases on the drawn world, where what is entangled is known exactly: see docs/research/biases.md."""
