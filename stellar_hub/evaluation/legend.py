"""What each diagnostic is: its source, its range, and what is good."""

LEGEND: dict[str, dict[str, str]] = {
    "rank of pooled": {
        "what": "effective rank of the pooled features of all images",
        "source": "Roy and Vetterli 2007; Garrido et al. 2023, arXiv 2210.02885",
        "range": "[1, min(N - 1, d)]",
        "good": "high: 1 is collapse",
    },
    "rank of S": {
        "what": "effective rank of the tokens of all images",
        "source": "Roy and Vetterli 2007; Garrido et al. 2023, arXiv 2210.02885",
        "range": "[1, min(N r - 1, d)]",
        "good": "high",
    },
    "rank of S within": {
        "what": "effective rank of one image's tokens, mean over images",
        "source": "Roy and Vetterli 2007",
        "range": "[1, min(r - 1, d)]",
        "good": "high: the tokens of an image differ",
    },
    "alignment": {
        "what": "mean squared distance of two views' unit features",
        "source": "Wang and Isola 2020, arXiv 2005.10242, alpha = 2",
        "range": "[0, 4]",
        "good": "low, where uniformity is low too",
    },
    "uniformity": {
        "what": "log of the mean Gaussian potential of pairs of images' unit features",
        "source": "Wang and Isola 2020, arXiv 2005.10242, t = 2",
        "range": "[-8, 0]",
        "good": "low: about -4 is evenly spread",
    },
    "Vendi across": {
        "what": "Vendi score of pooled features, cosine kernel",
        "source": "Friedman and Dieng 2023, arXiv 2210.02410",
        "range": "[1, min(N, d)]",
        "good": "high: as many different images",
    },
    "Vendi within": {
        "what": "Vendi score of one image's tokens, cosine kernel, mean over images",
        "source": "Friedman and Dieng 2023, arXiv 2210.02410",
        "range": "[1, min(r, d)]",
        "good": "high: as many different tokens",
    },
    "diffusion entropy": {
        "what": "diffusion spectral entropy of pooled features, sigma their median distance",
        "source": "Liao et al. 2023, arXiv 2312.04823, t = 1, natural logarithm",
        "range": "[0, log N]",
        "good": "high, at the same N and the same rule for sigma",
    },
    "stability": {
        "what": "mean cosine of matched tokens of two views",
        "source": "matching of arXiv 2602.01905",
        "range": "[-1, 1]",
        "good": "near 1, and well above stability by chance",
    },
    "stability by chance": {
        "what": "mean cosine of the pairs of tokens of two views that are not matched",
        "source": "the same",
        "range": "[-1, 1]",
        "good": "low",
    },
    "sharpness of L": {
        "what": "1 - entropy of the tokens at a place by log r, mean over places",
        "source": "L of arXiv 2602.01905",
        "range": "[0, 1]",
        "good": "high: each place belongs to few tokens",
    },
    "area of L": {
        "what": "exp of the entropy of a token's map by n, mean over tokens",
        "source": "L of arXiv 2602.01905",
        "range": "[1/n, 1]",
        "good": "near 1/r: tokens share out the image",
    },
    "owning tokens": {
        "what": "share of the tokens that are the strongest at some place",
        "source": "L of arXiv 2602.01905",
        "range": "[1/r, 1]",
        "good": "near 1",
    },
    "prototype entropy": {
        "what": "entropy of how often each prototype is a token's nearest, by log K",
        "source": "Caron et al. 2020, arXiv 2006.09882; Assran et al. 2022, arXiv 2204.07141",
        "range": "[0, 1]",
        "good": "near 1, where there are many more tokens than prototypes",
    },
    "prototypes used": {
        "what": "share of the prototypes that are some token's nearest",
        "source": "the same",
        "range": "(0, 1]",
        "good": "near 1, likewise",
    },
}
