"""Multi-label classification: covid-19 implies pneumonia, and the focal loss gives hard images more weight."""

import sys

import xrayfast as xf

folder = sys.argv[1] if len(sys.argv) > 1 else "data"
data = xf.open_data(folder, imply="covid-19=pneumonia")
print(data.task, data.counts(), sep="\n")

run = xf.fit(
    data, arch="resnet18", weights="none", unfreeze=True, freeze_epochs=0, epochs=8, size=64,
    loss="focal", gamma=2.0, head_width=(100,),
)  # fmt: skip
interpretation = xf.interpret(run)
print("Subset accuracy", interpretation.summary["overall"]["subset_accuracy"])
print("Images by actual (rows) and predicted label (columns):", interpretation.cooccurrence(), sep="\n")
print(run.report_path)
