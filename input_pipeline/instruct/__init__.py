"""Instruction data that a teacher writes from words alone: what it is told of a picture, and what becomes of its answers."""
