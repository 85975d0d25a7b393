"""The `protrna` command: one file a command, and the only place that catches errors, prints and exits.

Nothing here imports TensorFlow, NumPy, h5py, pyarrow or Biopython at the top: `--help` and usage errors
must answer at once.
"""
