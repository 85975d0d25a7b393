"""A notebook that embeds, reads, projects and plots the sample, executed as Jupyter does."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

CELLS = [
    """from Bio import SeqIO
from protrna_cli import EmbedOptions, embed, embed_fasta, load_model, read_embeddings

model = load_model("demo")
with open("sample_data/rna_families.fa") as file:
    records = list(SeqIO.parse(file, "fasta"))
vectors = embed(records, model, progress=True)
vectors.shape""",
    """embed_fasta("sample_data/rna_families.fa", "families.npy", EmbedOptions(model="demo"))
families = read_embeddings("families.npy")
bool((families.vectors == vectors).all())""",
    """import re
from sklearn.decomposition import PCA

points = PCA(2, random_state=0).fit_transform(families.vectors)
names = [re.search(r"family=(\\S+)", text)[1] for text in families.columns["description"].to_pylist()]
points.shape""",
    """%matplotlib inline
import matplotlib.pyplot as plt

figure, axes = plt.subplots()
for name in sorted(set(names)):
    of_family = [point for point, each in zip(points, names) if each == name]
    axes.scatter(*zip(*of_family), label=name)
axes.legend(fontsize=6)
figure.savefig("families.png")""",
]


@pytest.mark.slow
def test_a_notebook_embeds_reads_projects_and_plots(tmp_path: Path) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    executed = client.execute()
    said = [output["text"] for cell in executed.cells for output in cell.outputs if "name" in output]
    assert said == []  # on stdout or stderr, by us or by TensorFlow
    results = [
        output["data"]["text/plain"]
        for cell in executed.cells
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert results == ["(46, 320)", "True", "(46, 2)"]
    widgets = executed.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    [bar] = [widget["state"] for widget in widgets if widget["model_name"] == "FloatProgressModel"]
    assert (bar["value"], bar["max"], bar["bar_style"]) == (7146.0, 7146.0, "success")
    assert (tmp_path / "families.png").read_bytes()[:4] == b"\x89PNG"
