"""The `protrna` command. Only this package catches errors, prints and exits.

Nothing here imports TensorFlow, NumPy, h5py, pyarrow or Biopython at module level: `--help` and usage errors
must answer at once.
"""
