"""`jaxllava bench`: what this machine makes of training, prefill, decoding, input and conversion.

With `--against transformers` the same is done by PyTorch, with the same weights, data and threads, in turn.
"""
