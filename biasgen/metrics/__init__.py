"""Numbers about a generative model, one file each: neighbours in, Result out."""
