"""What fastai alone does with chest radiographs and their labels, and what xrayfast does: each row is tried out here.

python examples/beside_fastai.py        # prints README's table; about half a minute on two CPU cores
"""

import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import torch
from fastai.vision import all as fv
from PIL import Image, UnidentifiedImageError
from torch import nn
from torchvision.models import efficientnet_b0, resnet18, vgg16

import xrayfast as xf
from xrayfast.data.images.reader import read
from xrayfast.learning.model.network import build_network

SMALL = {"weights": "none", "size": 32, "batch_size": 8, "epochs": 1, "device": "cpu", "workers": 0, "resamples": 200}
IMAGES: list[str] = []
"""24 synthetic images, relative to the working folder; filled by `main`."""


def sixteen_bits(work: Path) -> tuple[str, str]:
    """A 12-bit ramp in a 16-bit PNG: how much of it is read as white?"""
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(work / "ramp.png")
    white = [np.mean(np.asarray(pixels) == 255) for pixels in (fv.PILImage.create(work / "ramp.png"),
                                                              read(work / "ramp.png").pixels)]  # fmt: skip
    return tuple(f"{share:.1%} of the pixels" for share in white)


def inverted_dicom(work: Path) -> tuple[str, str]:
    """MONOCHROME1, where 0 is the brightest value: what does a pixel of 0 become?"""
    file = pydicom.Dataset()
    file.update({"SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation, "SOPInstanceUID": "1.2.3"})
    file.update({"Rows": 8, "Columns": 8, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 1})
    file.update({"PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME1"})
    file.PixelData = np.arange(64, dtype=np.uint8).tobytes()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.save_as(work / "m1.dcm", enforce_file_format=True)
    try:
        plain = shade(np.asarray(fv.PILImage.create(work / "m1.dcm"))[0, 0, 0])
    except UnidentifiedImageError:  # fastai.medical.imaging reads DICOM, with kornia and scikit-image
        plain = "not read without further packages"
    return plain, shade(read(work / "m1.dcm").pixels[0, 0])


def shade(value: int) -> str:
    return "black" if value < 128 else "white"


def label_columns(work: Path) -> tuple[str, str]:
    """Columns of 0 and 1: which labels are found?"""
    pd.DataFrame({"image": IMAGES, "Effusion": [0, 1] * 12, "Mass": [1, 1, 0] * 8}).to_csv(work / "01.csv", index=False)
    columns = ["Effusion", "Mass"]
    dls = fv.ImageDataLoaders.from_df(pd.read_csv(work / "01.csv"), work, label_col=columns, item_tfms=fv.Resize(32))
    return str([int(label) for label in dls.vocab]), str(
        list(xf.open_data(work, labels=work / "01.csv", label_col=columns).labels)
    )


def blank_cells(work: Path) -> tuple[str, str]:
    """A blank cell in a column of 0 and 1: what is the target of the loss?"""
    pd.DataFrame({"image": IMAGES, "Effusion": [0, 1, None] * 8}).to_csv(work / "blank.csv", index=False)
    table = pd.read_csv(work / "blank.csv")
    block = fv.DataBlock(
        (fv.ImageBlock, fv.MultiCategoryBlock(encoded=True, vocab=["Effusion"])), item_tfms=fv.Resize(32),
        get_x=lambda row: work / row["image"], get_y=lambda row: [row["Effusion"]], splitter=fv.RandomSplitter(0.2, 0),
    )  # fmt: skip
    targets = torch.cat([y for _, y in block.dataloaders(table, bs=4).train])
    data = xf.open_data(work, labels=work / "blank.csv", label_col="Effusion")
    masked = int((data.truth < 0).sum())
    return "NaN" if targets.isnan().any() else "a number", f"masked ({masked} of 24)"


def corrupt_file(work: Path) -> tuple[str, str]:
    """A truncated PNG: does the error name the file?"""
    whole = (work / IMAGES[0]).read_bytes()
    (work / "cut.png").write_bytes(whole[: len(whole) // 2])
    found = []
    for load in (fv.PILImage.create, read):
        try:
            load(work / "cut.png")
        except Exception as error:
            found.append("yes" if "cut.png" in str(error) else f"no: {error}".split(" (")[0])
    return tuple(found)


def patients(work: Path) -> tuple[str, str]:
    """Of 200 images of 50 patients: how many patients are in both training and validation?"""
    owner = np.arange(200) % 50
    train, valid = fv.RandomSplitter(0.2, seed=0)(range(200))
    xf.synth(work / "200", images=200, size=32, seed=1)
    table = pd.read_csv(work / "200" / "labels.csv").assign(patient=owner)
    table.to_csv(work / "200" / "labels.csv", index=False)
    rows = xf.open_data(work / "200", labels=work / "200" / "labels.csv").table
    ours = [set(rows.loc[rows["split"] == split, "patient"]) for split in ("train", "valid")]
    return str(len(set(owner[train]) & set(owner[valid]))), str(len(ours[0] & ours[1]))


def mirrored(work: Path) -> tuple[str, str]:
    """Default augmentation of 64 images with the heart on one side: how many are mirrored?"""
    for split in ("train", "valid"):
        for label in ("a", "b"):
            folder = work / "sides" / split / label
            folder.mkdir(parents=True)
            for i in range(32 if split == "train" else 4):
                pixels = np.zeros((64, 64), np.uint8)
                pixels[16:48, 40:56] = 160 + i
                Image.fromarray(pixels).save(folder / f"{split}{label}{i}.png")
    torch.manual_seed(0)
    plain = fv.ImageDataLoaders.from_folder(
        work / "sides", train="train", valid="valid", bs=64, item_tfms=fv.Resize(64), batch_tfms=fv.aug_transforms()
    )
    ours = xf.dataloaders(xf.open_data(work / "sides"), size=64, batch_size=64)
    found = []
    for dls in (plain, ours):
        batch = torch.Tensor(dls.train.one_batch()[0]).mean(1)
        share = float((batch[..., :32].mean((1, 2)) > batch[..., 32:].mean((1, 2))).float().mean())
        found.append("none" if share == 0 else "about half" if 0.3 < share < 0.7 else f"{share:.0%}")
    return tuple(found)


def frozen_batch_norm(work: Path) -> tuple[str, str]:
    """The frozen phase of resnet18: how many tensors of the backbone are trained?"""
    plain = fv.vision_learner(folder_dls(work), resnet18, pretrained=False)
    plain.freeze()
    dls = xf.dataloaders(xf.open_data(work / "images"), size=32, batch_size=8)
    ours = xf.learner(dls, arch="resnet18", weights="none")
    ours.freeze()
    return tuple(str(sum(p.requires_grad for p in learn.model[0].parameters())) for learn in (plain, ours))


def normalized(work: Path) -> tuple[str, str]:
    """efficientnet_b0 with ImageNet's weights: are images normalized as it was trained?"""
    plain = "stats" in fv.model_meta.get(efficientnet_b0, {})  # what vision_learner normalizes with
    ours = xf.dataloaders(xf.open_data(work / "images"), size=32, batch_size=8)
    low = float(torch.Tensor(ours.valid.one_batch()[0]).min())
    return "yes" if plain else "no", "yes" if low < -1 else "no"


def own_classifier(work: Path) -> tuple[str, str]:
    """How many hidden layers of vgg16's own classifier are in the network?"""
    plain = fv.create_vision_model(vgg16, 2, pretrained=False)
    ours = build_network("vgg16", 2, head="classifier")
    return tuple(str(sum(isinstance(layer, nn.Linear) and layer.out_features == 4096 for layer in network.modules()))
                 for network in (plain, ours))  # fmt: skip


def folder_dls(work: Path) -> fv.DataLoaders:
    return fv.ImageDataLoaders.from_folder(work / "images", valid_pct=0.2, seed=0, item_tfms=fv.Resize(32), bs=8)


def confusion(work: Path) -> tuple[str, str]:
    """Three labels per image: what does `confusion_matrix()` of the interpretation give?"""
    table = pd.read_csv(work / "multi" / "labels.csv")
    plain = fv.ImageDataLoaders.from_df(
        table, work / "multi", label_col="labels", label_delim="|", item_tfms=fv.Resize(32), bs=8, seed=0
    )
    learn = fv.vision_learner(plain, resnet18, pretrained=False)
    with learn.no_bar():
        shape = fv.ClassificationInterpretation.from_learner(learn).confusion_matrix().shape
    data = xf.open_data(work / "multi", labels=work / "multi" / "labels.csv")
    run = xf.fit(data, runs=work / "runs", name="multi", **SMALL)
    ours = xf.interpret(run).confusion_matrix().shape
    return f"one {shape[0]}×{shape[1]} table for all labels", f"one {ours[1]}×{ours[2]} table per label ({ours[0]})"


def unfrozen_one_by_one(work: Path) -> tuple[str, str]:
    """How many parts of resnet18's backbone can be unfrozen one after the other?"""
    plain = fv.vision_learner(folder_dls(work), resnet18, pretrained=False)
    plain.create_opt()
    dls = xf.dataloaders(xf.open_data(work / "images"), size=32, batch_size=8)
    ours = xf.learner(dls, arch="resnet18", weights="none", groups="layers")
    ours.create_opt()
    return tuple(str(len(learn.opt.param_lists) - 1) for learn in (plain, ours))


def training_metrics(work: Path) -> tuple[str, str]:
    """How many metrics of the training split does an epoch record, besides the loss?"""
    learn = fv.vision_learner(folder_dls(work), resnet18, pretrained=False, metrics=[fv.accuracy])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    ours = xf.Run(work / "runs" / "multi").history.columns
    return tuple(
        str(sum(name.startswith("train_") and name != "train_loss" for name in names))
        for names in (learn.recorder.metric_names, ours)
    )


def saved_model(work: Path) -> tuple[str, str]:
    """What a saved model is: can loading it run code?"""
    learn = fv.vision_learner(folder_dls(work), resnet18, pretrained=False)
    learn.path = work
    learn.export("plain.pkl")
    pickled = any(name.endswith(".pkl") for name in zipfile.ZipFile(work / "plain.pkl").namelist())
    files = {file.suffix for file in (work / "runs" / "multi").rglob("*") if file.is_file()}
    ours = "yes" if files & {".pkl", ".pth", ".pt"} else "no: safetensors, JSON, CSV"
    return "yes: a pickle" if pickled else "no", ours


ROWS = {
    "12-bit ramp in a 16-bit PNG: read as white": sixteen_bits,
    "MONOCHROME1 DICOM: a pixel of 0, the brightest, is read as": inverted_dicom,
    "label columns `Effusion`, `Mass` of 0 and 1: labels found": label_columns,
    "a blank label cell: target of the loss": blank_cells,
    "a truncated file: the error names it": corrupt_file,
    "200 images of 50 patients: patients in both training and validation": patients,
    "default augmentation: mirrored images": mirrored,
    "frozen phase of resnet18: tensors of the backbone that are trained": frozen_batch_norm,
    "efficientnet_b0: images are normalized as ImageNet's weights expect": normalized,
    "vgg16: pretrained hidden layers of its own classifier that are kept": own_classifier,
    "resnet18: parts of the backbone that can be unfrozen one after the other": unfrozen_one_by_one,
    "three labels per image: `confusion_matrix()`": confusion,
    "three labels per image: metrics of the training split per epoch, besides the loss": training_metrics,
    "loading a saved model can run code": saved_model,
}


def main() -> None:
    warnings.simplefilter("ignore")
    print("| | fastai alone | xrayfast |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ.setdefault("XRAYFAST_CACHE", str(work / "cache"))
        for name, multi in (("images", False), ("multi", True)):
            xf.synth(work / name, images=24, size=64, seed=3, multi_label=multi)
        IMAGES.extend(str(file.relative_to(work)) for file in sorted((work / "images").rglob("*.png")))
        for title, show in ROWS.items():
            plain, ours = show(work)
            print(f"| {title} | {plain} | {ours} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
