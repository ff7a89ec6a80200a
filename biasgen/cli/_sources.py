"""What the verbs take as rows, in words."""

SOURCES = (
    "Rows: .npy, .npz, .pt, .pth, .safetensors, a .biasgen file of TrainingSet.save, or a folder of images of one size. "
    "Where a file holds several arrays name one: samples.npz:images."
)
