"""The language of prompts: what is a placeholder, what is text, and how much one may compute."""
