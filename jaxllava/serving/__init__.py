"""`jaxllava serve`: an OpenAI-compatible endpoint for any checkpoint.

Requests and responses (`protocol`), pictures (`pictures`), answers as they are written (`text`), the thread that owns
the device (`engine`), who may ask (`access`), HTTP (`app`), and the command (`command`).
"""
