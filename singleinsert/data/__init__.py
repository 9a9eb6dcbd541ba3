"""Pictures, masks and prompts, as they come from the user."""
