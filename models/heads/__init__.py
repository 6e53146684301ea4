"""Brain scans with exact labels, generated from label maps of real heads: no scan is needed, and none is copied.

    head = generate(read_map(path), seed=7)
    head.image, head.labels

The way of Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining", Medical
Image Analysis 86, 2023, section 3: deform a label map, draw an intensity for each class, add a bias field, blur, resample, add
noise. Contrasts here are those of T1. Half of the heads keep their skull and get random surroundings; the others are stripped
to the brain, more or less closely. ``python -m models.heads`` writes heads to a folder as NIfTI.

The parts, in the order of the work: tissue (classes), shape (deformation), surroundings (what lies outside the brain),
stripping, contrast (intensities), scanner (blur, thick slices, bias, noise); conditions says how good a scan is.
"""

from models.heads.conditions import ANY, USUAL, Conditions
from models.heads.generation import Head, generate
from models.heads.tissue import IGNORED, TISSUES, read_map, tissue_labels

__all__ = ["ANY", "IGNORED", "TISSUES", "USUAL", "Conditions", "Head", "generate", "read_map", "tissue_labels"]
