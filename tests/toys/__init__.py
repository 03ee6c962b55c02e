"""What many tests build on: detectors, datasets and scenes that are small enough for unit tests.

==============  =================================================================================
``detectors``   detectors on a pyramid of three convolutions, and noise images for them
``datasets``    datasets on disk: colored rectangles to train on, a COCO folder to break
``own_data``    data of a user's own, and how the command line on it ends
``sliding``     a detector whose AP is a function of one weight
``batch``       two images that a detector can learn by heart, and its AP on them
``scenes``      objects, priors and predictions for assigners and criteria
``outlines``    annotations with outlines and key points
``train_net``   the command line of ``train_net.py`` with a toy detector and a toy dataset
``fixtures``    the fixtures that all tests see
==============  =================================================================================
"""
