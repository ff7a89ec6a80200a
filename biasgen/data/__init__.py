"""Where rows come from: arrays, files, training sets."""
