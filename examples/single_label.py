"""Single-label classification in ten lines: data, training, report."""

import sys

import xrayfast as xf

folder = sys.argv[1] if len(sys.argv) > 1 else "data"
data = xf.open_data(folder, test_fraction=0.15, split_seed=0)
print(data.counts())
run = xf.fit(data, arch="resnet18", weights="none", unfreeze=True, freeze_epochs=0, epochs=8, size=64)
interpretation = xf.interpret(run)
interpretation.print_classification_report()
print(xf.predict(run, folder).head())
print(run.report_path)
