"""Instruction data that a teacher writes from words alone: what it is told of pictures and what becomes of it."""
