# %% [markdown]
# # Features and a classifier
#
# This notebook computes features of labelled images with a frozen model, and trains linear classifiers on them. It
# compares the features with raw pixels. The images are handwritten digits of scikit-learn, or those of your own
# folders.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stellar_hub import StellarModel
from stellar_hub.data import open_labelled
from stellar_hub.features import extract_features, open_backbone

FOLDER = None  # a folder of class folders, such as "photos/train" with photos/train/cats/1.jpg; None takes the digits
COUNT = 500  # digits to use: all 1797 take a few times longer

# %% [markdown]
# ## Images and labels
#
# A folder is opened by `open_labelled`, which takes split files and tables too. The digits are arrays of 8 × 8 pixels.

# %%
if FOLDER is not None:
    labelled = open_labelled(FOLDER)
    images, labels, classes = labelled.images, np.array(labelled.labels), labelled.classes
else:
    digits = load_digits()
    images = [Image.fromarray((each * 255 / 16).astype(np.uint8)).convert("RGB") for each in digits.images[:COUNT]]
    labels, classes = digits.target[:COUNT], tuple("0123456789")
print(len(images), "images of", len(classes), "classes")

# %%
if FOLDER is None:
    figure, axes = plt.subplots(1, 10, figsize=(8, 1))
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image)
        axis.axis("off")
    plt.show()

# %% [markdown]
# ## Features
#
# `model.extract` yields batches in the order of the images. `pooled` is the mean of the tokens, `cls` the cls token.
# `open_backbone("pixels")` gives the raw pixels as features, and `open_backbone("vit_tiny_patch16_224:random")` would
# give those of an untrained network of timm.

# %%
model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
batches = list(model.extract(images, outputs=["pooled", "cls"], batch_size=50, num_workers=0))
features = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in ("pooled", "cls")}
pixels = list(extract_features(open_backbone("pixels"), images, ["pixels"], num_workers=0))
features["pixels"] = torch.cat([batch["pixels"] for batch in pixels]).numpy()
{name: values.shape for name, values in features.items()}

# %% [markdown]
# ## Classifiers
#
# A logistic regression is trained on three quarters of the images and tested on the others. Stellar-tiny has never
# seen a digit. It was trained on drawn scenes and photographs, so that raw pixels are hard to beat here.

# %%
rows = np.arange(len(labels))
train, test = train_test_split(rows, test_size=0.25, random_state=0, stratify=labels)
classifiers = {}
for name, values in features.items():
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))
    classifiers[name] = classifier.fit(values[train], labels[train])
    print(f"{name:>6}: {classifier.score(values[test], labels[test]):.1%} of {len(test)} test images are right")

# %% [markdown]
# ## What is mistaken for what

# %%
predicted = classifiers["pooled"].predict(features["pooled"][test])
figure, axis = plt.subplots(figsize=(5, 5))
ConfusionMatrixDisplay.from_predictions(
    labels[test], predicted, display_labels=classes, ax=axis, colorbar=False, cmap="Blues"
)
axis.set_title("pooled features")
plt.show()

# %% [markdown]
# For numbers to report, use `stellar-hub eval knn` and `stellar-hub eval linear`: they choose settings on a part of
# train, use test once, and write down every choice.
