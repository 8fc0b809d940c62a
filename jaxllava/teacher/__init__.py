"""Teachers and judges: models that are asked over the network, or here, for instruction data and for reviews."""
