"""The application that monai_deploy.py measures: it runs in the Python environment of the MONAI Deploy App SDK.

    PEER_PYTHON benchmarks/monai_deploy_app.py FOLDER 2x224

The graph is that of the SDK's example of a classifier (`breast_density_classifier_app`): its DICOM loader, series
selector, conversion to a volume and writer of a text SR, and before the writer DenseNet121 of MONAI as TorchScript,
which the SDK loads. `2x224` classifies every slice, at 224 x 224 pixels, `3x96` the volume, at 96 x 96 x 96 voxels; the
weights are random, which does not change the time. Reports are written to FOLDER.

Holoscan runs the graph once, on one thread. Each line of standard input is the folder of a series; the answer is a line
of JSON on standard output: the seconds of each stage.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.deploy.core import Application, Operator, OperatorSpec
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    DICOMTextSRWriterOperator,
    EquipmentInfo,
    ModelInfo,
)
from monai.networks.nets import DenseNet121
from monai.transforms import Compose, EnsureChannelFirst, EnsureType, Resize, ScaleIntensity

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
BATCH = 16
RULES = json.dumps({"selections": [{"name": "MR series", "conditions": {"Modality": "(?i)MR"}}]})


class Series:
    """When the stages of the series in the graph began and ended; there is never more than one."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def mark(self) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> dict[str, float]:
        self.mark()
        begin, loaded, classified, written = self.times
        self.times = []
        return {"loading": loaded - begin, "network": classified - loaded, "report": written - classified}


class Loader(DICOMDataLoaderOperator):
    """The SDK's loader; once a series is done, it takes the folder of the next from standard input."""

    def __init__(self, application: Application, series: Series) -> None:
        self.series = series
        super().__init__(application, name="loader")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        if self.series.times:
            return
        line = sys.stdin.readline()
        if not line:
            self.stop_execution()
            return
        self.input_path = Path(line.rstrip("\n"))
        self.series.mark()
        super().compute(op_input, op_output, context)


class Classifier(Operator):
    """Mean probability of each class over the slices or of the volume, as text."""

    def __init__(self, application: Application, series: Series, network: Any, dimensions: int, size: int) -> None:
        self.series, self.network, self.dimensions = series, network, dimensions
        self.transform = Compose([
            EnsureChannelFirst(channel_dim="no_channel"), ScaleIntensity(), Resize([size] * dimensions), EnsureType(),
        ])  # fmt: skip
        super().__init__(application, name="classifier")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("result_text")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self.series.mark()
        volume = op_input.receive("image").asnumpy()  # [slices, rows, columns]
        images = Dataset(list(volume) if self.dimensions == 2 else [volume], self.transform)
        with torch.no_grad():
            logits = [self.network(batch.float()) for batch in DataLoader(images, batch_size=BATCH)]
        probabilities = torch.cat(logits).softmax(dim=1).mean(dim=0).tolist()
        text = ", ".join(f"{name} {share:.3f}" for name, share in zip(CLASSES, probabilities, strict=True))
        op_output.emit(text, "result_text")
        self.series.mark()


class Writer(DICOMTextSRWriterOperator):
    """The SDK's writer, which reports that the series is done."""

    def __init__(self, application: Application, series: Series, folder: Path, answers: Any) -> None:
        self.series, self.answers = series, answers
        super().__init__(
            application,
            name="writer",
            output_folder=folder,
            model_info=ModelInfo("benchmark", "DenseNet121", "1", "1"),
            equipment_info=EquipmentInfo(),
        )

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        super().compute(op_input, op_output, context)
        print(json.dumps(self.series.end()), file=self.answers, flush=True)


class App(Application):
    def __init__(self, folder: Path, dimensions: int, size: int, answers: Any) -> None:
        self.folder, self.dimensions, self.size, self.answers = folder, dimensions, size, answers
        super().__init__(
            [
                sys.executable,
                *sys.argv[:1],
                "--model",
                str(folder / "model.ts"),
                "--output",
                str(folder),
                "--log-level",
                "WARN",
            ]
        )

    def compose(self) -> None:
        series, network = Series(), Application.init_app_context(self.argv).models.get("")
        loader = Loader(self, series)
        selector = DICOMSeriesSelectorOperator(self, rules=RULES, name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        classifier = Classifier(self, series, network, self.dimensions, self.size)
        writer = Writer(self, series, self.folder, self.answers)
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, classifier, {("image", "image")})
        self.add_flow(classifier, writer, {("result_text", "text")})
        self.add_flow(selector, writer, {("study_selected_series_list", "study_selected_series_list")})


def main() -> None:
    folder, (dimensions, size) = Path(sys.argv[1]), map(int, sys.argv[2].split("x"))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = DenseNet121(spatial_dims=dimensions, in_channels=1, out_channels=len(CLASSES))
    torch.jit.script(network.eval()).save(folder / "model.ts")
    App(folder, dimensions, size, answers).run()


if __name__ == "__main__":
    main()
