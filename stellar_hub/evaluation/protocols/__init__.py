"""The protocols: a frozen dataclass with every choice, and a function that follows it."""
