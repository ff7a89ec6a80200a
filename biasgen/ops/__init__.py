"""Public stateless operations, one file each: arrays or tensors in, an answer of the same kind out.

Every op does the same four things in this order:

1. It checks its arguments (_rows.py; _evidence.py for trees, whose grammar, tree.py, was checked
   when it was made). An error is a ValueError or TypeError that begins with the name of the
   argument.
2. It prepares the reference side. _prepared.py finds the distinct rows, which are all that is
   searched. A TrainingSet holds such a Prepared, so that it is made once. _streamed.py cuts sets
   that are larger than memory into blocks that are prepared when they are read. _views.py says what
   a model has seen of a row, such as its mirror image.
3. It chooses a backend (_dispatch.py) and calls it with tensors. What a backend gets and returns is
   written in biasgen/backends/_contract.py.
4. It makes the answer: equal rows are counted in full again, views and blocks are merged
   (_nearest.py), roots are taken. NumPy is returned for NumPy, a tensor on the query's device for a
   tensor.

Searches: knn, nearest_credit, counts (range_count, distance_histogram), pairwise, paired. They give
the same bits whatever the backend. The denoiser of the training rows: empirical_denoise. Trees:
tree_posterior, tree_posterior_sample, tree_map. Random numbers: philox. _library.py registers the
denoiser and the posteriors with torch, for torch.compile and gradients.

An op keeps nothing between calls. What is worth keeping lives in the objects that users hold
(TrainingSet, TreeGrammar, the denoisers).
"""
