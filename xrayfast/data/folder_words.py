"""Words in the names of folders, and what they say about the images inside.

Words that cells or files have too are elsewhere: for splits in `splits.words`, for images without a label in
`labels.words`, for masks, maps and smaller copies in `images.names`.
"""

from __future__ import annotations

import re

IMAGE_WORD = re.compile(
    r"(image|img|film|picture|photo|radiograph|xray|cxr|png|jpe?g|tiff?|bmp|dicom|dcm|file|fold|batch|chunk)s?|imagest[rs]"
)
"""Words for images in the name of a folder."""

AUGMENTED = re.compile(r"aug(mented|mentations?)?|synthetic|generated|gans?|flipped|mirrored|rotated|noisy")
"""Words in the name of a folder of augmented or generated images."""

ORIGINAL = re.compile(r"originals?|orig|raw")
"""Names of a folder of originals beside a folder of augmented images."""

CLASSES = re.compile(
    r"normal|abnormal|healthy|control|controls|sick|disease|diseased|positive|negative|pos|"
    r"neg|benign|malignant|cancer|infected|uninfected|covid|sars|cov|ncov|pneumonia|tb|tuberculosis|"
    r"tuberculous|atelectasis|cardiomegaly|consolidation|edema|oedema|effusion|emphysema|fibrosis|hernia|"
    r"infiltration|mass|nodule|pneumothorax|fracture|thickening|opacity|lesion|enlarged|cardiomediastinum|"
    r"infiltrate|ards|silicosis|asthma|copd"
)
"""A class folder's name has at least one of these words; its other words are in `BESIDE_CLASS`."""

BESIDE_CLASS = re.compile(
    r"no|non|not|and|with|other|lung|pleural|viral|virus|bacterial|bacteria|fungal|mild|moderate|severe|acute|"
    r"left|right|case|cases|patient|patients|cls|class"
)

GROUPS = re.compile(
    r"original|originals|orig|raw|aug|augmented|augmentation|synthetic|generated|processed|preprocessed|"
    r"enhanced|clahe|resized|cropped|part|site|hospital|center|centre|clinic|source|origin|dataset|data|set|"
    r"group|study|studies|series|session|visit|exam|examination|scan|accession|patient|patients|subject|"
    r"subjects|person|case|pat|sub|pt|id|no|ap|pa|lateral|lat|frontal|portable|supine|erect|view|male|female|m|"
    r"f|left|right|adult|adults|child|children|pediatric|paediatric|inpatient|outpatient|year|device|scanner|"
    r"vendor|p|s|v|x"
)
"""Words in the names of folders that group images other than by class, in addition to those of `IMAGE_WORD`."""

BESIDE_SPLIT = re.compile(
    r"x|rays?|data(sets?)?|sets?|splits?|stage|v|version|chest|jeu|ensemble|conjunto|insieme|de|di|d|daten|external"
)
"""Words that a folder name may have besides that of its split, in addition to those of `IMAGE_WORD`."""

FOLD = re.compile(r"(cv|k)?[-_ ]?(folds?|split|run|rep(eat)?|cv)[-_ ]?(\d+|(?<=[-_ ])[a-j])", re.IGNORECASE)
"""The name of a folder with one fold of a cross-validation."""

LEFT_OUT = re.compile(
    r"(to)?(exclude[d]?|discard(ed)?|delete[d]?|reject(ed)?|ignore[d]?|skip(ped)?|trash)|junk|unsorted"
)
"""Folders whose images are not to be used."""

DOUBTFUL = re.compile(
    r"misc(ellaneous)?|back-?ups?|old|new(folder)?|untitled(folder)?|neuerordner|nouveaudossier|nuevacarpeta|"
    r"nuovacartella|novapasta|nowyfolder|\u65b0\u5efa\u6587\u4ef6\u5939|te?mp|temporary|samples?|examples?|inbox|downloads?|archived?|bad|"
    r"duplicates?|copies|blurry|corrupt(ed)?|broken|(low|poor|bad)-?quality|small|montages?|figures?|plots?|results?|"
    r"reports?|pycache|rois?|crops?|patch(es)?|tiles?|(to|re)?-?(check|review)|to-?do|pending"
)
"""Folders whose images may be of any class."""


def split_words(name: str) -> list[str]:
    """Return the words of a name in lower case; digits, other characters and changes of case separate them.

    >>> split_words("leftMask_001"), split_words("MCUCXR-0001.png")
    (['left', 'mask'], ['mcucxr', 'png'])
    """
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
